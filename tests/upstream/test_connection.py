"""One exchange over a real socket: flow control both ways, early answers, and every deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.upstream.connection import HIGH_WATER_BYTES, READ_BYTES
from gateway.upstream.errors import BodyLengthError, UpstreamError
from gateway.upstream.request_head import Request
from policies.model import Outcome, Refusal
from tests.upstream.scripted import OK, Peer, Reply, Scripted, Then, eventually, fetch, read_all, scripted, upstream_to

SILENCE = Reply(b"")
IDLE = "[0 leased, 1 idle, 0 queued, 1 open]"
EMPTY = "[0 leased, 0 idle, 0 queued, 0 open]"
HEAD_OF_MUCH = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"


class Source:
    """A request body that tells how far it was pulled."""

    def __init__(self, *chunks: bytes, then: BaseException | None = None, endless: bytes = b"") -> None:
        self.chunks = chunks
        self.then = then
        self.endless = endless
        self.pulled_bytes = 0
        self.started = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.started = True
        for chunk in self.chunks:
            self.pulled_bytes += len(chunk)
            yield chunk
        while self.endless:
            self.pulled_bytes += len(self.endless)
            yield self.endless
        if self.then is not None:
            raise self.then


async def waiting_client() -> AsyncIterator[bytes]:
    yield b"some"
    await asyncio.Event().wait()


def uploads() -> list[str]:
    """The tasks that still send a request body."""
    names = (str(task.get_coro()) for task in asyncio.all_tasks())
    return [name for name in names if "_send_stream" in name]


def first_peer(server: Scripted) -> Peer:
    return server.peers[0]


async def test_small_response_is_complete_after_one_await() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"GET", b"/"))

        assert (response.status, response.take(), response.complete) == (200, b"ok", True)
        assert IDLE in repr(upstream)


async def test_closed_response_releases_its_connection_once() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        first = await upstream.send(Request(b"GET", b"/"))
        first.close()
        first.close()
        second = await upstream.send(Request(b"GET", b"/"))
        first.close()

        assert second.take() == b"ok"
        assert IDLE in repr(upstream)
        assert len(server.peers) == 1


async def test_closed_response_closes_an_unfinished_connection() -> None:
    async with scripted(Reply(HEAD_OF_MUCH % 10 + b"half")) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"GET", b"/"))
        response.close()
        response.close()

        await eventually(lambda: EMPTY in repr(upstream))
        await eventually(lambda: first_peer(server).closed)
        assert not response.complete
        assert response.take() == b"half"
        with pytest.raises(RuntimeError, match="closed"):
            await response.wait_for_more()


async def test_closed_response_wakes_its_consumer() -> None:
    async with scripted(Reply(HEAD_OF_MUCH % 10)) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"GET", b"/"))
        waiting = asyncio.ensure_future(response.wait_for_more())
        await asyncio.sleep(0)
        response.close()

        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(waiting, 1.0)


async def test_broken_response_gives_what_came_and_raises() -> None:
    async with scripted(Reply(HEAD_OF_MUCH % 10 + b"half")) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"GET", b"/"))
        first_peer(server).transport.close()
        await eventually(lambda: EMPTY in repr(upstream))

        await response.wait_for_more()
        assert response.take() == b"half"
        for _ in range(2):
            with pytest.raises(UpstreamError) as raised:
                await response.wait_for_more()
            assert raised.value.outcome is Outcome.UPSTREAM_INVALID
        assert not response.complete


# Uploads.


@pytest.mark.parametrize(
    ("length", "sent"), [(None, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), (5, b"abcde")], ids=["chunked", "counted"]
)
async def test_streamed_body_is_framed_by_the_gateway(length: int | None, sent: bytes) -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        body = aiter(Source(b"abc", b"", b"de"))

        assert await fetch(upstream, Request(b"POST", b"/", body=body, content_length=length)) == (200, b"ok")
        assert server.requests[0].endswith(b"\r\n\r\n" + sent)
        assert IDLE in repr(upstream)


async def test_sent_body_keeps_the_connection_before_its_iterator_ends() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abcde"
        await asyncio.Event().wait()

    async with scripted() as server, upstream_to(server.url) as upstream:
        assert await fetch(upstream, Request(b"POST", b"/", body=body(), content_length=5)) == (200, b"ok")
        assert IDLE in repr(upstream)
        await eventually(lambda: not uploads())


async def test_sent_body_starts_the_first_byte_timeout() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abcde"
        await asyncio.Event().wait()

    async with scripted(SILENCE) as server, upstream_to(server.url, first_byte_timeout_seconds=0.05) as upstream:
        with pytest.raises(UpstreamError, match="no response head"):
            await upstream.send(Request(b"POST", b"/", body=body(), content_length=5))


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 5_000_000])
async def test_body_of_bytes_arrives_whole(size: int) -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        assert await fetch(upstream, Request(b"POST", b"/", body=b"x" * size)) == (200, b"ok")
        assert server.requests[0].endswith(b"content-length: %d\r\n\r\n" % size + b"x" * size)
        assert IDLE in repr(upstream)


@pytest.mark.parametrize("chunks", [(b"abc",), (b"abc", b"def")], ids=["short", "long"])
async def test_body_of_another_length_never_arrives_as_whole(chunks: tuple[bytes, ...]) -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        with pytest.raises(BodyLengthError):
            await upstream.send(Request(b"POST", b"/", body=aiter(Source(*chunks)), content_length=5))

        await eventually(lambda: EMPTY in repr(upstream))
        assert server.requests == []


async def test_error_of_the_request_body_is_raised_unchanged() -> None:
    class ClientLeftError(Exception):
        pass

    async with scripted() as server, upstream_to(server.url) as upstream:
        with pytest.raises(ClientLeftError):
            await upstream.send(Request(b"POST", b"/", body=aiter(Source(b"abc", then=ClientLeftError()))))

        await eventually(lambda: EMPTY in repr(upstream))
        assert server.requests == []


async def test_request_body_is_not_read_before_a_connection_is_established() -> None:
    async with scripted() as server:
        url = server.url
    source = Source(b"abc")
    async with upstream_to(url) as upstream:
        with pytest.raises(UpstreamError):
            await upstream.send(Request(b"POST", b"/", body=aiter(source)))

    assert not source.started


async def test_early_response_comes_while_the_client_still_sends() -> None:
    async with (
        scripted(Reply(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig"), answers_heads=True) as server,
        upstream_to(server.url) as upstream,
    ):
        response = await upstream.send(Request(b"POST", b"/", body=waiting_client(), content_length=1_000_000))

        assert (response.status, response.take(), response.complete) == (413, b"big", True)
        await eventually(lambda: EMPTY in repr(upstream))
        await eventually(lambda: first_peer(server).closed)


@pytest.mark.parametrize("then", list(Then))
async def test_early_response_survives_an_upload_and_a_close(then: Then) -> None:
    source = Source(endless=b"x" * 65_536)
    async with (
        scripted(Reply(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig", then), answers_heads=True) as server,
        upstream_to(server.url) as upstream,
    ):
        assert await fetch(upstream, Request(b"POST", b"/", body=aiter(source))) == (413, b"big")
        await eventually(lambda: EMPTY in repr(upstream) and not uploads())


async def test_closed_response_stops_the_upload() -> None:
    source = Source(endless=b"x" * 65_536)
    async with scripted(Reply(HEAD_OF_MUCH % 9), answers_heads=True) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"POST", b"/", body=aiter(source)))
        response.close()

        await eventually(lambda: EMPTY in repr(upstream) and not uploads())


async def test_upstream_that_stops_reading_bounds_memory_and_times_out() -> None:
    source = Source(endless=b"x" * 65_536)
    async with scripted(reads=False) as server, upstream_to(server.url, idle_timeout_seconds=0.2) as upstream:
        with pytest.raises(UpstreamError) as raised:
            await upstream.send(Request(b"POST", b"/", body=aiter(source)))

        assert raised.value.outcome is Outcome.UPSTREAM_TIMEOUT
        assert "read nothing" in raised.value.detail
        assert source.pulled_bytes < 16 * 2**20  # the kernel's buffers of two sockets, and ours of 64 KiB
        await eventually(lambda: EMPTY in repr(upstream))
        assert not uploads()


async def test_upstream_that_reads_slowly_is_not_cut() -> None:
    loop = asyncio.get_running_loop()
    async with scripted() as server, upstream_to(server.url, idle_timeout_seconds=0.2) as upstream:
        server.pause_between_reads_seconds = 0.02
        started = loop.time()

        assert await fetch(upstream, Request(b"POST", b"/", body=b"x" * 12_000_000)) == (200, b"ok")
        assert loop.time() - started > 0.4


async def test_early_response_to_unsent_bytes_closes_the_connection() -> None:
    async with (
        scripted(Reply(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig"), answers_heads=True) as server,
        upstream_to(server.url) as upstream,
    ):
        server.stops_reading = True

        assert await fetch(upstream, Request(b"POST", b"/", body=b"x" * 30_000_000)) == (413, b"big")
        await eventually(lambda: EMPTY in repr(upstream))


# Downloads.


async def test_slow_consumer_bounds_what_is_buffered() -> None:
    size = 40_000_000
    async with scripted(Reply(HEAD_OF_MUCH % size + b"x" * size)) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"GET", b"/"))
        peer = first_peer(server)
        await eventually(lambda: _is_stuck(peer))

        assert response.reader.buffered <= HIGH_WATER_BYTES + READ_BYTES  # the mark, and one read beyond it
        assert len(await read_all(response)) == size
        assert IDLE in repr(upstream)


async def test_slow_consumer_does_not_time_out_the_upstream() -> None:
    size = 10_000_000
    async with (
        scripted(Reply(HEAD_OF_MUCH % size + b"x" * size)) as server,
        upstream_to(server.url, idle_timeout_seconds=0.05) as upstream,
    ):
        response = await upstream.send(Request(b"GET", b"/"))
        await asyncio.sleep(0.2)  # four times what an upstream would be allowed

        assert len(await read_all(response)) == size


async def test_streamed_response_is_given_as_it_comes() -> None:
    async with scripted(Reply(b"HTTP/1.1 200 OK\r\n\r\n")) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(Request(b"GET", b"/"))
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            first_peer(server).transport.write(event)
            await response.wait_for_more()
            assert event == response.take()
        first_peer(server).transport.close()
        await response.wait_for_more()

        assert (response.take(), response.complete) == (b"", True)


# Deadlines.


async def refused_within(seconds: float, server: Scripted, reason: str, **settings: float) -> None:
    """The exchange ends as a timeout for that reason, within that time, and its connection is closed."""
    loop = asyncio.get_running_loop()
    async with upstream_to(server.url, **settings) as upstream:
        started = loop.time()
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream)
        assert raised.value.outcome is Outcome.UPSTREAM_TIMEOUT
        assert raised.value.code is Refusal.UPSTREAM_TIMEOUT
        assert reason in raised.value.detail
        assert loop.time() - started < seconds
        await eventually(lambda: EMPTY in repr(upstream))


async def drip(server: Scripted, data: bytes, every_seconds: float) -> None:
    await eventually(lambda: bool(server.requests))
    for byte in data:
        first_peer(server).transport.write(bytes([byte]))
        await asyncio.sleep(every_seconds)


async def test_missing_head_times_out() -> None:
    async with scripted(SILENCE) as server:
        await refused_within(1.0, server, "no response head", first_byte_timeout_seconds=0.1)


async def test_slow_head_does_not_extend_the_first_byte_timeout() -> None:
    async with scripted(SILENCE) as server:
        dripping = asyncio.ensure_future(drip(server, b"HTTP/1.1 200 OK\r\n" + b"x" * 200, 0.01))
        await refused_within(1.0, server, "no response head", first_byte_timeout_seconds=0.15)
        dripping.cancel()


async def test_silent_body_ends_at_the_idle_timeout() -> None:
    async with scripted(Reply(HEAD_OF_MUCH % 10 + b"half")) as server:
        await refused_within(1.0, server, "nothing more", idle_timeout_seconds=0.1)


async def test_slow_body_ends_at_the_total_timeout() -> None:
    async with scripted(SILENCE) as server:
        dripping = asyncio.ensure_future(drip(server, HEAD_OF_MUCH % 1000 + b"x" * 200, 0.005))
        limits = {"idle_timeout_seconds": 0.2, "first_byte_timeout_seconds": 1.0, "total_timeout_seconds": 0.5}
        await refused_within(1.5, server, "total", **limits)
        dripping.cancel()


async def test_slow_client_ends_only_at_the_total_timeout() -> None:
    limits = {"first_byte_timeout_seconds": 0.05, "idle_timeout_seconds": 0.05, "total_timeout_seconds": 0.3}
    async with scripted() as server, upstream_to(server.url, **limits) as upstream:
        with pytest.raises(UpstreamError, match="total"):
            await upstream.send(Request(b"POST", b"/", body=waiting_client()))

        await eventually(lambda: EMPTY in repr(upstream))


async def test_timeout_of_one_exchange_does_not_reach_the_next() -> None:
    async with scripted() as server, upstream_to(server.url, first_byte_timeout_seconds=0.1) as upstream:
        for _ in range(8):
            assert await fetch(upstream) == (200, b"ok")
            await asyncio.sleep(0.03)  # so that the first exchange's timer fires within a later one

        assert len(server.peers) == 1


# Connections at rest.


@pytest.mark.parametrize("data", [b"X", b"\r\n", OK, b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
async def test_bytes_on_an_idle_connection_retire_it(data: bytes) -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        first_peer(server).transport.write(data)
        await eventually(lambda: EMPTY in repr(upstream))

        assert await fetch(upstream) == (200, b"ok")
        assert len(server.peers) == 2


def _is_stuck(peer: Peer) -> bool:
    """The server can write no more: all that may be in flight is."""
    unsent = peer.transport.get_write_buffer_size()
    peer.stuck_looks = peer.stuck_looks + 1 if unsent == peer.unsent else 0
    peer.unsent = unsent
    return peer.stuck_looks > 20
