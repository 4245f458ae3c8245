"""Plans: seeded once, overwritten only on purpose, each change counted."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger import plans, subscriptions
from gateway.ledger.default_plans import DEFAULT_PLANS
from gateway.ledger.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.plans import PlanTerms, StoredPlan
from gateway.ledger.principals import catalogue
from tests.ledger.make import NOON, a_user

TERMS = PlanTerms(name="silver", price=Decimal("12.345"))


async def test_a_plan_needs_a_name_and_a_price_and_is_stored_exactly(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    assert (plan.terms, plan.version) == (TERMS, 1)
    assert await plans.get(connection, plan.id) == await plans.get(connection, "silver") == plan


async def test_the_default_plans_are_those_of_the_contract(connection: AsyncConnection) -> None:
    assert await plans.seed(connection, DEFAULT_PLANS) == ("free", "basic", "pro", "enterprise")
    stored = [plan.terms for plan in await plans.list_plans(connection)]
    assert [
        (str(plan.price), plan.credits_per_period, plan.requests_per_minute, plan.requests_per_hour) for plan in stored
    ] == [("0.00", 10, 5, 50), ("9.99", 100, 20, 500), ("29.99", 1000, 50, 2000), ("99.99", 10000, 100, 10000)]
    assert [len(plan.features) for plan in stored] == [3, 5, 8, 11]


async def test_seeding_never_overwrites(connection: AsyncConnection) -> None:
    await plans.create(connection, replace(DEFAULT_PLANS[0], price=Decimal(1)))
    before = await catalogue(connection)
    assert await plans.seed(connection, DEFAULT_PLANS[:1]) == ()
    assert (await _plan(connection, "free")).terms.price == Decimal(1)
    assert await catalogue(connection) == before


async def test_applying_overwrites_and_tells_what_changed(connection: AsyncConnection) -> None:
    await plans.seed(connection, DEFAULT_PLANS)
    dearer = replace(DEFAULT_PLANS[1], price=Decimal("19.99"), requests_per_minute=None)
    changes = await plans.apply(connection, [DEFAULT_PLANS[0], dearer, TERMS])
    assert [(change.name, change.is_new) for change in changes] == [("basic", False), ("silver", True)]
    assert changes[0].changed == {"price": (Decimal("9.99"), Decimal("19.99")), "requests_per_minute": (20, None)}
    assert ((await _plan(connection, "basic")).version, (await _plan(connection, "free")).version) == (2, 1)
    assert await plans.apply(connection, [dearer]) == ()


async def test_a_taken_name_is_refused(connection: AsyncConnection) -> None:
    await plans.create(connection, TERMS)
    with pytest.raises(AlreadyExists):
        await plans.create(connection, TERMS)


@pytest.mark.parametrize(
    "wrong",
    [{"price": Decimal(-1)}, {"billing_interval": "fortnight"}, {"currency": "usd"}, {"requests_per_hour": -1}],
)
async def test_a_plan_that_makes_no_sense_is_refused(connection: AsyncConnection, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        await plans.create(connection, replace(TERMS, **wrong))  # type: ignore[arg-type]  # by parameter


async def test_a_plan_with_subscribers_cannot_be_removed(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    await subscriptions.start(connection, (await a_user(connection)).id, plan_id=plan.id, now=NOON)
    with pytest.raises(InUse):
        await plans.remove(connection, plan.id)
    assert await plans.get(connection, plan.id) == plan


async def test_a_plan_of_nobody_is_removed(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    await plans.remove(connection, plan.id)
    assert await plans.get(connection, plan.id) is None
    with pytest.raises(NotFound):
        await plans.remove(connection, plan.id)


async def test_permissions_are_granted_and_withdrawn_by_name(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    made = await plans.create_permission(connection, "analyze", description="May analyze")
    assert await plans.list_permissions(connection) == (made,)
    before = await catalogue(connection)
    await plans.grant_permission(connection, plan.id, "analyze")
    await plans.grant_permission(connection, plan.id, "analyze")
    await plans.withdraw_permission(connection, plan.id, "analyze")
    assert (await catalogue(connection)).version == before.version + 3
    with pytest.raises(NotFound, match="permission fly"):
        await plans.grant_permission(connection, plan.id, "fly")
    with pytest.raises(NotFound, match="plan"):
        await plans.grant_permission(connection, uuid4(), "analyze")
    with pytest.raises(AlreadyExists):
        await plans.create_permission(connection, "analyze")


async def _plan(connection: AsyncConnection, name: str) -> StoredPlan:
    plan = await plans.get(connection, name)
    assert plan is not None
    return plan
