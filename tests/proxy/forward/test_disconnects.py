"""Unusual endings: clients that disconnect while others wait, a shutdown, an internal error."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from gateway.meter.meter import Meter
from gateway.proxy.forward.forwarding import STREAMED_FROM_BYTES, Forwarding
from tests.proxy.data_plane import Account, DataPlane, RedisState, one_more
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually


async def outcomes(data_plane: DataPlane, account: Account) -> list[tuple[str, int | None, str | None, int]]:
    await data_plane.settled_state(account)
    rows = await data_plane.usage_rows(account)
    return [(row["outcome"], row["status_code"], row["error_code"], row["credits_charged"]) for row in rows]


async def test_client_disconnect_in_the_queue_is_not_forwarded_and_costs_nothing(data_plane: DataPlane) -> None:
    """Of two calls that wait for the only connection one disconnects: the other is served, and both are settled."""
    account = await data_plane.create_account()
    may_answer = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await may_answer.wait()
        await exchange.reply()

    data_plane.upstream.answer = answer
    first = asyncio.create_task(data_plane.get(account, "/v1/patient"))
    await eventually(lambda: data_plane.upstream.exchanges)
    async with data_plane.connect() as disconnecting, data_plane.connect() as staying:
        await disconnecting.request(account, "GET /v1/patient")
        await eventually(lambda: " 1 queued" in _pools(data_plane))
        await staying.request(account, "GET /v1/patient")
        await eventually(lambda: " 2 queued" in _pools(data_plane))
        disconnecting.disconnect()
        await eventually(lambda: " 1 queued" in _pools(data_plane))
        may_answer.set()
        assert (await staying.read_head())[0] == 200
    assert (await first).status_code == 200
    settled = sorted(await outcomes(data_plane, account), key=repr)
    assert settled == [("client_aborted", None, None, 0), *[("succeeded", 200, None, 1)] * 2]
    assert len(data_plane.upstream.exchanges) == 2
    assert " 0 queued" in _pools(data_plane)


async def test_client_disconnect_after_a_complete_response_is_charged(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/things/1")
        await client.read_head()
        client.disconnect()
    assert await outcomes(data_plane, account) == [("succeeded", 200, None, 1)]


async def test_client_connection_serves_on_after_each_outcome(data_plane: DataPlane) -> None:
    """A keep-alive connection is watched for each of its requests."""
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        for path, status in (("things/1", 200), ("nobody", 502), ("none", 404), ("things/2", 200)):
            await client.request(account, f"GET /v1/{path}")
            code, fields = await client.read_head()
            assert code == status
            await client.reader.readexactly(int(fields["content-length"]))
        data_plane.upstream.answer = _never
        await client.request(account, "GET /v1/things/3")
        await eventually(lambda: len(data_plane.upstream.exchanges) == 3)
        client.disconnect()
        await eventually(lambda: data_plane.handler._drains.active == 1)
    data_plane.upstream.reset()
    assert len(await outcomes(data_plane, account)) == 4


async def test_shutdown_finishes_quick_calls_and_releases_the_holds_of_others(data_plane: DataPlane) -> None:
    may_answer = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if exchange.target == "/v1/things/quick":
            await may_answer.wait()
            await exchange.reply()
        else:
            await _never(exchange)

    data_plane.upstream.answer = answer
    account = await data_plane.create_account()
    async with AsyncExitStack() as clients:
        async with one_more(data_plane) as stopping:
            quick = await clients.enter_async_context(stopping.connect())
            stuck = await clients.enter_async_context(stopping.connect())
            await quick.request(account, "GET /v1/things/quick")
            await stuck.request(account, "GET /v1/dear")
            await eventually(lambda: len(data_plane.upstream.exchanges) == 2)
            assert await data_plane.redis_state(account) == RedisState(92, 2, (2, 2, 2))
            asyncio.get_running_loop().call_later(0.2, may_answer.set)
        assert (await quick.read_head())[0] == 200
        assert not (await stuck.read_rest()).startswith(b"HTTP/1.1 200")
    assert await data_plane.redis_state(account) == RedisState(99, 0, (2, 2, 2))
    assert set(await outcomes(data_plane, account)) == {("succeeded", 200, None, 1), ("abandoned", None, None, 0)}


async def test_shutdown_during_a_settlement_says_what_is_charged(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Meter.settle

    async def get_stuck(*_: object) -> None:
        monkeypatch.setattr(Meter, "settle", settle)
        await asyncio.Event().wait()

    monkeypatch.setattr(Meter, "settle", get_stuck)
    account = await data_plane.create_account()
    async with AsyncExitStack() as clients:
        async with one_more(data_plane) as stopping:
            wire = await clients.enter_async_context(stopping.connect())
            await wire.request(account, "GET /v1/dear")
            await eventually(lambda: data_plane.upstream.exchanges)
        status, _ = await wire.read_head()
        problem = json.loads(await wire.read_rest())
    assert (status, problem["code"]) == (503, "shutting_down")
    assert problem["detail"].endswith("this call is charged 7 credits.")
    assert await outcomes(data_plane, account) == [("succeeded", 200, None, 7)]


async def test_internal_error_is_answered_and_releases_the_hold(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Forwarding, "_render", fail)
    account = await data_plane.create_account()
    answer = await data_plane.get(account, "/v1/dear")
    assert_problem(answer, 500, "internal_error")
    assert "a bug" not in answer.text
    monkeypatch.undo()
    assert await outcomes(data_plane, account) == [("abandoned", None, "internal_error", 0)]
    assert await data_plane.redis_state(account) == RedisState(100, 0, (1, 1, 1))
    assert (await data_plane.get(account)).status_code == 200


async def test_slow_client_gets_the_whole_response(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    body = bytes(range(256)) * 40_000
    data_plane.upstream.respond_with(200, body)
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/things/1", "connection: close")
        await client.read_head()
        received = bytearray()
        while chunk := await client.reader.read(100_000):
            received += chunk
            await asyncio.sleep(0)
    assert bytes(received) == body


async def test_early_response_to_an_upload_is_passed_on(data_plane: DataPlane) -> None:
    """The upstream responds before the body is complete, and the call is charged by its response."""
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await exchange.reader.read(10)
        await exchange.reply(403, b"no", connection="close")
        exchange.writer.close()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/things/1", "content-length: 1000000")
        await client.send(b"x" * (STREAMED_FROM_BYTES + 1))
        assert (await client.read_head())[0] == 403
    assert await outcomes(data_plane, account) == [("upstream_error", 403, None, 0)]


async def _never(exchange: Exchange) -> None:
    await exchange.read()
    await asyncio.Event().wait()


def _pools(data_plane: DataPlane) -> str:
    return repr(data_plane.handler._destinations["patient"].upstream)


async def test_client_disconnect_behind_a_stale_connection_is_not_forwarded_and_costs_nothing(
    data_plane: DataPlane,
) -> None:
    """The connection turns out stale, and its slot goes to the call that waits for it."""
    account = await data_plane.create_account()
    assert (await data_plane.get(account, "/v1/patient")).status_code == 200
    may_close, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if exchange.target.endswith("?stale"):
            await may_close.wait()
            exchange.writer.close()
        else:
            await may_answer.wait()
            await exchange.reply()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as disconnecting, data_plane.connect() as staying:
        await disconnecting.request(account, "GET /v1/patient?stale")
        await eventually(lambda: len(data_plane.upstream.exchanges) == 2)
        await staying.request(account, "GET /v1/patient")
        await eventually(lambda: " 1 queued" in _pools(data_plane))
        may_close.set()
        await eventually(lambda: len(data_plane.upstream.exchanges) == 3 and " 1 queued" in _pools(data_plane))
        disconnecting.disconnect()
        await eventually(lambda: " 0 queued" in _pools(data_plane))
        may_answer.set()
        assert (await staying.read_head())[0] == 200
    settled = sorted(await outcomes(data_plane, account), key=repr)
    assert settled == [("client_aborted", None, None, 0), *[("succeeded", 200, None, 1)] * 2]
    assert len(data_plane.upstream.exchanges) == 3
