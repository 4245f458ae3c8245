"""Alerts about calls fire on their faults in a scaled-out installation and clear after them, as Prometheus sees it.

Every duration of the rules is a thirtieth (`SHORTENED`); other thresholds are those of the rules.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from secrets import token_bytes

import asyncpg
import pytest

from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from policies.access.keys import ENTROPY_BYTES, compose
from tests.guarantees.alerts.scraped_site import PROMETHEUS, SHORTENED, Site, calling, scraped
from tests.guarantees.chaos.conftest import measured
from tests.proxy.upstream import Exchange
from tests.support.sampling import IS_FULL

SPOOLED_CALLS = 5
CLEARED_SECONDS = 3 * 3600 / SHORTENED + 60  # the longest window, and what a slow machine needs
CLOSED_PORT = 1

Fault = Callable[[Site], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def repeated(action: Callable[[], object], seconds: float) -> AsyncIterator[None]:
    """Does it again and again for the time of the block."""

    async def repeat() -> None:
        while True:
            done = action()
            if asyncio.iscoroutine(done):
                await done
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def sql(site: Site, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(site.postgresql.url)
    try:
        for each in statements:
            await connection.execute(each)
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def upstream_fails(site: Site) -> AsyncIterator[None]:
    site.upstream.respond_with(500)
    yield
    site.upstream.respond_with(200)


@asynccontextmanager
async def redis_is_frozen(site: Site) -> AsyncIterator[None]:
    site.wires["redis"].freeze()
    yield
    site.wires["redis"].thaw()


@asynccontextmanager
async def postgresql_is_frozen(site: Site) -> AsyncIterator[None]:
    """Calls come of a key that no process knows."""
    site.wires["postgres"].freeze()
    unknown = compose("gw", token_bytes(ENTROPY_BYTES)).secret
    async with repeated(lambda: site.get(key=unknown), 0.3):
        yield
    site.wires["postgres"].thaw()


@asynccontextmanager
async def redis_is_slow(site: Site) -> AsyncIterator[None]:
    site.wires["redis"].replies.delay_seconds = lambda: 0.15
    yield
    site.wires["redis"].replies.delay_seconds = lambda: 0.0


@asynccontextmanager
async def upstream_is_down(site: Site) -> AsyncIterator[None]:
    port = site.wires["upstream"]._target[1]
    site.wires["upstream"].lead_to(CLOSED_PORT)
    yield
    site.wires["upstream"].lead_to(port)


@asynccontextmanager
async def usage_table_is_locked(site: Site) -> AsyncIterator[None]:
    async with sql(site) as connection, connection.transaction():
        await connection.execute("LOCK TABLE usage_tracking IN SHARE MODE")
        yield


@asynccontextmanager
async def redis_leaves_calls_under_way(site: Site) -> AsyncIterator[None]:
    """Calls that were admitted end while Redis is away."""
    begun, may_end = asyncio.Semaphore(0), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        begun.release()
        await may_end.wait()
        await exchange.reply()

    site.upstream.answer = answer
    calls = [asyncio.create_task(site.get()) for _ in range(SPOOLED_CALLS)]
    for _ in calls:
        await asyncio.wait_for(begun.acquire(), 30)
    site.wires["redis"].freeze()
    may_end.set()
    site.upstream.respond_with(200)
    yield
    site.wires["redis"].thaw()
    await asyncio.gather(*calls)


# What takes longest to clear comes first.
FAULTS: dict[str, dict[str, Fault]] = {
    "calls": {
        "GatewayUpstreamDown": upstream_is_down,
        "GatewayAnswersWithErrors": upstream_fails,
        "GatewayCannotMeter": redis_is_frozen,
        "GatewayCannotReadAccounts": postgresql_is_frozen,
        "GatewaySpoolGrows": redis_leaves_calls_under_way,
        "GatewayIsSlow": redis_is_slow,
        "GatewayJournalLags": usage_table_is_locked,
    },
}


@pytest.fixture
async def redis_url(tmp_path: Path) -> AsyncIterator[str]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server, endpoint = Valkey(folder, durable=True), choose(None).valkey
    await server.start(endpoint)
    yield f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0"
    await server.stop()


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.skipif(not IS_FULL, reason="takes up to eight minutes each; GATEWAY_TEST_SCALE=full")
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
async def test_alerts_fire_on_their_faults_and_clear(
    kind: str, tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    silent: list[str] = []
    async with scraped(tmp_path, database_url=own_database_url, redis_url=redis_url) as site, calling(site):
        await asyncio.sleep(10)
        assert await site.prometheus.firing() == set()
        for alert, fault in FAULTS[kind].items():
            async with fault(site):
                try:
                    seconds = await site.prometheus.fires(alert)
                    print(f"{alert} fires after {seconds:.0f} s on {fault.__name__}")  # noqa: T201 - shown at a failure
                    measured.append(f"{alert} fires after {seconds:.0f} s: {_words(fault)}")
                except TimeoutError:
                    silent.append(alert)
                    print(f"{alert} is silent on {fault.__name__}")  # noqa: T201
        async with asyncio.timeout(CLEARED_SECONDS):
            while left := await site.prometheus.firing():
                print(f"still firing: {sorted(left)}")  # noqa: T201
                await asyncio.sleep(5)
    assert silent == []
    measured.append(f"the alerts of {kind} have cleared")


def _words(fault: Fault) -> str:
    return re.sub("_", " ", fault.__name__)
