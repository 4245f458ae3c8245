"""Grants of credits: given, scheduled, taken back, and listed. `usage/ingestion.py` charges, `expiry.py` expires."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits.movements import LedgerEntry, burn_down, lock, record_movement
from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import credit_grants, user_credits
from policies.credits.allowances import PRIORITIES, Refill


@dataclass(frozen=True, slots=True)
class Balance:
    user_id: UUID
    current_credits: int
    total_credits_purchased: int
    total_credits_used: int
    total_credits_expired: int
    credits_used_this_period: int
    credit_seq: int
    period_start: datetime | None
    period_end: datetime | None
    last_credit_refill: datetime | None
    next_credit_refill: datetime | None
    subscription_id: UUID | None


@dataclass(frozen=True, slots=True)
class Grant:
    id: UUID
    user_id: UUID
    source: str
    amount: int
    remaining: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    is_scheduled: bool
    reason: str | None
    created_at: datetime


async def grant(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    amount: int,
    source: str,
    reason: str,
    actor: str,
    effective_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
    subscription_id: UUID | None = None,
) -> LedgerEntry:
    """Grants credits, which pay the account's debt first. Raises NotFound, InvalidValue.

    They can be spent at once. `effective_at`, by default now, is the start of the period that they belong to.
    """
    terms = _terms(source, reason, effective_at=effective_at, expires_at=expires_at, priority=priority)
    debt = max(0, -await lock(connection, user_id))
    values = {"user_id": user_id, "amount": amount, "remaining": max(0, amount - debt), **terms}
    async with checked(connection, "grant"):
        statement = (
            insert(credit_grants).values(**values, subscription_id=subscription_id).returning(credit_grants.c.id)
        )
        grant_id: UUID = (await connection.execute(statement)).scalar_one()
    return await _record_grant(connection, user_id, grant_id, amount=amount, source=source, reason=reason, actor=actor)


async def grant_period(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    refill: Refill,
    reason: str,
    actor: str,
    subscription_id: UUID,
    period_start: datetime,
) -> LedgerEntry | None:
    """Grants a period its credits; None if the period has them. Raises NotFound."""
    debt = max(0, -await lock(connection, user_id))
    terms = _terms(refill.source, reason, effective_at=period_start, expires_at=refill.expires_at, priority=None)
    values = {
        "user_id": user_id,
        "amount": refill.amount,
        "remaining": max(0, refill.amount - debt),
        "subscription_id": subscription_id,
        "period_start": period_start,
        **terms,
    }
    once = upsert(credit_grants).values(values).on_conflict_do_nothing(constraint=_ONCE_A_PERIOD)
    grant_id = (await connection.execute(once.returning(credit_grants.c.id))).scalar_one_or_none()
    if grant_id is None:
        return None
    return await _record_grant(
        connection, user_id, grant_id, amount=refill.amount, source=refill.source, reason=reason, actor=actor
    )


async def schedule(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    amount: int,
    source: str,
    reason: str,
    actor: str,
    effective_at: datetime,
    expires_at: datetime | None = None,
    priority: int | None = None,
) -> Grant:
    """Schedules a grant for `effective_at`, when `expiry.apply_due` starts it; until then no balance includes it.

    Raises NotFound, InvalidValue.
    """
    await lock(connection, user_id)
    terms = _terms(source, reason, effective_at=effective_at, expires_at=expires_at, priority=priority)
    values = {"user_id": user_id, "amount": amount, "remaining": 0, "is_scheduled": True, **terms}
    async with checked(connection, "grant"):
        statement = (
            insert(credit_grants).values(**values, metadata={"actor": actor}).returning(*columns(credit_grants, Grant))
        )
        return value(Grant, (await connection.execute(statement)).one())


async def start_scheduled(connection: AsyncConnection, user_id: UUID, scheduled: Grant, *, actor: str) -> LedgerEntry:
    """Starts a scheduled grant. The caller holds the account's lock."""
    debt = max(0, -await lock(connection, user_id))
    started = {"is_scheduled": False, "remaining": max(0, scheduled.amount - debt)}
    await connection.execute(update(credit_grants).where(credit_grants.c.id == scheduled.id).values(started))
    reason = scheduled.reason or ""
    return await _record_grant(
        connection,
        user_id,
        scheduled.id,
        amount=scheduled.amount,
        source=scheduled.source,
        reason=reason,
        actor=actor,
    )


