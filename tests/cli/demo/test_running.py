"""What `gateway demo` prints for people, and the account that it keeps over restarts."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from gateway.cli.demo.account import DemoAccount, ensure_account
from gateway.cli.demo.running import _instructions, open_shop
from gateway.ledger.catalogue import plans
from gateway.runtime.stores import StoreUrls
from tests.cli.demo.seeding import demo_config

ACCOUNT = DemoAccount(uuid4(), "gw_live_key", "a password")
FACTS = {
    "public_url": "http://127.0.0.1:8080",
    "admin_url": "http://127.0.0.1:8081",
    "api_key": ACCOUNT.key,
    "admin_token": "the token",
}


def test_demo_says_where_customers_and_operators_sign_in(tmp_path: Path) -> None:
    printed = _instructions(demo_config(tmp_path), FACTS, ACCOUNT)
    assert "http://127.0.0.1:8080/portal     as the customer demo@example.com with the password a password" in printed
    assert "http://127.0.0.1:8081/console    as an operator with the token the token" in printed


async def test_paid_plans_of_the_demo_are_on_sale_at_its_shop(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    from gateway.cli.installation import connect, prepare

    config, stores = demo_config(tmp_path), StoreUrls(own_database_url, redis_url)
    await prepare(config, stores)
    for _ in range(2):  # a restart keeps what is on sale
        settings = await open_shop(config, stores, upstream_url="http://127.0.0.1:9000")
        async with connect(config, stores) as database, database.read() as connection:
            sold = {plan.id: dict(plan.terms.provider_ids) for plan in await plans.list_plans(connection)}
        assert sold == {
            "free": {},
            "basic": {"lemon_squeezy_variant_id": "20000999"},
            "pro": {"lemon_squeezy_variant_id": "30002999"},
            "enterprise": {"lemon_squeezy_variant_id": "40009999"},
        }
    assert settings["GATEWAY_BILLING__LEMON_SQUEEZY__API_BASE"] == "http://127.0.0.1:9000/store"
    port = config.server.public.port
    assert settings["GATEWAY_BILLING__SUCCESS_URL"] == f"http://127.0.0.1:{port}/portal/paid"


async def test_demo_account_is_the_same_after_a_restart(tmp_path: Path, own_database_url: str, redis_url: str) -> None:
    from gateway.cli.installation import prepare

    config, stores = demo_config(tmp_path), StoreUrls(own_database_url, redis_url)
    await prepare(config, stores)
    first = await ensure_account(config, stores, with_month=False)
    assert await ensure_account(config, stores, with_month=False) == first
    assert (tmp_path / "demo_password").stat().st_mode & 0o077 == 0
