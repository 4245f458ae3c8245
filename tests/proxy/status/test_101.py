"""101: WebSockets, admitted as one call, tunnelled unchanged, and settled when either side closes."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.clock import monotonic_seconds
from gateway.http import tunnel as tunnels
from gateway.proxy import handler as handlers
from gateway.proxy.router import Router
from gateway.proxy.settle import active_call
from gateway.runtime.upstreams import destinations
from policies.model import Refusal
from tests.proxy.conftest import Configure
from tests.proxy.data_plane import Account, DataPlane, RawConnection, RedisState, one_more
from tests.proxy.sockets import client, echo, handshake_fields, open_tunnel, server, switch
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

MIB = 2**20


@asynccontextmanager
async def served_by(data_plane: DataPlane, configure: Configure, handler: Any, **settings: Any) -> AsyncIterator[None]:
    """A real WebSocket server in place of the scripted upstream."""
    async with server(handler, **settings) as url:
        config = configure(upstreams__main__targets=url)
        data_plane.handler.swap(Router(config.routes), destinations(config))
        yield


async def settled_row(data_plane: DataPlane, account: Account) -> dict[str, Any]:
    await data_plane.settled_state(account)
    return dict(await data_plane.usage_row(account))


def pool(data_plane: DataPlane, upstream: str = "main") -> str:
    return repr(data_plane.handler._destinations[upstream].upstream)


# Forwarding.


async def test_messages_pass_both_ways_and_are_one_call(data_plane: DataPlane, configure: Configure) -> None:
    account = await data_plane.create_account(requests_per_minute=9)
    async with served_by(data_plane, configure, echo), client(data_plane, account, compression=None) as socket:
        fields = socket.response.headers if socket.response else {}
        assert fields["x-credits-charged"] == "2"
        assert fields["x-credits-remaining"] == "98"
        assert fields["ratelimit"].startswith('"minute";r=8;t=')
        assert await data_plane.redis_state(account) == RedisState(98, 1, (1, 1, 1))
        for said in ("hello", b"\x00\xff", "", "x" * 70_000):
            await socket.send(said)
            assert await socket.recv() == said
        await socket.close()
        row = await settled_row(data_plane, account)
    assert (row["outcome"], row["status_code"], row["error_code"], row["credits_charged"]) == (
        "succeeded",
        101,
        None,
        2,
    )
    assert (row["endpoint"], row["method"], row["path"]) == ("socket", "GET", "/v1/socket")
    assert str(row["request_id"]) == fields["x-request-id"]
    assert row["request_bytes"] > row["response_bytes"] > 70_000  # the client's frames are masked
    assert await data_plane.redis_state(account) == RedisState(98, 0, (1, 1, 1))


async def test_upstream_gets_a_generated_handshake_and_the_usual_fields(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = lambda exchange: switch(exchange, sec_websocket_protocol="chat")
    async with data_plane.connect() as wire:
        await wire.request(
            account,
            "GET /v1/socket?room=1",
            *handshake_fields(connection="keep-alive, Upgrade, X-Hop"),
            "sec-websocket-protocol: chat, talk",
            "sec-websocket-extensions: permessage-deflate",
            "content-type: application/x-www-form-urlencoded",  # as some clients say with every request
            "x-hop: dropped",
            "x-gateway-user: forged",
        )
        _, fields = await wire.read_head()
    seen = data_plane.upstream.last
    assert (seen.method, seen.target) == ("GET", "/v1/socket?room=1")
    assert (seen["connection"], seen["upgrade"]) == ("Upgrade", "websocket")
    assert seen["sec-websocket-protocol"] == "chat, talk"
    assert seen["sec-websocket-extensions"] == "permessage-deflate"
    assert seen["x-gateway-user"] == str(account.user_id)
    assert seen["via"] == "1.1 gateway"
    assert not {"x-hop", "x-api-key", "content-length"} & {name for name, _ in seen.fields}
    assert (fields["connection"], fields["upgrade"]) == ("Upgrade", "websocket")
    assert fields["sec-websocket-protocol"] == "chat"


async def test_real_client_negotiates_subprotocol_and_compression_with_the_upstream(
    data_plane: DataPlane, configure: Configure
) -> None:
    account = await data_plane.create_account()
    async with (
        served_by(data_plane, configure, echo, subprotocols=["chat"]),
        client(data_plane, account, subprotocols=["talk", "chat"]) as socket,
    ):
        assert socket.subprotocol == "chat"
        await socket.send("a" * MIB)
        assert await socket.recv() == "a" * MIB
        await socket.close()
        assert (await settled_row(data_plane, account))["request_bytes"] < 100_000


async def test_bytes_behind_the_handshakes_are_passed(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await switch(exchange, b"first of the upstream")
        assert await exchange.reader.readexactly(19) == b"first of the client"
        exchange.writer.close()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as wire:
        lines = ["GET /v1/socket HTTP/1.1", "host: a", f"x-api-key: {account.key}", *handshake_fields(), "", ""]
        await wire.send("\r\n".join(lines).encode() + b"first of the client")
        await wire.read_head()
        assert await wire.read_rest() == b"first of the upstream"
    row = await settled_row(data_plane, account)
    assert (row["request_bytes"], row["response_bytes"]) == (19, 21)


async def test_upstream_that_sends_and_closes_at_once_is_read_to_its_end(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await switch(exchange, b"goodbye")
        exchange.writer.close()

    data_plane.upstream.answer = answer
    for _ in range(20):
        async with data_plane.connect() as wire:
            await open_tunnel(wire, account)
            assert await wire.read_rest() == b"goodbye"
    await data_plane.settled_state(account)
    assert {(row["outcome"], row["response_bytes"]) for row in await data_plane.usage_rows(account)} == {
        ("succeeded", 7)
    }


async def test_large_messages_pass_both_ways_at_once(data_plane: DataPlane, configure: Configure) -> None:
    account = await data_plane.create_account()
    ours, theirs = b"u" * (8 * MIB), b"d" * (8 * MIB)

    async def exchange(socket: ServerConnection) -> None:
        sending = asyncio.create_task(socket.send(theirs))
        assert await socket.recv() == ours
        await sending

    async with (
        served_by(data_plane, configure, exchange, compression=None),
        client(data_plane, account, compression=None) as socket,
    ):
        sending = asyncio.create_task(socket.send(ours))
        assert await socket.recv() == theirs
        await sending
    row = await settled_row(data_plane, account)
    assert min(row["request_bytes"], row["response_bytes"]) > 8 * MIB


async def test_websocket_side_that_does_not_read_pauses_the_other_and_loses_nothing(data_plane: DataPlane) -> None:
    """First the client reads nothing, then the upstream: the writer is paused long before it is done."""
    account = await data_plane.create_account()
    total, chunk = 96 * MIB, b"\xa5" * MIB
    written = {"down": 0, "up": 0}
    received: list[bytes] = []
    may_read = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await switch(exchange)
        while written["down"] < total:
            await exchange.write(chunk)
            written["down"] += len(chunk)
        await may_read.wait()
        received.append(await _digest(exchange.reader, total))
        exchange.writer.close()

    data_plane.upstream.answer = answer
    expected = sha256(chunk * (total // len(chunk))).digest()
    async with data_plane.connect() as wire:
        await open_tunnel(wire, account)
        assert await _bytes_when_paused(written, "down", total) < total
        assert await _digest(wire.reader, total) == expected
        sending = asyncio.create_task(_write(wire, chunk, written, total))
        assert await _bytes_when_paused(written, "up", total) < total
        may_read.set()
        await sending
        await wire.read_rest()
    assert received == [expected]
    row = await settled_row(data_plane, account)
    assert (row["request_bytes"], row["response_bytes"]) == (total, total)


async def test_parallel_websockets_do_not_mix(data_plane: DataPlane, configure: Configure) -> None:
    account = await data_plane.create_account(credits=1000)

    async def talk(number: int) -> None:
        async with client(data_plane, account) as socket:
            for turn in range(5):
                await socket.send(f"{number} {turn}")
                assert await socket.recv() == f"{number} {turn}"

    async with served_by(data_plane, configure, echo):
        await asyncio.gather(*(talk(number) for number in range(100)))
        await data_plane.settled_state(account)
        await eventually(lambda: "[0 leased, 0 idle, 0 queued, 0 open]" in pool(data_plane))
    assert await data_plane.redis_state(account) == RedisState(800, 0, (100, 100, 100))
    rows = await data_plane.usage_rows(account)
    assert [(row["outcome"], row["credits_charged"]) for row in rows] == [("succeeded", 2)] * 100


# Refusals.


async def refused(
    data_plane: DataPlane, account: Account, path: str = "/v1/socket", **settings: Any
) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as raised:
        async with client(data_plane, account, path, **settings):
            pass
    answer = raised.value.response
    assert answer.headers["content-type"] == "application/problem+json"
    code = next(str(each) for each in Refusal if f'"code": "{each}"'.encode() in (answer.body or b""))
    return answer.status_code, code


async def test_websocket_refusals_are_those_of_any_call(data_plane: DataPlane) -> None:
    rich, poor = await data_plane.create_account(requests_per_minute=1), await data_plane.create_account(credits=1)
    assert await refused(data_plane, rich, additional_headers={}) == (401, "missing_key")
    assert await refused(data_plane, rich, additional_headers={"x-api-key": "wrong"}) == (401, "invalid_key")
    assert await refused(data_plane, poor) == (402, "insufficient_credits")
    assert await refused(data_plane, rich, "/v1/none") == (404, "route_not_found")
    assert (await data_plane.get(rich)).status_code == 200
    async with data_plane.assert_unchanged(rich):
        assert await refused(data_plane, rich) == (429, "rate_limited")
    assert [each.target for each in data_plane.upstream.exchanges] == ["/v1/things/1"]


async def test_open_websocket_is_a_call_in_flight(data_plane: DataPlane, configure: Configure) -> None:
    account = await data_plane.create_account(max_concurrent_requests=1)
    async with served_by(data_plane, configure, echo):
        async with client(data_plane, account):
            assert await refused(data_plane, account) == (429, "too_many_in_flight")
        await data_plane.settled_state(account)
        async with client(data_plane, account) as socket:
            await socket.send("again")
            assert await socket.recv() == "again"


@pytest.mark.parametrize(
    "changed",
    [
        {"sec_websocket_version": "8"},
        {"sec_websocket_version": None},
        {"sec_websocket_version": "13, 8"},
        {"sec_websocket_key": None},
        {"sec_websocket_key": ""},
        {"sec_websocket_key": b64encode(b"fifteen bytes!!").decode()},
        {"sec_websocket_key": b64encode(b"seventeen bytes!!").decode()},
        {"sec_websocket_key": "not base64 at all!!!!!=="},
        {"content_length": "2"},
        {"transfer_encoding": "chunked"},
    ],
    ids=str,
)
async def test_invalid_handshake_is_refused(data_plane: DataPlane, changed: dict[str, str | None]) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(await _warm(data_plane, account)), data_plane.connect() as wire:
        await wire.request(account, "GET /v1/socket", *handshake_fields(**changed))
        status, fields = await wire.read_head()
    assert (status, fields["content-type"]) == (400, "application/problem+json")
    wrong_version = "sec_websocket_version" in changed
    assert fields.get("sec-websocket-version") == ("13" if wrong_version else None)  # RFC 6455 section 4.4


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("GET /v1/things/1", {}),
        ("POST /v1/socket", {}),
        ("GET /v1/socket", {"upgrade": None}),
        ("GET /v1/socket", {"upgrade": "h2c"}),
        ("GET /v1/socket", {"connection": "keep-alive"}),
        ("GET /v1/socket", {"connection": None}),
    ],
    ids=str,
)
async def test_request_without_a_websocket_upgrade_is_plain_http(
    data_plane: DataPlane, line: str, changed: dict[str, str | None]
) -> None:
    """An upgrade on another route, and any other request on this one; an unrequested switch is an invalid response."""
    account = await data_plane.create_account()
    async with data_plane.connect() as wire:
        for _ in range(2):
            await wire.request(account, line, *handshake_fields(**changed))
            status, fields = await wire.read_head()
            assert (status, await wire.reader.readexactly(int(fields["content-length"]))) == (200, b'{"ok": true}')
            assert data_plane.upstream.last.all("upgrade") + data_plane.upstream.last.all("connection") == []
        data_plane.upstream.answer = switch
        await wire.request(account, line, *handshake_fields(**changed))
        assert (await wire.read_head())[0] == 502


async def test_http_1_0_request_cannot_switch(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as wire:
        lines = ["GET /v1/socket HTTP/1.0", f"x-api-key: {account.key}", *handshake_fields(), "", ""]
        await wire.send("\r\n".join(lines).encode())
        assert (await wire.read_head())[0] == 200


async def test_upstream_that_does_not_switch_sends_a_plain_response(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(403, b"not you")
    async with data_plane.connect() as wire:
        for _ in range(2):
            await wire.request(account, "GET /v1/socket", *handshake_fields())
            status, fields = await wire.read_head()
            assert (status, fields["x-credits-charged"], await wire.reader.readexactly(7)) == (403, "0", b"not you")
    await data_plane.settled_state(account)
    rows = await data_plane.usage_rows(account)
    assert [(row["outcome"], row["status_code"], row["credits_charged"]) for row in rows] == [
        ("upstream_error", 403, 0)
    ] * 2


@pytest.mark.parametrize(
    "changed",
    [
        {"sec_websocket_accept": ""},
        {"sec_websocket_accept": b64encode(b"another's").decode()},
        {"upgrade": "h2c"},
        {"upgrade": ""},
        {"connection": "keep-alive"},
    ],
    ids=str,
)
async def test_upstream_switch_with_a_wrong_accept_is_refused(data_plane: DataPlane, changed: dict[str, Any]) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = lambda exchange: switch(exchange, **changed)
    async with data_plane.connect() as wire:
        await wire.request(account, "GET /v1/socket", *handshake_fields())
        assert (await wire.read_head())[0] == 502
    row = await settled_row(data_plane, account)
    assert (row["outcome"], row["error_code"], row["credits_charged"]) == ("upstream_invalid", "upstream_invalid", 0)
    assert "[0 leased, 0 idle" in pool(data_plane)


# Closing.


@asynccontextmanager
async def raw(
    data_plane: DataPlane, account: Account, path: str = "/v1/socket"
) -> AsyncIterator[tuple[RawConnection, Exchange]]:
    """An open tunnel: the client's raw connection, and the exchange of an upstream that keeps it open."""
    done = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await switch(exchange)
        await done.wait()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as wire:
        await open_tunnel(wire, account, path)
        yield wire, data_plane.upstream.last
        done.set()


