"""Two workers that both cache an account: a change holds on the next request of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plan_migration, plans
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.subscriptions import lifecycle, renewals
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import Account, DataPlane

PATH = "/v1/featured"
Change = Callable[[AsyncConnection, Account], Awaitable[Any]]


@pytest.fixture
async def workers(data_plane: DataPlane, serve: Serve, configure: Configure) -> tuple[DataPlane, DataPlane]:
    return data_plane, await serve(configure())


@pytest.fixture
async def account(workers: tuple[DataPlane, DataPlane]) -> Account:
    """Cached in both, and loaded in Redis."""
    made = await workers[0].create_account(features={"analysis": True}, credits_per_period=50)
    assert await _codes(workers, made) == [None, None]
    return made


async def _codes(workers: tuple[DataPlane, DataPlane], account: Account) -> list[str | None]:
    return [(await worker.post(account, PATH)).json().get("code") for worker in workers]


async def _terms(connection: AsyncConnection, account: Account, **terms: Any) -> None:
    found = await plans.get(connection, account.plan.id)
    assert found is not None
    await plans.change(connection, found.id, replace(found.terms, **terms))


async def _end(connection: AsyncConnection, account: Account) -> None:
    assert account.subscription_id is not None
    await lifecycle.cancel(connection, account.subscription_id, now=now(), at_period_end=False)


async def _pause(connection: AsyncConnection, account: Account) -> None:
    assert account.subscription_id is not None
    await lifecycle.pause(connection, account.subscription_id)


async def _other_plan(connection: AsyncConnection, account: Account) -> None:
    assert account.subscription_id is not None
    poorer = await plans.create(connection, replace(account.plan.terms, name=f"{account.plan.id}-less", features={}))
    await plan_changes.change(connection, account.subscription_id, plan_id=poorer.id, now=now(), actor="test")


async def _run_out(connection: AsyncConnection, account: Account) -> None:
    assert account.subscription_id is not None
    begun = await lifecycle.cancel(connection, account.subscription_id, now=now())
    await renewals.advance(connection, begun.id, now=begun.current_period_end, grace=timedelta(days=3))


CHANGES: dict[str, tuple[Change, str]] = {
    "a limit": (lambda connection, of: _terms(connection, of, requests_per_minute=1), "rate_limited"),
    "a feature": (lambda connection, of: _terms(connection, of, features={}), "feature_not_in_plan"),
    "another plan": (_other_plan, "feature_not_in_plan"),
    "cancelled": (_end, "subscription_inactive"),
    "paused": (_pause, "subscription_inactive"),
    "run out": (_run_out, "subscription_inactive"),
    "suspended": (lambda connection, of: users.suspend(connection, of.user_id), "account_suspended"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_change_holds_on_the_next_request_of_every_worker(
    workers: tuple[DataPlane, DataPlane], account: Account, name: str
) -> None:
    change, code = CHANGES[name]
    async with workers[0].database.transaction() as connection:
        await change(connection, account)
    await workers[0].publish()
    assert await _codes(workers, account) == [code, code]


async def test_kept_plan_version_holds_on_every_worker_until_migrated(
    workers: tuple[DataPlane, DataPlane], account: Account
) -> None:
    async with workers[0].database.transaction() as connection:
        terms = replace(account.plan.terms, features={}, requests_per_minute=0)
        await plans.change(connection, account.plan.id, terms, subscribers="keep")
    await workers[0].publish()
    assert await _codes(workers, account) == [None, None]
    async with workers[0].database.transaction() as connection:
        assert await plan_migration.migrate(connection, account.plan.id) == 1
    await workers[0].publish()
    assert await _codes(workers, account) == ["feature_not_in_plan"] * 2
