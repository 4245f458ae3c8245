"""What a subscription gives: a period's credits, once, and what a change of plan gives or takes within a period."""

from __future__ import annotations

from fractions import Fraction

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits import grants, movements, thresholds
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.tables import credit_grants, user_credits
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.credits.allowances import period_credits, prorated_credits, refill
from policies.model import SubscriptionStatus


async def plan_of(connection: AsyncConnection, subscription: StoredSubscription) -> StoredPlan:
    """The plan as this subscription has it: as it is, or as it was in the version that is kept."""
    if subscription.keeps_version:
        kept = await plans.get_version(connection, subscription.plan_id, subscription.plan_version)
        if kept is not None:
            return kept
    plan = await plans.get(connection, subscription.plan_id)
    if plan is None:
        raise NotFound("plan", subscription.plan_id)
    return plan


def credits_of(plan: StoredPlan, quantity: int) -> int:
    """Of a whole period."""
    terms = plan.terms
    return period_credits(terms.credits_per_period, pricing_model=terms.pricing_model, quantity=quantity)


async def begin_period(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, actor: str
) -> bool:
    """Gives the period that the subscription is in its credits and counts its usage from 0; False if that was done."""
    amount = credits_of(plan, subscription.quantity)
    if not await _open(connection, subscription, amount=amount):
        return False
    if amount == 0:
        return True
    is_trial = subscription.status is SubscriptionStatus.TRIALING
    given = await grants.grant_period(
        connection,
        subscription.user_id,
        refill=refill(
            amount,
            period_end=subscription.current_period_end,
            rolls_over=plan.terms.credits_rollover,
            is_trial=is_trial,
        ),
        reason=f"{plan.terms.name}: credits of the {'trial' if is_trial else 'period'}",
        actor=actor,
        subscription_id=subscription.id,
        period_start=subscription.current_period_start,
    )
    return given is not None


async def carry_on(connection: AsyncConnection, subscription: StoredSubscription) -> None:
    """The subscription takes over a period under way, whose credits and usage stay as they are."""
    taken_over = {
        "subscription_id": subscription.id,
        "period_start": subscription.current_period_start,
        "period_end": subscription.current_period_end,
        "next_credit_refill": subscription.current_period_end,
        "updated_at": func.now(),
    }
    is_its = user_credits.c.user_id == subscription.user_id
    await connection.execute(update(user_credits).where(is_its).values(taken_over))


async def extend_period(connection: AsyncConnection, subscription: StoredSubscription) -> None:
    """The period that is under way ends at another time than was thought; what it gave ends with it."""
    ends = {"ends_at": subscription.current_period_end, "subscription_id": subscription.id}
    await connection.execute(_EXTEND_BALANCE, {**ends, "user_id": subscription.user_id})
    await connection.execute(_EXTEND_GRANTS, {**ends, "starts_at": subscription.current_period_start})


async def prorate(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    plan: StoredPlan,
    before: int,
    left: Fraction,
    actor: str,
) -> int:
    """Gives or takes what the change from `before` credits a period to the plan's makes for the rest of it.

    Taking stops at what is left of the subscription's own credits, so that what was bought stays. What could not be
    taken is remembered, and the period's next change to more gives less by it. Gives the signed movement.
    """
    change = prorated_credits(before, credits_of(plan, subscription.quantity), left=left)
    await movements.lock(connection, subscription.user_id)
    if change > 0:
        return await _give(connection, subscription, plan=plan, amount=change, actor=actor)
    if change < 0:
        taken = await _take(connection, subscription, amount=-change, actor=actor)
        await thresholds.note_one(connection, subscription.user_id)
        return -taken
    return 0


_EXTEND_BALANCE = text("""
    UPDATE user_credits SET period_end = :ends_at, next_credit_refill = :ends_at, updated_at = now()
     WHERE user_id = :user_id AND subscription_id = :subscription_id AND period_end <> :ends_at
""")