async def test_client_disconnect_ends_the_websocket(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with raw(data_plane, account) as (wire, exchange):
        await wire.send(b"last words")
        wire.disconnect()
        assert await exchange.reader.read() == b"last words"
        row = await settled_row(data_plane, account)
    assert (row["outcome"], row["request_bytes"], row["credits_charged"]) == ("succeeded", 10, 2)
    await eventually(lambda: "[0 leased, 0 idle, 0 queued, 0 open]" in pool(data_plane))
    assert data_plane.handler._drains.active == 0


async def test_client_half_close_is_a_disconnect_and_its_bytes_arrive(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with raw(data_plane, account) as (wire, exchange):
        await wire.send(b"x" * MIB)
        wire.writer.write_eof()
        assert await exchange.reader.read() == b"x" * MIB
        assert (await settled_row(data_plane, account))["request_bytes"] == MIB
        exchange.writer.close()
        assert await wire.read_rest() == b""


async def test_upstream_disconnect_ends_the_websocket(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with raw(data_plane, account) as (wire, exchange):
        await exchange.write(b"last words")
        exchange.writer.transport.abort()
        assert await wire.read_rest() == b"last words"
        row = await settled_row(data_plane, account)
    assert (row["outcome"], row["response_bytes"], row["credits_charged"]) == ("succeeded", 10, 2)


async def test_upstream_death_breaks_the_websocket_of_a_real_client(
    data_plane: DataPlane, configure: Configure
) -> None:
    account = await data_plane.create_account()

    async def die(socket: ServerConnection) -> None:
        await socket.send("last words")
        socket.transport.abort()

    async with served_by(data_plane, configure, die), client(data_plane, account) as socket:
        assert await socket.recv() == "last words"
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    assert (await settled_row(data_plane, account))["outcome"] == "succeeded"


async def test_disconnect_during_the_handshake_sends_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    may_answer = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await may_answer.wait()
        await switch(exchange, b"too late")

    data_plane.upstream.answer = answer
    async with data_plane.connect() as wire:
        await wire.request(account, "GET /v1/socket", *handshake_fields())
        await eventually(lambda: data_plane.upstream.exchanges)
        wire.disconnect()
        await eventually(lambda: data_plane.handler._drains.active)
        may_answer.set()
        row = await settled_row(data_plane, account)
    assert (row["outcome"], row["response_bytes"], row["credits_charged"]) == ("client_aborted", 0, 2)
    assert data_plane.handler._drains.active == 0


async def test_silent_websocket_is_closed_after_the_idle_timeout_of_its_upstream(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with raw(data_plane, account, "/v1/drowsy-socket") as (wire, exchange):
        for _ in range(8):  # 0.5 s each would be too long a silence
            await wire.send(b".")
            await asyncio.sleep(0.08)
        assert not wire.reader.at_eof()
        assert await wire.read_rest() == b""
        assert await exchange.reader.read() == b"." * 8
        exchange.writer.close()
    assert (await settled_row(data_plane, account))["outcome"] == "succeeded"


async def test_websocket_side_that_does_not_close_is_cut(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "CLOSING_SECONDS", 0.05)
    account = await data_plane.create_account()
    async with raw(data_plane, account) as (wire, exchange):
        wire.disconnect()
        assert await exchange.reader.read() == b""  # and does not close its own direction
        await eventually(lambda: "[0 leased, 0 idle, 0 queued, 0 open]" in pool(data_plane))


async def test_websocket_counts_in_the_pool_and_is_never_reused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with raw(data_plane, account, "/v1/narrow-socket") as (wire, _):
        assert "[1 leased, 0 idle" in pool(data_plane, "narrow")
        assert (await data_plane.get(account, "/v1/narrow")).status_code == 503
        wire.disconnect()
    await data_plane.settled_state(account)
    await eventually(lambda: "[0 leased, 0 idle" in pool(data_plane, "narrow"))
    data_plane.upstream.reset()
    assert (await data_plane.get(account, "/v1/narrow")).status_code == 200
    assert data_plane.upstream.last.method == "GET"


# Charges.


@pytest.mark.parametrize(("seconds", "charged"), [(0.0, 3), (59.0, 3), (61.0, 6), (3539.0, 177), (3601.0, 183)])
async def test_minutes_are_charged_when_they_begin(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch, seconds: float, charged: int
) -> None:
    """One minute is held; the balance may go below zero for what was used beyond it."""
    account = await data_plane.create_account(credits=100)
    instant = monotonic_seconds()
    for room in (handlers, active_call):
        monkeypatch.setattr(room, "monotonic_seconds", lambda: instant)
    async with raw(data_plane, account, "/v1/meeting") as (wire, _):
        assert (await data_plane.redis_state(account)).balance == 97
        instant += seconds + 0.9
        wire.disconnect()
        row = await settled_row(data_plane, account)
    assert row["credits_charged"] == charged
    assert abs(row["response_time_ms"] - (seconds + 0.9) * 1000) <= 1
    assert (await data_plane.redis_state(account)).balance == 100 - charged


async def test_upstream_prices_a_websocket_with_its_101(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = lambda exchange: switch(exchange, gateway_credits="7")
    async with data_plane.connect() as wire:
        fields = await open_tunnel(wire, account)
        assert fields["x-credits-charged"] == "7"
        assert "gateway-credits" not in fields
    assert (await settled_row(data_plane, account))["credits_charged"] == 7


# Shutdown.


async def test_shutdown_closes_websockets_at_the_drain_deadline_and_charges_their_use(
    data_plane: DataPlane,
) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await switch(exchange, b"hello")
        await exchange.read()

    data_plane.upstream.answer = answer
    async with AsyncExitStack() as clients:
        async with one_more(data_plane) as stopping:
            wire = await clients.enter_async_context(stopping.connect())
            await open_tunnel(wire, account)
            assert await wire.reader.readexactly(5) == b"hello"
        assert await wire.read_rest() == b""
    row = dict(await data_plane.usage_row(account))
    assert (row["outcome"], row["status_code"], row["response_bytes"]) == ("succeeded", 101, 5)
    assert await data_plane.redis_state(account) == RedisState(98, 0, (1, 1, 1))


async def test_websocket_that_ends_during_shutdown_is_settled_as_usual(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with AsyncExitStack() as clients:
        async with one_more(data_plane) as stopping:
            wire, exchange = await clients.enter_async_context(raw(stopping, account))
            asyncio.get_running_loop().call_later(0.2, exchange.writer.close)
        assert await wire.read_rest() == b""
    assert dict(await data_plane.usage_row(account))["outcome"] == "succeeded"


async def _warm(data_plane: DataPlane, account: Account) -> Account:
    assert (await data_plane.get(account, "/v1/free")).status_code == 200
    return account


async def _write(wire: RawConnection, chunk: bytes, written: dict[str, int], total: int) -> None:
    while written["up"] < total:
        await wire.send(chunk)
        written["up"] += len(chunk)


async def _bytes_when_paused(written: dict[str, int], way: str, total: int) -> int:
    """The bytes written when for a third of a second no more were, or all of them."""
    looks: list[int] = []

    def stopped() -> bool:
        looks.append(written[way])
        return written[way] == total or (len(looks) > 60 and 0 < looks[-60] == looks[-1])

    await eventually(stopped)
    return looks[-1]


async def _digest(reader: asyncio.StreamReader, total: int) -> bytes:
    digest = sha256()
    while total:
        data = await reader.read(min(total, MIB))
        assert data
        digest.update(data)
        total -= len(data)
    return digest.digest()
