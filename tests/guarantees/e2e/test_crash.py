"""The process group is killed under load: each complete response has one row, and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

import asyncpg
import httpx
from redis.asyncio import Redis

from gateway.meter.holds import HEARTBEAT_TTL_SECONDS
from gateway.workers.usage.hold_sweeper import ABSENCE_SECONDS
from tests.guarantees.demo import Running, start_demo, stop

CLIENTS = 16
QUICK = ("/v1/analyze", b"a few words")
# Its events take a while, so that calls are under way, and held for, whenever the kill comes.
SLOW = ("/v1/chat/completions", b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}')
LOAD_SECONDS = 2.0
LEASE_SECONDS = HEARTBEAT_TTL_SECONDS + ABSENCE_SECONDS + 10


async def test_killed_gateway_leaves_one_row_for_each_complete_response(tmp_path: Path) -> None:
    plan = {"GATEWAY_PRICES__OPENAI__HOLD": "2"}
    before = start_demo(tmp_path / "data", **plan)
    await _give_room(before)
    received = await _load_until_killed(before)
    after = start_demo(tmp_path / "data", **plan)
    try:
        await _no_hold_is_left(after)
        rows, balance, charged, abandoned = await _records(after)
    finally:
        assert stop(after) == 0

    assert received, "the load must have been answered before the kill"
    assert abandoned, "the kill must have come while calls were under way"
    assert [request_id for request_id in received if rows[request_id] != 1] == []
    assert max(rows.values()) == 1
    assert balance.granted - charged == balance.current


class Balance:
    def __init__(self, granted: int, current: int) -> None:
        self.granted = granted
        self.current = current


async def _give_room(running: Running) -> None:
    """Lifts the limits of the demo plan, so that only the machine limits the load."""
    async with httpx.AsyncClient(base_url=running.admin_url, headers=running.admin_headers) as admin:
        unlimited = {"requests_per_minute": None, "requests_per_hour": None}
        credits = {"amount": 1_000_000, "reason": "load"}
        plan = await admin.patch("/admin/v1/plans/pro", json=unlimited)
        grant = await admin.post(f"/admin/v1/users/{running.user_id}/credits/grant", json=credits)
    assert plan.is_success, plan.text
    assert grant.is_success, grant.text


async def _load_until_killed(running: Running) -> list[str]:
    received: list[str] = []

    async def client(number: int) -> None:
        path, body = QUICK if number % 2 else SLOW
        sent = 0
        await asyncio.sleep(number * LOAD_SECONDS / CLIENTS)  # else they come, and end, all at once
        async with httpx.AsyncClient(base_url=running.public_url, headers={"X-API-Key": running.api_key}) as caller:
            while True:
                sent += 1
                request_id = f"crash-{number}-{sent}"
                try:
                    answer = await caller.post(path, content=body, headers={"X-Request-Id": request_id})
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    received.append(request_id)

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(LOAD_SECONDS)
    await _are_under_way(running)
    os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()
    await asyncio.gather(*clients)
    return received


async def _are_under_way(running: Running) -> None:
    async with asyncio.timeout(30):
        while await _open_holds(running) < 2:  # noqa: ASYNC110 - Redis has no event to offer
            await asyncio.sleep(0.01)


async def _open_holds(running: Running) -> int:
    async with Redis.from_url(running.redis_url) as redis:
        return sum([await redis.hlen(f"gw:{{p{partition:02d}}}:h") for partition in range(64)])


async def _no_hold_is_left(running: Running) -> None:
    deadline = time.monotonic() + LEASE_SECONDS
    while await _open_holds(running):
        assert time.monotonic() < deadline, "holds outlived the lease"
        await asyncio.sleep(0.5)
    async with Redis.from_url(running.redis_url) as redis:
        while any([await redis.xlen(f"gw:{{p{partition:02d}}}:j") for partition in range(64)]):
            assert time.monotonic() < deadline, "the journal does not drain"
            await asyncio.sleep(0.1)


async def _records(running: Running) -> tuple[Counter[str], Balance, int, int]:
    connection = await asyncpg.connect(running.database_url)
    rows = Counter(
        {
            row["client_request_id"]: row["count"]
            for row in await connection.fetch(
                "SELECT client_request_id, count(*) FROM usage_tracking GROUP BY client_request_id"
            )
        }
    )
    charged = await connection.fetchval("SELECT sum(credits_charged)::bigint FROM usage_tracking")
    abandoned = await connection.fetchval("SELECT count(*) FROM usage_tracking WHERE outcome = 'abandoned'")
    granted = await connection.fetchval("SELECT sum(amount)::bigint FROM credit_grants")
    current = await connection.fetchval("SELECT current_credits FROM user_credits")
    await connection.close()
    return rows, Balance(granted, current), charged, abandoned
