"""What calls keep in memory: nothing once they have ended, and nothing of a body once it is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from secrets import token_bytes
from urllib.parse import urlsplit

import pytest

from gateway.proxy.forward.forwarding import STREAMED_FROM_BYTES
from gateway.upstream import balancer
from policies.access.keys import ENTROPY_BYTES, compose
from tests.guarantees.faults.proxy import FaultProxy
from tests.proxy import sockets
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import Account, DataPlane, RawConnection
from tests.proxy.upstream import Answer, Exchange
from tests.support.garbage import collected, collector_off, kept_pieces
from tests.support.polling import eventually

UPLOADS = 8
PIECE = b"kept piece " * 5_000
assert len(PIECE) > STREAMED_FROM_BYTES


@pytest.fixture(scope="module", autouse=True)
def _collector_off() -> Iterator[None]:
    with collector_off():
        yield
    _replaced.clear()


_replaced: list[object] = []


@pytest.fixture(autouse=True)
def _upstreams_stay(data_plane: DataPlane) -> None:
    """Each test has new upstreams. A replaced one is left to the collector, which says nothing of calls."""
    _replaced.append(data_plane.handler.upstreams)


@dataclass(frozen=True)
class Call:
    """What a call is made with."""

    plane: DataPlane
    account: Account
    client: RawConnection


async def _answered(call: Call) -> None:
    for _ in range(3):
        await call.client.request(call.account, "POST /v1/things/1", body=b"{}")
        assert await _status(call.client) == 200


async def _refused(call: Call) -> None:
    await call.client.request(call.account, "GET /v1/none")
    assert await _status(call.client) == 404


async def _unknown_key(call: Call) -> None:
    key = compose(call.plane.config.keys.prefix, token_bytes(ENTROPY_BYTES)).secret
    await call.client.request(replace(call.account, key=key), "GET /v1/things/1")
    assert await _status(call.client) == 401


async def _out_of_credits(call: Call) -> None:
    poor = await call.plane.create_account(credits=1)
    for status in (402, 402):
        await call.client.request(poor, "GET /v1/dear")
        assert await _status(call.client) == status


async def _repeated(call: Call) -> None:
    for body, status in ((b"{}", 200), (b"{}", 200), (b"[]", 422)):
        await call.client.request(call.account, "POST /v1/things/1", "idempotency-key: the-same", body=body)
        assert await _status(call.client) == status


async def _priced(call: Call) -> None:
    for body, status in ((b'{"products": [1]}', 200), (b'{"products"', 400)):
        head = "content-type: application/json", f"content-length: {len(body)}"
        await call.client.request(call.account, "POST /v1/generate", *head)
        await call.client.send(body[:5])
        await call.client.send(body[5:])
        assert await _status(call.client) == status


async def _unreadable(call: Call) -> None:
    await call.client.send(b"GET / HTTP/9\r\n\r\n")
    await call.client.read_rest()


async def _not_connected(call: Call) -> None:
    await call.client.request(call.account, "GET /v1/nobody")
    assert await _status(call.client) == 502


async def _closed_by_upstream(call: Call) -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.writer.transport.abort()

    call.plane.upstream.answer = answer
    await call.client.request(call.account, "GET /v1/things/1")
    assert await _status(call.client) == 502


async def _stale(call: Call) -> None:
    await call.client.request(call.account, "GET /v1/plain")
    assert await _status(call.client) == 200

    async def close(exchange: Exchange) -> None:
        call.plane.upstream.respond_with()
        exchange.writer.transport.abort()

    call.plane.upstream.answer = close
    before = len(call.plane.upstream.exchanges)
    await call.client.request(call.account, "GET /v1/plain")
    assert await _status(call.client) == 200
    assert len(call.plane.upstream.exchanges) == before + 2


async def _broken_off_by_upstream(call: Call) -> None:
    call.plane.upstream.respond_with_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
    await call.client.request(call.account, "GET /v1/things/1")
    await call.client.read_rest()


async def _timed_out(call: Call) -> None:
    call.plane.upstream.answer = _never
    await call.client.request(call.account, "GET /v1/hasty")
    assert await _status(call.client) == 504


async def _overloaded(call: Call) -> None:
    call.plane.upstream.answer = _never
    async with call.plane.connect() as first:
        before = len(call.plane.upstream.exchanges)
        await first.request(call.account, "GET /v1/narrow")
        await eventually(lambda: len(call.plane.upstream.exchanges) > before)
        await call.client.request(call.account, "GET /v1/narrow")
        assert await _status(call.client) == 503
        call.plane.upstream.last.writer.transport.abort()
        assert await _status(first) == 502


async def _left_in_the_upload(call: Call) -> None:
    await _begin_upload(call.plane, call.account, call.client)
    call.client.disconnect()


async def _left_in_the_response(call: Call) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await exchange.reader.read()

    call.plane.upstream.answer = answer
    await call.client.request(call.account, "GET /v1/things/1")
    await call.client.read_head()
    call.client.disconnect()
    await eventually(lambda: call.plane.handler._drains.active == 1)
    call.plane.upstream.last.writer.transport.abort()


async def _too_large(call: Call) -> None:
    await _begin_upload(call.plane, call.account, call.client, path="/v1/analyze", length="transfer-encoding: chunked")
    await call.client.send(b"13880\r\n" + bytes(80_000) + b"\r\n")
    assert await _status(call.client) == 413


async def _malformed_chunks(call: Call) -> None:
    await call.client.request(call.account, "POST /v1/things/1", "transfer-encoding: chunked")
    await call.client.send(b"no size\r\n")
    await call.client.read_rest()


async def _tunneled(call: Call) -> None:
    async def answer(exchange: Exchange) -> None:
        await sockets.switch(exchange, b"hello")

    call.plane.upstream.answer = answer
    await sockets.open_tunnel(call.client, call.account)
    assert await call.client.reader.readexactly(5) == b"hello"


Ending = Callable[[Call], Awaitable[None]]
ENDINGS: list[Ending] = [
    _answered,
    _refused,
    _unknown_key,
    _out_of_credits,
    _repeated,
    _priced,
    _unreadable,
    _not_connected,
    _closed_by_upstream,
    _stale,
    _broken_off_by_upstream,
    _timed_out,
    _overloaded,
    _left_in_the_upload,
    _left_in_the_response,
    _too_large,
    _malformed_chunks,
    _tunneled,
]


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__.strip("_"))
async def test_call_leaves_nothing_to_the_collector_however_it_ends(data_plane: DataPlane, end: Ending) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)
    collected("gateway")
    async with data_plane.connect() as client:
        await end(Call(data_plane, account, client))
    await data_plane.settled_state(account)
    for _ in range(20):
        await asyncio.sleep(0)
    assert collected("gateway") == {}


async def test_call_leaves_nothing_to_the_collector_if_a_store_is_away(
    serve: Serve, configure: Configure, redis_url: str
) -> None:
    place = urlsplit(redis_url)
    async with FaultProxy(place.hostname or "", place.port or 0) as valkey:
        plane = await serve(configure(redis__url=valkey.through(redis_url)))
        account = await plane.create_account()
        await plane.get(account)
        collected("gateway")
        async with plane.connect() as client:
            valkey.freeze()
            with plane.short_redis_timeout():
                await client.request(account, "POST /v1/things/1", body=b"{}")
                assert await _status(client) == 503
            valkey.thaw()
        await plane.settled_state(account)
        assert collected("gateway") == {}


@pytest.mark.parametrize("is_reused", [False, True], ids=["fresh", "reused"])
async def test_upload_keeps_nothing_of_what_is_passed_on(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch, *, is_reused: bool
) -> None:
    monkeypatch.setattr(balancer, "STALE_WITHIN_SECONDS", 0.05)
    account = await data_plane.create_account()
    async with AsyncExitStack() as stack:
        if is_reused:
            clients = [await stack.enter_async_context(data_plane.connect()) for _ in range(UPLOADS)]
            data_plane.upstream.answer = _together(UPLOADS)
            for client in clients:
                await client.request(account, "GET /v1/things/1")
            for client in clients:
                assert await _status(client) == 200
        for _ in range(UPLOADS):
            client = await stack.enter_async_context(data_plane.connect())
            await _begin_upload(data_plane, account, client, content=PIECE)
        writers = {id(each.writer) for each in data_plane.upstream.exchanges}
        assert len(writers) == UPLOADS
        await eventually(lambda: kept_pieces(PIECE) == [])


async def test_stream_keeps_nothing_of_what_its_client_has(data_plane: DataPlane) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        await exchange.write(PIECE)
        await exchange.reader.read()

    account = await data_plane.create_account()
    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/things/1")
        await client.read_head()
        assert await client.reader.readexactly(len(PIECE)) == PIECE
        await eventually(lambda: kept_pieces(PIECE) == [])


async def _begin_upload(
    plane: DataPlane,
    account: Account,
    client: RawConnection,
    *,
    path: str = "/v1/things/1",
    length: str = "content-length: 1000000",
    content: bytes = bytes(STREAMED_FROM_BYTES + 1),
) -> None:
    """Returns once the upstream has all that is sent."""
    before = len(plane.upstream.exchanges)

    async def answer(exchange: Exchange) -> None:
        while len(exchange.body) < len(content):
            exchange.body += await exchange.reader.read(len(content))
        await exchange.reader.read()

    plane.upstream.answer = answer
    await client.request(account, f"POST {path}", length)
    is_chunked = "chunked" in length
    await client.send(b"%x\r\n%b\r\n" % (len(content), content) if is_chunked else content)
    await eventually(lambda: len(plane.upstream.exchanges) > before)
    await eventually(lambda: len(plane.upstream.last.body) >= len(content))


def _together(count: int) -> Answer:
    """Answers once so many wait."""
    arrived = asyncio.Barrier(count)

    async def answer(exchange: Exchange) -> None:
        await arrived.wait()
        await exchange.reply()

    return answer


async def _status(client: RawConnection) -> int:
    """The status of a response, which is read to its end."""
    status, fields = await client.read_head()
    await client.reader.readexactly(int(fields["content-length"]))
    return status


async def _never(exchange: Exchange) -> None:
    await exchange.reader.read()
