"""Histories of calls, grants, changes, backups, restores of either store, failovers and flips, drawn at random.

After each of them all books agree, every account is served again within ten seconds, every served call has its row, and
nobody was served more than there were credits for.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway.ledger.accounts import users
from gateway.ledger.db.session import DatabaseUnavailable
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation import restored_stores
from tests.guarantees.simulation.faulty_valkey import Fault, FaultyValkey
from tests.guarantees.simulation.restored_stores import Site
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import Account
from tests.proxy.upstream import ScriptedUpstream
from tests.support.sampling import scaled, seeded_random
from tests.support.steady_clock import steady_clock

HISTORIES = scaled(suite=10, full=200)
EVENTS = scaled(suite=3, full=8)
REFUSED_SECONDS = 10.0
MOST_CHANGES_LOST = 3  # of a failover
GREATEST_GRANT = 80
# More than an account can owe once all its grants are lost and spent.
GRANT_AT_THE_END = EVENTS * MOST_CHANGES_LOST * GREATEST_GRANT


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[list[FaultyValkey]]:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = FaultyValkey(tmp_path / "a")
    async with one, FaultyValkey(tmp_path / "b", password=one.endpoint.password) as other:
        yield [one, other]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with upstreams.running() as running:
        yield running


@pytest.fixture(autouse=True)
async def _quiet_and_steady() -> AsyncIterator[None]:
    with capture_logs() as logs, steady_clock():
        yield
    for entry in logs:  # pytest shows them where the test fails
        if entry["log_level"] == "error":
            error = entry.pop("exc_info", None)
            print(entry, *(traceback.format_exception(error) if isinstance(error, BaseException) else ()))  # noqa: T201


Event = Callable[[Site], Awaitable[None]]


async def grant(site: Site) -> None:
    await site.grant(site.random.choice(site.accounts), site.random.randint(1, GREATEST_GRANT))


async def change_the_plan(site: Site) -> None:
    account = site.random.choice(site.accounts)
    await site.first.change_plan(account, description=f"{site.random.random()}")


async def change_an_account(site: Site) -> None:
    account = site.random.choice(site.accounts)
    async with site.first.database.transaction() as connection:
        await users.suspend(connection, account.user_id)
        await users.reactivate(connection, account.user_id)


async def back_up(site: Site) -> None:
    await site.postgresql.back_up()
    await site.redis[site.active].back_up()


async def restore_postgresql(site: Site) -> None:
    if site.postgresql.copies:
        await site.restore_postgresql(site.random.choice(site.postgresql.copies))


async def fail_over_postgresql(site: Site) -> None:
    """To a standby that lacks the last moments."""
    copy = await site.postgresql.back_up()
    for _ in range(site.random.randint(0, MOST_CHANGES_LOST)):
        await site.random.choice((grant, change_the_plan, change_an_account))(site)
    await asyncio.sleep(site.random.uniform(0.05, 0.8))
    await site.restore_postgresql(copy)


async def restore_redis(site: Site) -> None:
    if site.redis[site.active].has_copy:
        await site.redis[site.active].restore()


async def restart_redis(site: Site) -> None:
    await site.redis[site.active].suffer(Fault.RESTARTED, site.random.uniform(0, 0.3))


async def flush_redis(site: Site) -> None:
    await site.redis[site.active].suffer(Fault.FLUSHED, 0)


async def flip(site: Site) -> None:
    await site.flip()


async def flip_there_and_back(site: Site) -> None:
    await site.flip()
    await asyncio.sleep(site.random.uniform(0, 3))
    await site.flip()


CHANGES: tuple[Event, ...] = (grant, grant, change_the_plan, change_an_account)
FAULTS: tuple[Event, ...] = (
    *(restore_postgresql, restore_postgresql, fail_over_postgresql, fail_over_postgresql),
    *(restore_redis, restart_redis, flush_redis, flip, flip_there_and_back, flip_there_and_back),
)


@pytest.mark.parametrize("number", range(HISTORIES))
async def test_history_ends_with_equal_books(
    number: int,
    redis: list[FaultyValkey],
    upstream: ScriptedUpstream,
    new_database_url: Callable[[], Awaitable[str]],
    tmp_path: Path,
) -> None:
    random, database_url = seeded_random(f"history {number}"), await new_database_url()
    async with restored_stores.running(tmp_path, redis, upstream, database_url=database_url, random=random) as site:
        await asyncio.sleep(0.3)
        await back_up(site)
        for _ in range(EVENTS):
            event = random.choice((*CHANGES, back_up, *FAULTS, *FAULTS))
            print(event.__name__)  # noqa: T201 - pytest shows it where the test fails
            await event(site)
            await asyncio.sleep(random.uniform(0, 1))
        print("end")  # noqa: T201
        await _are_served(site)
        site.is_over = True
        await site.settle()
        assert await site.findings() == []
        await _assert_rows(site)
        assert site.longest_refusal < REFUSED_SECONDS
        assert site.statuses <= {200, 402, 503}
    measured.append(f"history {number}: {site.calls:,} calls, refused for {site.longest_refusal:.1f} s at most")


async def _are_served(site: Site) -> None:
    """Also for credits that were bought after whatever happened."""
    for account in site.accounts:
        await _granted(site, account)
    async with asyncio.timeout(REFUSED_SECONDS):
        for account in site.accounts:
            while (await site.first.get(account, client_request_id="")).status_code != 200:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)


async def _granted(site: Site, account: Account) -> None:
    while True:
        try:
            await site.grant(account, GRANT_AT_THE_END)
            return
        except DatabaseUnavailable:
            await asyncio.sleep(0.05)


async def _assert_rows(site: Site) -> None:
    """Each served call has one row, and nobody was served more than there was."""
    rows = await site.rows(text("SELECT request_id FROM usage_tracking WHERE outcome = 'succeeded'"))
    recorded = {str(row.request_id) for row in rows}
    assert len(recorded) == len(rows)
    for user_id, calls in site.served.calls.items():
        assert [call for call in calls if call not in recorded] == []
        assert len(calls) <= site.served.given[user_id]