async def adjust(connection: AsyncConnection, user_id: UUID, *, amount: int, reason: str, actor: str) -> LedgerEntry:
    """Corrects the balance by a signed amount; it may go below zero. Raises NotFound, and InvalidValue for 0."""
    debt = max(0, -await lock(connection, user_id))
    grant_id = None
    if amount > 0:
        terms = _terms("admin", reason, effective_at=None, expires_at=None, priority=None)
        values = {"user_id": user_id, "amount": amount, "remaining": max(0, amount - debt), **terms}
        statement = insert(credit_grants).values(values).returning(credit_grants.c.id)
        grant_id = (await connection.execute(statement)).scalar_one()
    else:
        await burn_down(connection, user_id, credits=-amount)
    return await record_movement(
        connection, user_id, kind="adjustment", amount=amount, grant_id=grant_id, reason=reason, actor=actor
    )


async def claw_back(
    connection: AsyncConnection, grant_id: UUID, *, amount: int, reason: str, actor: str
) -> LedgerEntry | None:
    """Claws back credits of a grant whose payment was refunded or disputed, at most those that are left, were used, or
    were taken by a smaller plan whose price the provider gave back already: not what expired or was clawed back.

    It takes what remains of the grant, then other credits; the rest becomes debt, which the next grant pays. None if
    nothing can be clawed back. Raises NotFound.
    """
    user_id = await _owner_of(connection, grant_id)
    current = await lock(connection, user_id)
    found = (await connection.execute(_CLAWABLE, {"grant_id": grant_id})).one()
    amount_taken = min(amount, found.clawable)
    if found.is_scheduled and amount_taken:
        await _shrink_scheduled(connection, grant_id, by=amount_taken, of=found.amount)
    if found.is_scheduled or amount_taken <= 0:
        return None
    of_grant = min(amount_taken, found.remaining)
    changes = {"remaining": credit_grants.c.remaining - of_grant}
    await connection.execute(update(credit_grants).where(credit_grants.c.id == grant_id).values(changes))
    await burn_down(connection, user_id, credits=amount_taken - of_grant)
    debt = max(0, amount_taken - max(0, current))
    return await record_movement(
        connection,
        user_id,
        kind="clawback",
        amount=-amount_taken,
        grant_id=grant_id,
        purchased=-amount_taken if found.source == "purchase" else 0,
        reason=reason,
        actor=actor,
        details={"of_grant": of_grant, "debt": debt},
    )


async def give_back(
    connection: AsyncConnection, grant_id: UUID, *, amount: int, reason: str, actor: str
) -> LedgerEntry | None:
    """Gives credits back that `claw_back` took from a grant, which pay the account's debt first; at most what it took.

    What was unused then goes back into the grant, and ends with it. For the rest, other credits or later ones had to
    pay, so it outlasts the grant. None if nothing is to be given back. Raises NotFound.
    """
    user_id = await _owner_of(connection, grant_id)
    debt = max(0, -await lock(connection, user_id))
    found = (await connection.execute(_TAKEN, {"grant_id": grant_id})).one()
    amount = min(amount, found.taken)
    if amount <= 0:
        return None
    lasting = 0 if found.expires_at is None else min(amount, found.taken - found.of_grant)
    of_grant = amount - lasting
    back = {"remaining": credit_grants.c.remaining + of_grant - min(of_grant, max(0, debt - lasting))}
    await connection.execute(update(credit_grants).where(credit_grants.c.id == grant_id).values(back))
    if lasting > debt:
        terms = _terms("admin", reason, effective_at=None, expires_at=None, priority=None)
        values = {"user_id": user_id, "amount": lasting - debt, "remaining": lasting - debt, **terms}
        await connection.execute(insert(credit_grants).values(values))
    return await record_movement(
        connection,
        user_id,
        kind="adjustment",
        amount=amount,
        grant_id=grant_id,
        purchased=amount if found.source == "purchase" else 0,
        reason=reason,
        actor=actor,
        details={"given_back": amount, "of_grant": of_grant},
    )


