"""A price id belongs to one plan for ever, together with the versions of the plan that had it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.catalogue import plans, provider_prices
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.catalogue.provider_prices import PlanPrice
from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.subscriptions import lifecycle
from tests.ledger.make import a_user


async def create_plan(connection: AsyncConnection, **ids: str) -> StoredPlan:
    return await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(1), provider_ids=ids))


async def set_ids(connection: AsyncConnection, plan: StoredPlan, **ids: str) -> StoredPlan:
    found = await plans.get(connection, plan.id)
    assert found is not None
    return await plans.change(connection, plan.id, replace(found.terms, provider_ids=ids))


async def find(connection: AsyncConnection, price_id: str) -> PlanPrice | None:
    return await provider_prices.find(connection, "stripe", price_id=price_id)


async def test_former_price_id_finds_its_plan_and_versions(connection: AsyncConnection) -> None:
    plan = await create_plan(connection, stripe_price_id="old")
    await plans.change(connection, plan.id, replace(plan.terms, price=Decimal(2)))
    changed = await set_ids(connection, plan, stripe_price_id="new")
    assert changed.terms.provider_ids == {"stripe_price_id": "new"}
    assert await find(connection, "old") == PlanPrice(plan.id, 1, 2)
    assert await find(connection, "new") == PlanPrice(plan.id, 3, None)
    assert await find(connection, "unknown") is None
    before = await plans.get_version(connection, plan.id, 2)
    assert before is not None
    assert before.terms.provider_ids == {"stripe_price_id": "old"}


async def test_price_history_has_one_row_per_id_with_its_time(connection: AsyncConnection) -> None:
    plan = await create_plan(connection, stripe_price_id="old", lemon_squeezy_product_id="7")
    await set_ids(connection, plan, stripe_price_id="new", lemon_squeezy_product_id="7")
    rows = await connection.execute(
        text("""
            SELECT external_id, valid_to IS NULL, valid_from <= coalesce(valid_to, now())
              FROM plan_provider_prices WHERE plan_id = :id ORDER BY external_id
        """),
        {"id": plan.id},
    )
    assert [tuple(row) for row in rows] == [("7", True, True), ("new", True, True), ("old", False, True)]


async def test_price_id_that_returns_to_its_plan_is_current_again(connection: AsyncConnection) -> None:
    plan = await create_plan(connection, stripe_price_id="old")
    await set_ids(connection, plan)
    assert await find(connection, "old") == PlanPrice(plan.id, 1, 1)
    restored = await set_ids(connection, plan, stripe_price_id="old")
    assert restored.terms.provider_ids == {"stripe_price_id": "old"}
    assert await find(connection, "old") == PlanPrice(plan.id, 1, None)


async def test_price_id_of_another_plan_is_refused_even_if_former(connection: AsyncConnection) -> None:
    user, plan, other = await a_user(connection), await create_plan(connection, stripe_price_id="old"), None
    await lifecycle.await_payment(connection, user.id, plan_id=plan.id, provider="stripe", now=now())
    for _ in range(2):
        with pytest.raises(AlreadyExists, match="stripe_price_id"):
            other = await create_plan(connection, stripe_price_id="old")
        await set_ids(connection, plan, stripe_price_id="new")
    assert other is None


async def test_former_price_id_that_sold_nothing_may_move_to_another_plan(connection: AsyncConnection) -> None:
    plan = await create_plan(connection, stripe_price_id="mistaken")
    await set_ids(connection, plan)
    other = await create_plan(connection, stripe_price_id="mistaken")
    assert await find(connection, "mistaken") == PlanPrice(other.id, 1, None)


async def test_plans_may_share_a_product(connection: AsyncConnection) -> None:
    for variant in ("1", "2"):
        plan = await create_plan(connection, lemon_squeezy_variant_id=variant, lemon_squeezy_product_id="7")
        assert plan.terms.provider_ids == {"lemon_squeezy_variant_id": variant, "lemon_squeezy_product_id": "7"}


async def test_columns_of_the_previous_version_mirror_the_present_ids(connection: AsyncConnection) -> None:
    plan = await create_plan(connection, stripe_price_id="old", lemon_squeezy_variant_id="1")
    await set_ids(connection, plan, stripe_price_id="new")
    query = text("SELECT stripe_price_id, lemon_squeezy_variant_id FROM subscription_plans WHERE id = :id")
    assert tuple((await connection.execute(query, {"id": plan.id})).one()) == ("new", None)


async def test_version_between_two_uses_of_a_price_id_has_its_own(connection: AsyncConnection) -> None:
    plan = await create_plan(connection, stripe_price_id="old")
    await set_ids(connection, plan, stripe_price_id="new")
    await set_ids(connection, plan, stripe_price_id="old")
    between = await plans.get_version(connection, plan.id, 2)
    assert between is not None
    assert between.terms.provider_ids == {"stripe_price_id": "new"}
