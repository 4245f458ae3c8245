"""Plans have ids, are stored exactly, and count their changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.principals import get_catalogue
from gateway.ledger.catalogue import permissions, plans
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle
from tests.ledger.make import NOON, a_user

TERMS = PlanTerms(name="silver", price=Decimal("12.345"))
ONE = Decimal(1)


async def test_plan_is_stored_exactly(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    assert (plan.terms, plan.version) == (TERMS, 1)
    assert await plans.get(connection, plan.id) == plan


async def test_plan_without_id_gets_a_slug_of_its_name(connection: AsyncConnection) -> None:
    for name, plan_id in (("Pro, yearly", "pro-yearly"), ("Étoile", "etoile"), ("x" * 200, "x" * 64)):
        assert (await plans.create(connection, replace(TERMS, name=name))).id == plan_id
    with pytest.raises(InvalidValue, match="id is required"):
        await plans.create(connection, replace(TERMS, name="銀"))
    assert (await plans.create(connection, replace(TERMS, name="銀"), plan_id="gin")).id == "gin"


@pytest.mark.parametrize("wrong", ["a b", "-a", "a/b", "a" * 65, "ä", "a\n"])
async def test_plan_id_that_is_no_word_is_refused(connection: AsyncConnection, wrong: str) -> None:
    with pytest.raises(InvalidValue, match="id_is_a_word"):
        await plans.create(connection, TERMS, plan_id=wrong)


async def test_plan_is_found_by_id_before_name(connection: AsyncConnection) -> None:
    misleading = await plans.create(connection, replace(TERMS, name="gold"), plan_id="silver")
    gold = await plans.create(connection, replace(TERMS, name="silver"), plan_id="gold")
    assert (await plans.find(connection, "silver"), await plans.find(connection, "gold")) == (misleading, gold)
    lead = await plans.create(connection, replace(TERMS, name="Lead"), plan_id="pb")
    assert await plans.find(connection, "Lead") == lead
    assert (await plans.get(connection, "Lead"), await plans.find(connection, "tin")) == (None, None)


async def test_plan_tiers_are_sorted_and_exact(connection: AsyncConnection) -> None:
    rest, first = (
        Tier(up_to=None, unit_price=Decimal("0.0125")),
        Tier(up_to=10, unit_price=Decimal("0.5"), flat_price=ONE),
    )
    plan = await plans.create(connection, replace(TERMS, pricing_model="tiered", tiers=(rest, first)))
    assert plan.terms.tiers == (first, rest)
    changed = await plans.change(connection, plan.id, replace(plan.terms, tiers=(rest,)))
    assert (changed.terms.tiers, changed.version) == ((rest,), 2)
    assert await plans.list_plans(connection) == (changed,)
    with pytest.raises(AlreadyExists, match="pricing tier"):
        await plans.change(connection, plan.id, replace(plan.terms, tiers=(rest, rest)))


async def test_plan_change_leaves_permissions_unless_given(connection: AsyncConnection) -> None:
    for name in ("analyze", "export"):
        await permissions.create(connection, name)
    plan = await plans.create(connection, TERMS, permissions=["analyze"])
    kept = await plans.change(connection, plan.id, replace(TERMS, price=ONE))
    assert kept.permissions == {"analyze"}
    changed = await plans.change(connection, plan.id, kept.terms, permissions=["export"])
    assert (changed.permissions, changed.version) == (frozenset({"export"}), 3)
    with pytest.raises(NotFound, match="permission fly"):
        await plans.change(connection, plan.id, kept.terms, permissions=["fly"])
    with pytest.raises(NotFound, match="no plan gold"):
        await plans.change(connection, "gold", TERMS)


@pytest.mark.parametrize(("plan_id", "name"), [("silver", "other"), ("other", "silver")])
async def test_plan_with_a_taken_id_or_name_is_refused(connection: AsyncConnection, plan_id: str, name: str) -> None:
    await plans.create(connection, TERMS)
    with pytest.raises(AlreadyExists):
        await plans.create(connection, replace(TERMS, name=name), plan_id=plan_id)


@pytest.mark.parametrize(
    "wrong",
    [{"price": Decimal(-1)}, {"billing_interval": "fortnight"}, {"currency": "usd"}, {"requests_per_hour": -1}],
)
async def test_plan_with_invalid_terms_is_refused(connection: AsyncConnection, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        await plans.create(connection, replace(TERMS, **wrong))  # type: ignore[arg-type]  # by parameter


async def test_plan_with_subscribers_cannot_be_removed(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    await lifecycle.start(connection, (await a_user(connection)).id, plan_id=plan.id, now=NOON)
    with pytest.raises(InUse):
        await plans.remove(connection, plan.id)
    assert await plans.get(connection, plan.id) == plan


async def test_plan_without_subscribers_is_removed(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    await plans.remove(connection, plan.id)
    assert await plans.get(connection, plan.id) is None
    with pytest.raises(NotFound):
        await plans.remove(connection, plan.id)


async def test_permissions_are_granted_and_withdrawn_by_name(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, TERMS)
    made = await permissions.create(connection, "analyze", description="May analyze")
    assert await permissions.list_all(connection) == (made,)
    before = await get_catalogue(connection)
    await plans.grant_permission(connection, plan.id, "analyze")
    await plans.grant_permission(connection, plan.id, "analyze")
    granted = await plans.get(connection, plan.id)
    await plans.withdraw_permission(connection, plan.id, "analyze")
    await plans.withdraw_permission(connection, plan.id, "analyze")
    withdrawn = await plans.get(connection, plan.id)
    assert granted is not None
    assert withdrawn is not None
    assert (granted.permissions, withdrawn.permissions) == (frozenset({"analyze"}), frozenset())
    assert (granted.version, withdrawn.version) == (plan.version + 1, plan.version + 2), "a repetition is no change"
    assert (await get_catalogue(connection)).version == before.version + 4
    with pytest.raises(NotFound, match="permission fly"):
        await plans.grant_permission(connection, plan.id, "fly")
    with pytest.raises(NotFound, match="plan"):
        await plans.grant_permission(connection, "gold", "analyze")
    with pytest.raises(AlreadyExists):
        await permissions.create(connection, "analyze")


async def test_concurrent_plan_changes_are_serialized(own_database_url: str) -> None:
    database = Database(own_database_url, pool_size=4)
    async with database.transaction() as connection:
        both = [(await plans.create(connection, replace(TERMS, name=name))).id for name in ("silver", "gold")]

    async def change(plan_ids: Iterable[str]) -> None:
        async with database.transaction() as connection:
            for plan_id in plan_ids:
                await plans.change(connection, plan_id, replace(TERMS, name=plan_id))

    await asyncio.gather(*(change(order) for order in (both, both[::-1]) * 4))
    async with database.read() as connection:
        assert [plan.version for plan in await plans.list_plans(connection)] == [9, 9]
    await database.close()
