"""Credits of subscriptions: granted once per period, and prorated when the plan or the seats change."""

from __future__ import annotations

from fractions import Fraction
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits import grants, movements, thresholds
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.tables import credit_grants, user_credits
from gateway.ledger.subscriptions import overage, period_marks
from gateway.ledger.subscriptions.period_marks import PeriodMark
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_existing
from policies.credits.allowances import period_credits, prorated_credits, refill
from policies.model import SubscriptionStatus


async def plan_of(connection: AsyncConnection, subscription: StoredSubscription) -> StoredPlan:
    """The plan in the version that the subscription is on."""
    if subscription.keeps_version:
        pinned = await plans.get_version(connection, subscription.plan_id, subscription.plan_version)
        if pinned is not None:
            return pinned
    plan = await plans.get(connection, subscription.plan_id)
    if plan is None:
        raise NotFound("plan", subscription.plan_id)
    return plan


def credits_of(plan: StoredPlan, quantity: int) -> int:
    """The credits of a whole period."""
    terms = plan.terms
    return period_credits(terms.credits_per_period, pricing_model=terms.pricing_model, quantity=quantity)


def credits_given(plan: StoredPlan, subscription: StoredSubscription) -> int:
    """The credits of a whole period; 0 where the plan is free and withholds them."""
    return 0 if is_withheld(plan, subscription) else credits_of(plan, subscription.quantity)


async def credits_had(connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan) -> int:
    """The credits of a whole period as they were given to the present one: the plan's may be others since."""
    given = await period_marks.find(connection, subscription, PeriodMark.GIVEN_CREDITS)
    return credits_given(plan, subscription) if given is None else int(given["credits"])


def is_withheld(plan: StoredPlan, subscription: StoredSubscription) -> bool:
    return subscription.credits_withheld is not None and plan.terms.price == 0 and not plan.terms.tiers


async def open_period(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, actor: str
) -> bool:
    """Grants the current period its credits and resets its usage; False if the period is open already."""
    await _bill_previous(connection, subscription, actor=actor)
    amount = credits_given(plan, subscription)
    if not await _reset_period(connection, subscription, amount=amount):
        return False
    await _record_given(connection, subscription, credits=amount)
    return amount == 0 or await _grant_period(connection, subscription, plan=plan, amount=amount, actor=actor)


