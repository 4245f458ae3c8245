"""Which grants a charge is taken from: lowest priority number first, then what expires soonest, then the oldest."""

from __future__ import annotations

# The order in which grants burn; `ix_credit_grants_open` serves it. Ids are of version 7: the oldest is the smallest.
ORDER = "g.priority, g.expires_at NULLS LAST, g.id"


def burn(charges: str) -> str:
    """The statement that takes charges from the open grants, where `charges` is a relation (user_id, credits).

    `upto` is what could be taken from the grants up to and including this one; what the grants before it cannot cover
    falls on it, as far as it reaches. What no grant covers is the account's debt, which shows in its balance alone.
    Only for a caller who holds the row locks of these accounts in `user_credits`.
    """
    return f"""
        WITH open AS (
             SELECT g.id, g.remaining, c.credits,
                    sum(g.remaining) OVER (PARTITION BY g.user_id ORDER BY {ORDER}) AS upto
               FROM credit_grants g JOIN {charges} c ON c.user_id = g.user_id
              WHERE g.remaining > 0 AND c.credits > 0)
        UPDATE credit_grants g
           SET remaining = g.remaining - least(open.remaining, open.credits - (open.upto - open.remaining)),
               updated_at = now()
          FROM open
         WHERE g.id = open.id AND open.upto - open.remaining < open.credits
    """  # noqa: S608 - both parts are constants of ours
