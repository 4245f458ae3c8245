"""Credits of a renewal that is not settled yet: advanced while its invoice waits, taken back where nobody pays it.

Stripe keeps the invoice of a renewal a draft for an hour, and a debit of a bank account takes days. The grant of such a
period is marked `advance: given`, until its payment removes the mark or its failure makes it `advance: taken_back`,
which it stays: no payment has paid for that grant.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits import grants, movements
from gateway.ledger.db.tables import credit_grants
from gateway.ledger.subscriptions.allowances import credits_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.credits.allowances import refill

_GIVEN, _TAKEN_BACK = "given", "taken_back"


async def mark(connection: AsyncConnection, subscription: StoredSubscription) -> None:
    """Marks the grant of the current period as an advance."""
    given = credit_grants.c.metadata.concat(literal({"advance": _GIVEN}, JSONB))
    of_period = (credit_grants.c.subscription_id == subscription.id) & (
        credit_grants.c.period_start == subscription.current_period_start
    )
    await connection.execute(update(credit_grants).where(of_period).values(metadata=given))


async def settle(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, actor: str
) -> None:
    """The period is paid for: its advance stays, or is granted again if it was taken back."""
    await movements.lock(connection, subscription.user_id)
    found = await _find(connection, subscription)
    if found is None:
        return
    its = update(credit_grants).where(credit_grants.c.id == found.id)
    if found.advance == _TAKEN_BACK:
        await connection.execute(its.values(period_start=None))  # so that the period can have its credits
        await _grant_again(connection, subscription, plan=plan, actor=actor)
    else:
        await connection.execute(its.values(metadata=credit_grants.c.metadata.op("-")("advance")))


async def take_back(connection: AsyncConnection, subscription: StoredSubscription, *, actor: str) -> None:
    """Nobody paid for it: takes each advance back; what is used becomes a debt that the next grants pay."""
    grant = credit_grants.c
    is_given = (grant.subscription_id == subscription.id) & (grant.metadata["advance"].astext == _GIVEN)
    taken_back = grant.metadata.concat(literal({"advance": _TAKEN_BACK}, JSONB))
    await movements.lock(connection, subscription.user_id)
    changed = update(credit_grants).where(is_given).values(metadata=taken_back).returning(grant.id, grant.amount)
    for found in (await connection.execute(changed)).all():
        reason = "advanced for a period that was not paid for"
        await grants.claw_back(connection, found.id, amount=found.amount, reason=reason, actor=actor)


async def _find(connection: AsyncConnection, subscription: StoredSubscription) -> Row[Any] | None:
    grant = credit_grants.c
    advance = select(grant.id, grant.amount, grant.metadata["advance"].astext.label("advance")).where(
        grant.subscription_id == subscription.id,
        grant.period_start == subscription.current_period_start,
        grant.metadata.has_key("advance"),
    )
    return (await connection.execute(advance)).one_or_none()


async def _grant_again(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, actor: str
) -> None:
    amount = credits_of(plan, subscription.quantity)
    await grants.grant_period(
        connection,
        subscription.user_id,
        refill=refill(amount, period_end=subscription.current_period_end, rolls_over=plan.terms.credits_rollover),
        reason=f"{plan.terms.name}: credits of the period",
        actor=actor,
        subscription_id=subscription.id,
        period_start=subscription.current_period_start,
    )