async def has_grant(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the current period has given the subscription any credits."""
    grant = credit_grants.c
    in_period = (grant.subscription_id == subscription.id) & (grant.effective_at >= subscription.current_period_start)
    return await connection.scalar(select(grant.id).where(in_period).limit(1)) is not None


async def grant_withheld(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, actor: str
) -> None:
    """Grants the running period the credits that were withheld; nothing if it has them."""
    amount = credits_of(plan, subscription.quantity)
    if amount and await _grant_period(connection, subscription, plan=plan, amount=amount, actor=actor):
        await _record_change(connection, subscription, change=amount, shortfall=0)
        await _record_given(connection, subscription, credits=amount)


async def _record_given(connection: AsyncConnection, subscription: StoredSubscription, *, credits: int) -> None:
    await period_marks.record(connection, subscription, PeriodMark.GIVEN_CREDITS, {"credits": credits})


async def _grant_period(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, amount: int, actor: str
) -> bool:
    is_trial = subscription.status is SubscriptionStatus.TRIALING
    granted = await grants.grant_period(
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
    return granted is not None


async def take_over_period(connection: AsyncConnection, subscription: StoredSubscription, *, actor: str) -> None:
    """Assigns the running period to the subscription; its credits and usage stay."""
    await _bill_previous(connection, subscription, actor=actor)
    assigned = {
        "subscription_id": subscription.id,
        "period_start": subscription.current_period_start,
        "period_end": subscription.current_period_end,
        "next_credit_refill": subscription.current_period_end,
        "updated_at": func.now(),
    }
    is_its = user_credits.c.user_id == subscription.user_id
    await connection.execute(update(user_credits).where(is_its).values(assigned))


async def extend_period(connection: AsyncConnection, subscription: StoredSubscription) -> None:
    """Moves the end of the running period, and of the grants that it made."""
    ends = {"ends_at": subscription.current_period_end, "subscription_id": subscription.id}
    await connection.execute(_EXTEND_BALANCE, {**ends, "user_id": subscription.user_id})
    await connection.execute(_EXTEND_GRANTS, {**ends, "starts_at": subscription.current_period_start})


async def prorate(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    plan: StoredPlan,
    before: int,
    had: int,
    share: Fraction,
    actor: str,
    returns_price: bool = False,
) -> int:
    """Grants or takes `share` of the difference between `before` credits a period and the plan's; `had` of a period
    were given so far (`credits_had`), which is what `before` is where another plan takes the place of that one.

    It takes what remains of the subscription's own grants, then other credits; what is used already becomes a debt that
    the next grants pay, or that a postpaid plan bills. A trial, which nobody paid for, leaves no debt: its shortfall
    reduces what its next change grants. `returns_price`: whether a provider gives back the price of what is taken.
    Gives the signed movement.
    """
    after = credits_given(plan, subscription)
    change = prorated_credits(before, after, share=share)
    await movements.lock(connection, subscription.user_id)
    await _record_given(connection, subscription, credits=had + after - before)
    if change > 0:
        return await _grant_rest(connection, subscription, plan=plan, amount=change, actor=actor)
    if change < 0:
        owed_before = await _owed(connection, subscription)
        taken = await _take_rest(connection, subscription, amount=-change, returns_price=returns_price, actor=actor)
        owed = await _owed(connection, subscription) - owed_before
        await overage.count_again(connection, subscription, plan=plan, credits=owed)
        await thresholds.notify_account(connection, subscription.user_id)
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

# `kept` is what the account has of the grant or has used of it: neither expired nor taken back. What a refund or a
# dispute took of a paid grant counts too where its price goes back once more.
_OF_PERIOD = text(f"""
    SELECT g.id, g.remaining,
           greatest(g.remaining, g.amount - {grants.LOST}
               + CASE WHEN :returns_price AND NOT g.metadata ? 'advance' THEN {grants.WITHDRAWN} ELSE 0 END) AS kept
      FROM credit_grants g
     WHERE g.user_id = :user_id AND g.subscription_id = :subscription_id AND g.effective_at >= :starts_at
       AND g.source <> 'overage' AND NOT g.is_scheduled
     ORDER BY g.id DESC
""")  # noqa: S608 - made of constants

# Unless the account's balance is in this very period already.
_RESET_PERIOD = text("""
    UPDATE user_credits
       SET subscription_id = :subscription_id, period_start = :starts_at, period_end = :ends_at,
           last_credit_refill = :starts_at, next_credit_refill = :ends_at,
           credits_used_this_period = 0, period_credits = :amount, period_shortfall = 0, noted_percent = 0,
           updated_at = now()
     WHERE user_id = :user_id
       AND (subscription_id, period_start) IS DISTINCT FROM (CAST(:subscription_id AS uuid), :starts_at)
""")


async def _bill_previous(connection: AsyncConnection, subscription: StoredSubscription, *, actor: str) -> None:
    """Another subscription of the account that this one follows: nothing bills its last period any more."""
    query = select(user_credits.c.subscription_id).where(user_credits.c.user_id == subscription.user_id)
    previous_id = await connection.scalar(query)
    if previous_id not in (None, subscription.id):
        previous = await get_existing(connection, previous_id)
        plan = await plan_of(connection, previous)
        await overage.bill(connection, previous, plan=plan, at=subscription.current_period_start, actor=actor)


async def _reset_period(connection: AsyncConnection, subscription: StoredSubscription, *, amount: int) -> bool:
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
    return (await connection.execute(_RESET_PERIOD, period)).rowcount > 0


async def _grant_rest(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, amount: int, actor: str
) -> int:
    shortfall = await _shortfall(connection, subscription)
    owed = min(shortfall, amount)
    await _record_change(connection, subscription, change=amount, shortfall=shortfall - owed)
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


async def _take_rest(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    amount: int,
    returns_price: bool,
    actor: str,
) -> int:
    """Takes from the period's grants, the newest first; a trial leaves no debt, so of that only what remains. Credits
    whose price a refund or dispute gave back are taken once more where a provider now gives it back once more.
    """
    is_trial = subscription.status is SubscriptionStatus.TRIALING
    missing = amount
    period = {
        "user_id": subscription.user_id,
        "subscription_id": subscription.id,
        "starts_at": subscription.current_period_start,
        "returns_price": returns_price,
    }
    for grant in (await connection.execute(_OF_PERIOD, period)).all():
        if taken := min(missing, grant.remaining if is_trial else grant.kept):
            await _take_from_grant(
                connection, subscription, grant.id, amount=taken, returns_price=returns_price, actor=actor
            )
        missing -= taken
    shortfall = await _shortfall(connection, subscription)
    await _record_change(connection, subscription, change=-amount, shortfall=shortfall + missing)
    return amount - missing


async def _take_from_grant(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    grant_id: UUID,
    *,
    amount: int,
    returns_price: bool,
    actor: str,
) -> None:
    """What is used of the grant already is taken from other credits; beyond those the balance is a debt."""
    is_its = credit_grants.c.id == grant_id
    remaining: int = (await connection.execute(select(credit_grants.c.remaining).where(is_its))).scalar_one()
    unused = min(amount, remaining)
    await connection.execute(update(credit_grants).where(is_its).values(remaining=remaining - unused))
    await movements.burn_down(connection, subscription.user_id, credits=amount - unused)
    await movements.record_movement(
        connection,
        subscription.user_id,
        kind="adjustment",
        amount=-amount,
        grant_id=grant_id,
        reason="a smaller plan for the rest of the period",
        actor=actor,
        details={"of_grant": unused} | ({grants.PRICE_RETURNED: True} if returns_price else {}),
    )


async def _owed(connection: AsyncConnection, subscription: StoredSubscription) -> int:
    """How far the balance is below zero."""
    query = select(user_credits.c.current_credits).where(user_credits.c.user_id == subscription.user_id)
    balance: int = (await connection.execute(query)).scalar_one()
    return max(0, -balance)


async def _shortfall(connection: AsyncConnection, subscription: StoredSubscription) -> int:
    query = select(user_credits.c.period_shortfall).where(user_credits.c.user_id == subscription.user_id)
    found: int = (await connection.execute(query)).scalar_one()
    return found


async def _record_change(
    connection: AsyncConnection, subscription: StoredSubscription, *, change: int, shortfall: int
) -> None:
    changes = {
        "period_credits": func.greatest(0, user_credits.c.period_credits + change),
        "period_shortfall": shortfall,
        "updated_at": func.now(),
    }
    await connection.execute(update(user_credits).where(user_credits.c.user_id == subscription.user_id).values(changes))
