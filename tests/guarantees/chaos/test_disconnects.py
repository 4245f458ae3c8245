"""Clients disconnect at any moment while stores and upstream lag: no response goes astray, everything is released.

redis-py gave one tenant the reply of another's cancelled command (its issue 2624); this is the test for that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from gateway.config import load
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.scripts import SCRIPTS
from gateway.proxy.forward import disconnects
from gateway.proxy.router import Router
from gateway.runtime.upstreams import destinations
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.faults.proxy import FaultProxy
from tests.guarantees.simulation.disconnecting_clients import Findings, Moment, Visit, echo_upstream, pay, visits
from tests.proxy import data_plane as data_planes
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import Account, DataPlane
from tests.support.polling import eventually
from tests.support.sampling import scaled, seeded_random

REQUESTS = scaled(suite=1_000, full=20_000)
AT_A_TIME = 100
ACCOUNTS = 12
DELAY_SECONDS = 0.05
GRANTED = 1_000_000  # times the account's number: so the balances that accounts are told never overlap
AFTERMATH_SECONDS = 30.0
ENVIRON = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


@pytest.fixture
async def data_plane(migrated_url: str, redis_url: str, database: Database, redis: Redis) -> AsyncIterator[DataPlane]:
    """A data plane that reaches Valkey with up to 50 ms of latency in each direction."""
    address = urlsplit(redis_url)
    assert address.hostname is not None
    assert address.port is not None
    delays = seeded_random("Valkey")
    redis_client = RedisClient(redis_url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    async with upstreams.running() as upstream, FaultProxy(address.hostname, address.port) as far:
        far.requests.delay_seconds = far.replies.delay_seconds = lambda: delays.uniform(0, DELAY_SECONDS)
        places = {"database.url": migrated_url, "redis.url": far.through(redis_url)}
        places["upstreams.main.targets"] = upstream.url
        config = load(Path(__file__).parent / "gateway.yaml", ENVIRON, overrides=places)
        async with data_planes.running(
            config, upstream, database=database, redis=redis, redis_client=redis_client
        ) as data_plane:
            yield data_plane
            far.requests.delay_seconds = far.replies.delay_seconds = lambda: 0.0  # pending settlements then end soon
    await redis_client.close()


async def test_disconnects_mix_no_responses_and_release_everything(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnects, "MAX_DRAINS", 8)  # so that many calls are cut at once
    monkeypatch.setattr(disconnects, "DRAIN_SECONDS", 0.5)  # and those without an end soon
    accounts = [await data_plane.create_account(credits=GRANTED * number) for number in range(1, ACCOUNTS + 1)]
    findings = Findings()
    data_plane.upstream.answer = echo_upstream(findings, accounts, seeded_random("upstream"))
    warming = [
        Visit(each, f"{number}-warm", Moment.NEVER, 1, False, False, 0, 0) for number, each in enumerate(accounts)
    ]
    await _storm(data_plane, warming, accounts, findings)
    before = await _resources(data_plane)

    storm = list(visits(accounts, REQUESTS, seeded_random("clients")))
    await _storm(data_plane, storm, accounts, findings)

    books = [await _books(data_plane, account) for account in accounts]
    await _wait_for_release(data_plane)
    await eventually(lambda: _open_resources() <= before, AFTERMATH_SECONDS)
    outcomes = Counter(outcome for book in books for _, outcome in book["rows"])
    measured.append(f"disconnects: {REQUESTS:,} requests, {dict(outcomes)}, {len(findings.foreign)} foreign bytes")
    assert findings.foreign == []
    assert Counter(findings.statuses).keys() == {200}
    assert findings.whole >= {visit.nonce for visit in storm if visit.moment is Moment.NEVER}
    _check_books(books, findings, storm)


def _check_books(books: list[dict[str, Any]], findings: Findings, storm: list[Visit]) -> None:
    outcomes = {nonce: outcome for book in books for nonce, outcome in book["rows"]}
    assert sum(len(book["rows"]) for book in books) == len(outcomes), "a request has two rows"
    assert findings.reached <= outcomes.keys(), "a request without a row reached the upstream"
    assert {outcomes[nonce] for nonce in findings.whole} == {"succeeded"}
    assert {outcomes.get(visit.nonce) for visit in storm if visit.moment is Moment.IN_HEAD} == {None}
    assert set(outcomes.values()) == {"succeeded", "client_aborted"}
    for book in books:
        assert book["admitted"] == len(book["rows"])
        assert book["ledger"] == book["stored"] == book["hot"] == book["granted"] - book["charged"]


async def _storm(data_plane: DataPlane, storm: list[Visit], accounts: list[Account], findings: Findings) -> None:
    ranges = {each.user_id: range(GRANTED * number, GRANTED * (number + 1)) for number, each in enumerate(accounts)}
    room = asyncio.Semaphore(AT_A_TIME)

    async def visit(one: Visit) -> None:
        async with room:
            await pay(data_plane, one, findings, range_of=ranges[one.account.user_id])

    await asyncio.gather(*(visit(one) for one in storm))


async def _resources(data_plane: DataPlane) -> tuple[int, int]:
    await _wait_for_release(data_plane)
    return _open_resources()


async def _wait_for_release(data_plane: DataPlane) -> None:
    """Waits until every lease is released, then closes the idle connections to the upstream."""
    pools = [target.pool for each in data_plane.handler._destinations.values() for target in each.upstream._targets]
    await eventually(lambda: all(pool.busy == 0 for pool in pools), AFTERMATH_SECONDS)
    before = data_plane.handler.swap(Router(data_plane.config.routes), destinations(data_plane.config))
    for destination in before.values():
        await destination.upstream.close()


def _open_resources() -> tuple[int, int]:
    """Tasks and file descriptors of this process."""
    return len(asyncio.all_tasks()), psutil.Process().num_fds()


async def _books(data_plane: DataPlane, account: Account) -> dict[str, Any]:
    hot = await data_plane.settled_state(account)
    stored = await data_plane.stored_balance(account)
    user = {"user": account.user_id}
    rows = text("SELECT client_request_id, outcome, credits_charged FROM usage_tracking WHERE user_id = :user")
    ledger = text(
        "SELECT sum(amount)::bigint, sum(amount) FILTER (WHERE kind = 'grant')::bigint"
        " FROM credit_ledger WHERE user_id = :user"
    )
    async with data_plane.database.read() as connection:
        found = list(await connection.execute(rows, user))
        total, granted = (await connection.execute(ledger, user)).one()
    return {
        "admitted": hot.used[2],
        "rows": [(row.client_request_id, row.outcome) for row in found],
        "charged": sum(row.credits_charged for row in found),
        "hot": hot.balance,
        "stored": stored,
        "ledger": total,
        "granted": granted,
    }