async def get_balance(connection: AsyncConnection, user_id: UUID) -> Balance | None:
    query = select(*columns(user_credits, Balance)).where(user_credits.c.user_id == user_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(Balance, row)


async def list_open_grants(connection: AsyncConnection, user_id: UUID) -> tuple[Grant, ...]:
    """The user's grants with remaining credits, in the order in which they burn down."""
    query = (
        select(*columns(credit_grants, Grant))
        .where(credit_grants.c.user_id == user_id, credit_grants.c.remaining > 0)
        .order_by(credit_grants.c.priority, credit_grants.c.expires_at.nulls_last(), credit_grants.c.id)
    )
    return tuple(value(Grant, row) for row in await connection.execute(query))


async def list_scheduled_grants(connection: AsyncConnection, user_id: UUID) -> tuple[Grant, ...]:
    """Grants that have not started, the next first."""
    query = select(*columns(credit_grants, Grant)).where(
        credit_grants.c.user_id == user_id, credit_grants.c.is_scheduled
    )
    rows = await connection.execute(query.order_by(credit_grants.c.effective_at, credit_grants.c.id))
    return tuple(value(Grant, row) for row in rows)


# In the metadata of a movement that took credits whose price the provider gave back.
PRICE_RETURNED = "price_returned"

_ONCE_A_PERIOD = "uq_credit_grants_subscription_id_period_start"

# What the account has lost of a grant: it expired, a smaller plan took it, or a refund that did not fail.
LOST = """(
    SELECT coalesce(-sum(l.amount), 0)::bigint FROM credit_ledger l
     WHERE l.grant_id = g.id AND (l.kind IN ('expiry', 'clawback')
           OR l.kind = 'adjustment' AND (l.amount < 0 OR l.metadata ? 'given_back')))"""

# Of it, what refunds and disputes took.
WITHDRAWN = """(
    SELECT coalesce(-sum(l.amount), 0)::bigint FROM credit_ledger l
     WHERE l.grant_id = g.id AND (l.kind = 'clawback' OR l.metadata ? 'given_back'))"""

# Of it, what a smaller plan took while a provider gave its price back, which a refund or dispute gives once more.
_RETURNED = f"""(
    SELECT coalesce(-sum(l.amount), 0)::bigint FROM credit_ledger l
     WHERE l.grant_id = g.id AND l.metadata ? '{PRICE_RETURNED}')"""  # noqa: S608 - made of constants

# Nobody paid for an advance that is taken back.
_CLAWABLE = text(f"""
    SELECT g.amount, g.remaining, g.is_scheduled, g.source,
           CASE WHEN g.metadata ? 'withdrawn' THEN 0
                WHEN g.metadata ? 'advance' THEN g.amount - {LOST}
                ELSE g.amount - {LOST} + {_RETURNED} END AS clawable
      FROM credit_grants g WHERE g.id = :grant_id
""")  # noqa: S608 - made of constants

# What refunds and disputes hold, and how much of it the grant itself still had.
_TAKEN = text("""
    SELECT g.source, g.expires_at, coalesce(-sum(l.amount), 0)::bigint AS taken,
           coalesce(sum(-sign(l.amount) * (l.metadata ->> 'of_grant')::bigint), 0)::bigint AS of_grant
      FROM credit_grants g
      LEFT JOIN credit_ledger l ON l.grant_id = g.id AND (l.kind = 'clawback' OR l.metadata ? 'given_back')
     WHERE g.id = :grant_id GROUP BY g.id
""")


async def _owner_of(connection: AsyncConnection, grant_id: UUID) -> UUID:
    owner = select(credit_grants.c.user_id).where(credit_grants.c.id == grant_id)
    user_id: UUID | None = await connection.scalar(owner)
    if user_id is None:
        raise NotFound("grant", grant_id)
    return user_id


def _terms(
    source: str, reason: str, *, effective_at: datetime | None, expires_at: datetime | None, priority: int | None
) -> dict[str, Any]:
    return {
        "source": source,
        "reason": reason,
        "priority": PRIORITIES.get(source, 0) if priority is None else priority,
        "effective_at": func.now() if effective_at is None else effective_at,
        "expires_at": expires_at,
    }


async def _record_grant(
    connection: AsyncConnection, user_id: UUID, grant_id: UUID, *, amount: int, source: str, reason: str, actor: str
) -> LedgerEntry:
    return await record_movement(
        connection,
        user_id,
        kind="grant",
        amount=amount,
        grant_id=grant_id,
        purchased=amount if source == "purchase" else 0,
        reason=reason,
        actor=actor,
    )


async def _shrink_scheduled(connection: AsyncConnection, grant_id: UUID, *, by: int, of: int) -> None:
    """A grant that is clawed back whole never starts."""
    shrunk = {"amount": of - by} if by < of else {"is_scheduled": False, "metadata": {"withdrawn": True}}
    await connection.execute(update(credit_grants).where(credit_grants.c.id == grant_id).values(shrunk))
