"""Who may have the credits of a free plan: a person once a period, whatever accounts the person opens.

Accounts of one person have a digest in common (`users.persons`, `policies.access.persons`), also accounts that were
erased. Who has proved to read a mailbox answers only for accounts that proved it too: anyone can register a stranger's
address. An account whose address is not verified is nobody's yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from policies.billing.periods import BillingPeriod


class Withheld(StrEnum):
    """Why a free plan gives no credits."""

    UNVERIFIED = "unverified"
    SAME_PERSON = "same_person"


@dataclass(frozen=True, slots=True)
class FreeCredits:
    """`running` is the period of an ended free subscription of the person, whose credits are given already."""

    running: BillingPeriod | None
    withheld: Withheld | None


async def find(connection: AsyncConnection, user_id: UUID, *, now: datetime, requires_verified: bool) -> FreeCredits:
    """What a free plan of the user gives. Until the transaction ends nobody else decides for the same person."""
    await connection.execute(_LOCK_PERSON, {"user_id": user_id})
    row = (await connection.execute(_FIND, {"user_id": user_id, "now": now})).one()
    running = None if row.current_period_end is None else BillingPeriod(*row[:3])
    if requires_verified and not row.is_verified:
        return FreeCredits(running, Withheld.UNVERIFIED)
    return FreeCredits(running, Withheld.SAME_PERSON if row.has_other else None)


async def had_trial(connection: AsyncConnection, user_id: UUID, *, but_for: UUID | None = None) -> bool:
    """Whether the person has used the only trial, with this account or another; `but_for` is a subscription.

    Until the transaction ends nobody else decides for the same person.
    """
    await connection.execute(_LOCK_PERSON, {"user_id": user_id})
    return bool(await connection.scalar(_HAD_TRIAL, {"user_id": user_id, "but_for": but_for}))


# The account itself, and those that share a mailbox with it: one that it proved, if they did too, or one that it names.
OF_PERSON = """
    SELECT CAST(:user_id AS uuid)
     UNION
    SELECT id FROM users
     WHERE persons && (SELECT proven_persons FROM users WHERE id = :user_id)
       AND proven_persons && (SELECT proven_persons FROM users WHERE id = :user_id)
     UNION
    SELECT id FROM users
     WHERE persons && (SELECT ARRAY(SELECT unnest(persons) EXCEPT SELECT unnest(proven_persons))
                         FROM users WHERE id = :user_id)
"""
_LOCK_PERSON = text("""
    SELECT pg_advisory_xact_lock(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint)
      FROM (SELECT unnest(persons) AS digest FROM users WHERE id = :user_id ORDER BY 1) ordered
""")
# Tiers price a plan whose own price is 0.
_IS_FREE = "p.price = 0 AND p.pricing_model IN ('flat', 'per_seat')"
_FIND = text(f"""
    SELECT ended.period_anchor, ended.current_period_start, ended.current_period_end,
           me.email_verified_at IS NOT NULL AS is_verified,
           EXISTS (SELECT FROM subscriptions s JOIN subscription_plans p ON p.id = s.plan_id
                    WHERE s.user_id <> me.id AND s.user_id IN ({OF_PERSON}) AND {_IS_FREE}
                      AND s.status IN ('trialing', 'active', 'past_due', 'paused') AND s.credits_withheld IS NULL
                  ) AS has_other
      FROM users me
      LEFT JOIN LATERAL (
           SELECT s.period_anchor, s.current_period_start, s.current_period_end
             FROM subscriptions s JOIN subscription_plans p ON p.id = s.plan_id
            WHERE s.user_id IN ({OF_PERSON}) AND s.status IN ('canceled', 'expired') AND {_IS_FREE}
              AND s.current_period_end > :now AND s.credits_withheld IS NULL
            ORDER BY s.current_period_end DESC LIMIT 1) ended ON true
     WHERE me.id = :user_id
""")  # noqa: S608 - made of constants
_HAD_TRIAL = text(f"""
    SELECT EXISTS (SELECT FROM subscriptions
                    WHERE trial_start IS NOT NULL AND user_id IN ({OF_PERSON})
                      AND id IS DISTINCT FROM CAST(:but_for AS uuid))
""")  # noqa: S608 - made of constants
