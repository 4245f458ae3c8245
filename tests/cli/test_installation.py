"""A new installation has the configured plans, and its subscribers may call its routes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli import installation
from gateway.config import Config, load
from gateway.ledger.accounts import api_keys
from gateway.ledger.accounts.principals import find_principal
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan, Tier
from gateway.ledger.subscriptions import lifecycle
from gateway.runtime.stores import StoreUrls
from policies.access.authorization import may
from tests.ledger.make import NOON, a_fingerprint, a_user

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
ROUTES = """
upstreams: {ai: {targets: [http://127.0.0.1:9000]}}
routes:
  - {name: analyze, match: {path: /v1/analyze}, upstream: ai, permission: analyze, price: {credits: 1}}
  - {name: open, match: {path: /v1/open}, upstream: ai, price: {credits: 1}}
"""
PLANS = """
plans:
  - {id: team, name: Team of ten, price: 0, credits_per_period: 5, features: [analysis], pricing_model: volume,
     tiers: [{up_to: 10, unit_price: 0.5, flat_price: 1}, {unit_price: 0.25}], stripe_price_id: price_x}
  - {id: reader, name: Reader, price: 1, permissions: [read]}
"""


def config(tmp_path: Path, written: str) -> Config:
    file = tmp_path / "gateway.yaml"
    file.write_text(written, "utf-8")
    return load(file, SECRETS, persist_secrets=False)


async def test_configured_plans_are_created_complete(connection: AsyncConnection, tmp_path: Path) -> None:
    assert await installation.seed(connection, config(tmp_path, ROUTES + PLANS)) == ("team", "reader")
    team, reader = await _plan(connection, "team"), await _plan(connection, "reader")
    assert (team.terms.name, str(team.terms.price), team.terms.credits_per_period) == ("Team of ten", "0", 5)
    assert (team.terms.features, team.terms.provider_ids) == ({"analysis": True}, {"stripe_price_id": "price_x"})
    assert team.terms.tiers == (
        Tier(up_to=10, unit_price=Decimal("0.5"), flat_price=Decimal(1)),
        Tier(up_to=None, unit_price=Decimal("0.25")),
    )
    assert (team.permissions, reader.permissions) == (frozenset({"analyze"}), frozenset({"read"}))


async def test_default_plans_have_their_names_as_ids(connection: AsyncConnection, tmp_path: Path) -> None:
    assert await installation.seed(connection, config(tmp_path, ROUTES)) == ("free", "basic", "pro", "enterprise")
    assert [plan.id for plan in await plans.list_plans(connection)] == ["free", "basic", "pro", "enterprise"]


async def test_new_key_may_call_a_route_with_a_permission_until_its_withdrawal(
    connection: AsyncConnection, tmp_path: Path
) -> None:
    settings = config(tmp_path, ROUTES)
    await installation.seed(connection, settings)
    user, fingerprint = await a_user(connection), a_fingerprint()
    await api_keys.create(connection, user.id, fingerprint=fingerprint)
    await lifecycle.start(connection, user.id, plan_id="free", now=NOON)
    assert await _may_analyze(connection, fingerprint.key_hash)
    await plans.withdraw_permission(connection, "free", "analyze")
    await installation.seed(connection, settings)
    assert not await _may_analyze(connection, fingerprint.key_hash)


async def _may_analyze(connection: AsyncConnection, key_hash: bytes) -> bool:
    principal = await find_principal(connection, key_hash)
    assert principal is not None
    assert principal.account.subscription is not None
    return may(principal.key, principal.account.subscription.plan, "analyze")


async def _plan(connection: AsyncConnection, plan_id: str) -> StoredPlan:
    plan = await plans.get(connection, plan_id)
    assert plan is not None
    return plan


async def test_reload_goes_on_without_a_plan_whose_price_is_anothers(own_database_url: str, tmp_path: Path) -> None:
    stores = StoreUrls(own_database_url, "redis://127.0.0.1:1")
    await installation.apply_reload(stores, config(tmp_path, ROUTES + PLANS))
    again = PLANS.replace("id: team, name: Team of ten", "id: crew, name: Crew")
    changed = config(tmp_path, ROUTES + again)
    await installation.apply_reload(stores, changed)
    async with installation.connect(changed, stores) as database, database.read() as connection:
        assert await plans.get(connection, "crew") is None
