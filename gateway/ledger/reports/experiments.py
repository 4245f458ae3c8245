"""What the variants of an experiment brought, from its start to its end or to now.

Its accounts are those that had paid nothing before the start, whether they have come since or earlier: nobody else's
first payment can depend on what is offered. PostgreSQL shares them out by the hash of `policies.experiments`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from policies.experiments.assignment import Arms, bounds
from policies.experiments.comparison import Outcome, Sums

# `enrolled`: the accounts with their variants, from 0. The first 13 hexadecimal digits of a digest are 52 bits.
_ENROLLED = """
    WITH enrolled AS MATERIALIZED (
         SELECT u.id, u.created_at >= :since AS is_new,
                width_bucket(('x' || left(encode(sha256(convert_to(:salt || ':' || u.id, 'UTF8')), 'hex'), 13))
                             ::bit(52)::bigint, :bounds) AS variant
           FROM users u
          WHERE u.created_at < :until AND u.role = 'user'
            AND NOT EXISTS (SELECT FROM payment_transactions p
                             WHERE p.user_id = u.id AND revenue_of(p) > 0
                               AND coalesce(p.processed_at, p.created_at) < :since)),
         money AS MATERIALIZED (
         SELECT p.user_id, p.currency, sum(revenue_of(p)) AS amount, bool_or(revenue_of(p) > 0) AS has_paid
           FROM payment_transactions p
          WHERE coalesce(p.processed_at, p.created_at) >= :since AND coalesce(p.processed_at, p.created_at) < :until
          GROUP BY 1, 2)
"""
_ACCOUNTS = f"""{_ENROLLED},
         used AS MATERIALIZED (
         SELECT user_id, -sum(amount) AS amount FROM credit_ledger
          WHERE kind = 'usage' AND created_at >= :since AND created_at < :until GROUP BY 1)
    SELECT e.variant, count(*) AS accounts, count(*) FILTER (WHERE e.is_new) AS sign_ups,
           count(*) FILTER (WHERE e.id IN (SELECT user_id FROM money WHERE has_paid)) AS paid,
           coalesce(sum(u.amount), 0) AS total, coalesce(sum(u.amount * u.amount), 0) AS of_squares
      FROM enrolled e LEFT JOIN used u ON u.user_id = e.id GROUP BY 1
"""  # noqa: S608 - made of constants
_REVENUE = f"""{_ENROLLED}
    SELECT e.variant, m.currency, sum(m.amount) AS total, sum(m.amount * m.amount) AS of_squares
      FROM enrolled e JOIN money m ON m.user_id = e.id GROUP BY 1, 2
"""  # noqa: S608 - made of constants
_BOUNDS = bindparam("bounds", type_=ARRAY(BigInteger))
_OF_ACCOUNTS, _OF_REVENUE = (text(statement).bindparams(_BOUNDS) for statement in (_ACCOUNTS, _REVENUE))


async def outcomes(connection: AsyncConnection, arms: Arms, *, since: datetime, until: datetime) -> dict[str, Outcome]:
    """By name of the variant, the control first."""
    parameters = {"salt": arms.salt, "bounds": list(bounds(arms.variants)), "since": since, "until": until}
    accounts = {row.variant: row for row in await connection.execute(_OF_ACCOUNTS, parameters)}
    revenue: dict[int, dict[str, Sums]] = {}
    for row in await connection.execute(_OF_REVENUE, parameters):
        revenue.setdefault(row.variant, {})[row.currency] = Sums(row.total, row.of_squares)
    return {variant.name: _outcome(accounts.get(at), revenue.get(at, {})) for at, variant in enumerate(arms.variants)}


def _outcome(row: Any, revenue: dict[str, Sums]) -> Outcome:
    if row is None:
        return Outcome()
    used = Sums(row.total, row.of_squares)
    return Outcome(accounts=row.accounts, sign_ups=row.sign_ups, paid=row.paid, credits_used=used, revenue=revenue)