_EXTEND_GRANTS = text("""
    UPDATE credit_grants SET expires_at = :ends_at, updated_at = now()
     WHERE subscription_id = :subscription_id AND effective_at >= :starts_at AND effective_at < :ends_at
       AND remaining > 0 AND expires_at <> :ends_at
""")

# Only where the account's books do not stand in this very period already.
_OPEN = text("""
    UPDATE user_credits
       SET subscription_id = :subscription_id, period_start = :starts_at, period_end = :ends_at,
           last_credit_refill = :starts_at, next_credit_refill = :ends_at,
           credits_used_this_period = 0, period_credits = :amount, period_shortfall = 0, noted_percent = 0,
           updated_at = now()
     WHERE user_id = :user_id
       AND (subscription_id, period_start) IS DISTINCT FROM (CAST(:subscription_id AS uuid), :starts_at)
""")


async def _open(connection: AsyncConnection, subscription: StoredSubscription, *, amount: int) -> bool:
    await movements.lock(connection, subscription.user_id)
    is_granted = select(credit_grants.c.id).where(
        credit_grants.c.subscription_id == subscription.id,
        credit_grants.c.period_start == subscription.current_period_start,
    )
    if (await connection.scalar(is_granted)) is not None:
        return False
    period = {
        "user_id": subscription.user_id,
        "subscription_id": subscription.id,
        "starts_at": subscription.current_period_start,
        "ends_at": subscription.current_period_end,
        "amount": amount,
    }
    return (await connection.execute(_OPEN, period)).rowcount > 0


async def _give(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, amount: int, actor: str
) -> int:
    shortfall = await _shortfall(connection, subscription)
    owed = min(shortfall, amount)
    await _note_change(connection, subscription, change=amount, shortfall=shortfall - owed)
    if amount == owed:
        return 0
    is_trial = subscription.status is SubscriptionStatus.TRIALING
    await grants.grant(
        connection,
        subscription.user_id,
        amount=amount - owed,
        source="trial" if is_trial else "plan",
        reason=f"{plan.terms.name}: credits for the rest of the period",
        actor=actor,
        effective_at=subscription.current_period_start,
        expires_at=None if plan.terms.credits_rollover and not is_trial else subscription.current_period_end,
        subscription_id=subscription.id,
    )
    return amount - owed


async def _take(connection: AsyncConnection, subscription: StoredSubscription, *, amount: int, actor: str) -> int:
    own = (
        select(credit_grants.c.id, credit_grants.c.remaining)
        .where(
            credit_grants.c.user_id == subscription.user_id,
            credit_grants.c.subscription_id == subscription.id,
            credit_grants.c.effective_at >= subscription.current_period_start,
            credit_grants.c.remaining > 0,
        )
        .order_by(credit_grants.c.id)
    )
    wanted = amount
    for grant in (await connection.execute(own)).all():
        taken = min(wanted, grant.remaining)
        if taken:
            left = update(credit_grants).where(credit_grants.c.id == grant.id).values(remaining=grant.remaining - taken)
            await connection.execute(left)
            await movements.record_movement(
                connection,
                subscription.user_id,
                kind="adjustment",
                amount=-taken,
                grant_id=grant.id,
                reason="a smaller plan for the rest of the period",
                actor=actor,
            )
        wanted -= taken
    shortfall = await _shortfall(connection, subscription)
    await _note_change(connection, subscription, change=-amount, shortfall=shortfall + wanted)
    return amount - wanted


async def _shortfall(connection: AsyncConnection, subscription: StoredSubscription) -> int:
    query = select(user_credits.c.period_shortfall).where(user_credits.c.user_id == subscription.user_id)
    found: int = (await connection.execute(query)).scalar_one()
    return found


async def _note_change(
    connection: AsyncConnection, subscription: StoredSubscription, *, change: int, shortfall: int
) -> None:
    noted = {
        "period_credits": func.greatest(0, user_credits.c.period_credits + change),
        "period_shortfall": shortfall,
        "updated_at": func.now(),
    }
    await connection.execute(update(user_credits).where(user_credits.c.user_id == subscription.user_id).values(noted))
