"""Plans of the configuration are created once and overwritten on request only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.principals import get_catalogue
from gateway.ledger.catalogue import configured_plans, permissions, plans
from gateway.ledger.catalogue.configured_plans import ConfiguredPlan
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db.errors import AlreadyExists, NotFound
from gateway.ledger.db.session import Database

TIERS = (
    Tier(up_to=10, unit_price=Decimal("0.5"), flat_price=Decimal(1)),
    Tier(up_to=None, unit_price=Decimal("0.25")),
)
FREE = ConfiguredPlan("free", PlanTerms(name="Free", price=Decimal(0)))
PRO = ConfiguredPlan("pro", PlanTerms(name="Professional", price=Decimal("29.99"), pricing_model="tiered", tiers=TIERS))
NARROW = ConfiguredPlan("narrow", PlanTerms(name="Narrow", price=Decimal(1)), permissions=frozenset({"export"}))
ROUTES = frozenset({"analyze", "export"})


async def test_seed_creates_plans_with_all_terms(connection: AsyncConnection) -> None:
    assert await configured_plans.seed(connection, [FREE, PRO]) == ("free", "pro")
    stored = {plan.id: plan for plan in await plans.list_plans(connection)}
    assert {plan_id: plan.terms for plan_id, plan in stored.items()} == {"free": FREE.terms, "pro": PRO.terms}
    assert {plan.version for plan in stored.values()} == {1}


async def test_seed_is_idempotent(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [FREE, PRO, NARROW], route_permissions=ROUTES)
    before = (await plans.list_plans(connection), await get_catalogue(connection))
    dearer = replace(PRO, terms=replace(PRO.terms, price=Decimal(99)), permissions=frozenset())
    assert await configured_plans.seed(connection, [FREE, dearer, NARROW], route_permissions=ROUTES) == ()
    assert (await plans.list_plans(connection), await get_catalogue(connection)) == before


async def test_seed_skips_a_plan_whose_name_is_taken(connection: AsyncConnection) -> None:
    await plans.create(connection, PRO.terms, plan_id="old")
    assert await configured_plans.seed(connection, [PRO], route_permissions=ROUTES) == ()
    assert [plan.id for plan in await plans.list_plans(connection)] == ["old"]


async def test_seed_grants_route_permissions_to_plans_that_list_none(connection: AsyncConnection) -> None:
    nothing = ConfiguredPlan("nothing", replace(FREE.terms, name="Nothing"), permissions=frozenset())
    await configured_plans.seed(connection, [FREE, PRO, NARROW, nothing], route_permissions=ROUTES)
    assert await _permissions(connection) == {"free": ROUTES, "pro": ROUTES, "narrow": {"export"}, "nothing": set()}


async def test_seed_does_not_grant_a_withdrawn_permission_again(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [FREE, PRO], route_permissions=ROUTES)
    await plans.withdraw_permission(connection, "free", "analyze")
    await configured_plans.seed(connection, [FREE, PRO], route_permissions=ROUTES)
    assert await _permissions(connection) == {"free": {"export"}, "pro": ROUTES}


async def test_seed_grants_a_new_route_permission_to_no_existing_plan(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [FREE, NARROW], route_permissions=["analyze"])
    await plans.withdraw_permission(connection, "free", "analyze")
    await plans.create(connection, replace(PRO.terms, name="made by hand"), plan_id="hand")
    assert await configured_plans.seed(connection, [FREE, NARROW], route_permissions=["analyze", "fly"]) == ()
    assert await _permissions(connection) == {"free": set(), "narrow": {"export"}, "hand": set()}
    assert "fly" in {permission.name for permission in await permissions.list_all(connection)}


async def test_seed_grants_existing_route_permissions_to_new_plans(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [FREE], route_permissions=ROUTES)
    assert await configured_plans.seed(connection, [FREE, PRO], route_permissions=ROUTES) == ("pro",)
    assert await _permissions(connection) == {"free": ROUTES, "pro": ROUTES}


async def test_seed_by_concurrent_nodes_creates_each_plan_once(own_database_url: str) -> None:
    database = Database(own_database_url, pool_size=4)

    async def start() -> tuple[str, ...]:
        async with database.transaction() as connection:
            return await configured_plans.seed(connection, [FREE, PRO], route_permissions=ROUTES)

    assert sorted(await asyncio.gather(*(start() for _ in range(4)))) == [(), (), (), ("free", "pro")]
    await database.close()


async def test_apply_overwrites_and_reports_changes(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [FREE, PRO])
    before = await get_catalogue(connection)
    dearer = replace(PRO, terms=replace(PRO.terms, price=Decimal(39), tiers=TIERS[:1]))
    first, second = await configured_plans.apply(connection, [FREE, dearer, NARROW])
    assert (first.plan_id, first.is_new) == ("pro", False)
    assert first.changed == {"price": (Decimal("29.99"), Decimal(39)), "tiers": (TIERS, TIERS[:1])}
    assert (second.plan_id, second.is_new) == ("narrow", True)
    assert second.changed["permissions"] == (None, {"export"})
    stored = {plan.id: plan for plan in await plans.list_plans(connection)}
    assert (stored["pro"].terms, stored["pro"].version, stored["free"].version) == (dearer.terms, 2, 1)
    assert (await get_catalogue(connection)).version > before.version
    assert await configured_plans.apply(connection, [FREE, dearer, NARROW]) == ()


async def test_apply_renames_a_plan_of_the_same_id(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [PRO])
    renamed = replace(PRO, terms=replace(PRO.terms, name="Team"))
    (change,) = await configured_plans.apply(connection, [renamed])
    assert change.changed == {"name": ("Professional", "Team")}
    with pytest.raises(AlreadyExists, match="uq_subscription_plans_name"):
        await configured_plans.apply(connection, [replace(renamed, id="team")])


async def test_apply_changes_permissions_only_where_listed(connection: AsyncConnection) -> None:
    await configured_plans.seed(connection, [FREE, PRO], route_permissions=ROUTES)
    (change,) = await configured_plans.apply(
        connection, [FREE, replace(PRO, permissions=frozenset({"analyze", "fly"}))]
    )
    assert (change.plan_id, change.changed) == ("pro", {"permissions": (ROUTES, {"analyze", "fly"})})
    assert await _permissions(connection) == {"free": ROUTES, "pro": {"analyze", "fly"}}
    await configured_plans.apply(connection, [replace(FREE, permissions=frozenset())])
    assert (await _permissions(connection))["free"] == set()


async def test_apply_grants_route_permissions_to_new_plans(connection: AsyncConnection) -> None:
    with pytest.raises(NotFound, match="permission analyze"):
        await configured_plans.apply(connection, [PRO], route_permissions=ROUTES)
    await configured_plans.seed(connection, [FREE], route_permissions=ROUTES)
    await configured_plans.apply(connection, [PRO], route_permissions=ROUTES)
    assert (await _permissions(connection))["pro"] == ROUTES


async def _permissions(connection: AsyncConnection) -> dict[str, frozenset[str]]:
    return {plan.id: plan.permissions for plan in await plans.list_plans(connection)}
