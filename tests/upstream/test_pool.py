"""Slots are held from the decision to connect until the release, and come back exactly once whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator

import psutil
import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.upstream.address import parse_target
from gateway.upstream.balancer import Upstream
from gateway.upstream.connection import Deadlines
from gateway.upstream.errors import NotSentError, UpstreamError
from gateway.upstream.pool import Pool, PoolLimits
from gateway.upstream.request_head import Request
from policies.model import Outcome, Refusal
from tests.upstream.scripted import OK, Reply, Then, deaf, eventually, fetch, scripted, upstream_to

SILENCE = Reply(b"")
GET = Request(b"GET", b"/")


async def test_pool_reuses_the_connection_used_last() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        both = await asyncio.gather(upstream.send(GET), upstream.send(GET))
        assert len(server.peers) == 2
        for response in both:
            response.close()
        for _ in range(3):
            await fetch(upstream)

        assert "2 idle" in repr(upstream)
        assert len(server.peers) == 2


async def test_pool_bounds_connections_and_queues_in_order() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, max_connections=2) as upstream:
        sending = [asyncio.ensure_future(fetch(upstream, Request(b"GET", b"/%d" % n))) for n in range(6)]
        answered = 0
        while answered < 6:
            await eventually(lambda seen=answered: len(server.requests) == min(seen + 2, 6))  # type: ignore[misc]  # its default binds this turn's value
            assert f"[{min(2, 6 - answered)} leased, " in repr(upstream)
            for peer in server.peers:
                peer.transport.write(OK)
            answered += 2

        assert await asyncio.gather(*sending) == [(200, b"ok")] * 6
        assert [request.split(b" ")[1] for request in server.requests] == [b"/%d" % n for n in range(6)]
        assert len(server.peers) == 2


async def test_pool_reports_overload_after_the_queue_timeout() -> None:
    async with (
        scripted(SILENCE) as server,
        upstream_to(server.url, max_connections=1, queue_timeout_seconds=0.05) as one,
    ):
        holding = asyncio.ensure_future(fetch(one))
        await eventually(lambda: len(server.requests) == 1)
        with pytest.raises(UpstreamError) as raised:
            await fetch(one)

        assert raised.value.code is Refusal.UPSTREAM_OVERLOADED
        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert "[1 leased, 0 idle, 0 queued, 1 open]" in repr(one)
        server.peers[0].transport.write(OK)
        assert await holding == (200, b"ok")


async def test_pool_passes_the_slot_of_a_broken_connection_on() -> None:
    async with (
        scripted(Reply(b"", Then.CLOSE), Reply()) as server,
        upstream_to(server.url, max_connections=1) as upstream,
    ):
        first, *others = await asyncio.gather(*(fetch(upstream) for _ in range(3)), return_exceptions=True)

        assert isinstance(first, UpstreamError)
        assert others == [(200, b"ok")] * 2


async def test_pool_frees_everything_when_a_client_leaves_before_the_head() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, first_byte_timeout_seconds=60) as upstream:
        waiting = asyncio.ensure_future(upstream.send(GET))
        await eventually(lambda: len(server.requests) == 1)
        waiting.cancel()
        await asyncio.wait([waiting])

        assert "[0 leased, 0 idle, 0 queued, " in repr(upstream)
        await eventually(lambda: server.peers[0].closed)


async def test_pool_forgets_a_cancelled_waiter() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, max_connections=1) as upstream:
        tasks = [asyncio.ensure_future(fetch(upstream)) for _ in range(3)]
        await eventually(lambda: "2 queued" in repr(upstream) and len(server.requests) == 1)
        tasks[1].cancel()
        await eventually(lambda: "1 queued" in repr(upstream))
        server.peers[0].transport.write(OK)
        await eventually(lambda: len(server.requests) == 2)
        server.peers[0].transport.write(OK)

        assert await tasks[2] == (200, b"ok")


async def test_pool_passes_a_connection_on_if_its_waiter_is_cancelled() -> None:
    async with scripted() as server, upstream_to(server.url, max_connections=1) as upstream:
        pool = upstream._targets[0].pool
        connection = await pool.connect_or_wait()
        waits = [asyncio.ensure_future(pool.connect_or_wait()) for _ in range(2)]
        await eventually(lambda: "2 queued" in repr(pool))
        pool.release(connection, reusable=True)
        waits[0].cancel()

        assert await waits[1] is connection
        pool.release(connection, reusable=True)
        assert "[0 leased, 1 idle, 0 queued, 1 open]" in repr(pool)


async def test_pool_replaces_a_connection_that_closes_as_it_is_passed_on() -> None:
    async with scripted() as server, upstream_to(server.url, max_connections=1) as upstream:
        pool = upstream._targets[0].pool
        connection = await pool.connect_or_wait()
        waiting = asyncio.ensure_future(pool.connect_or_wait())
        await eventually(lambda: "1 queued" in repr(pool))
        pool.release(connection, reusable=True)
        connection.buffer_updated(1)

        replacement = await waiting
        assert replacement is not connection
        assert "[1 leased, 0 idle, 0 queued, " in repr(pool)
        pool.release(replacement, reusable=True)


async def test_pool_frees_the_slot_of_a_cancelled_connect() -> None:
    with deaf() as url:
        async with upstream_to(url, max_connections=1) as upstream:
            connecting = asyncio.ensure_future(fetch(upstream))
            await eventually(lambda: "[1 leased, 0 idle, 0 queued, 0 open]" in repr(upstream))
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

            assert "[0 leased, 0 idle, 0 queued, 0 open]" in repr(upstream)


async def test_pool_times_out_a_connect() -> None:
    with deaf() as url:
        async with upstream_to(url, connect_timeout_seconds=0.1) as upstream:
            with pytest.raises(NotSentError) as raised:
                await fetch(upstream)

            assert raised.value.outcome is Outcome.UPSTREAM_TIMEOUT


async def test_pool_frees_the_slot_of_a_refused_connect() -> None:
    async with scripted() as server:
        url = server.url
    async with upstream_to(url, max_connections=1) as upstream:
        for _ in range(3):
            with pytest.raises(NotSentError) as raised:
                await fetch(upstream)
            assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE


async def test_pool_shows_names_of_targets_to_the_operator_only() -> None:
    async with upstream_to("http://no-such-host.invalid") as upstream:
        with capture_logs() as lines, pytest.raises(NotSentError) as raised:
            await fetch(upstream)
    assert "no-such-host" not in raised.value.detail
    assert {line["target"] for line in lines} == {"http://no-such-host.invalid"}


async def test_pool_closes_idle_connections() -> None:
    limits = PoolLimits(4, 2.0, 2.0, idle_seconds=0.05)
    async with scripted() as server:
        pool = Pool(parse_target(server.url), limits, deadlines=Deadlines(1.0, 1.0))
        for connection in [await pool.connect_or_wait() for _ in range(3)]:
            pool.release(connection, reusable=True)
        assert "3 idle" in repr(pool)

        await eventually(lambda: "[0 leased, 0 idle, 0 queued, 0 open]" in repr(pool))
        await pool.close()


async def test_pool_does_not_reuse_a_connection_that_idles_for_a_second() -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\nkeep-alive: timeout=1\r\n\r\n")
    async with scripted(Reply(answer)) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        await fetch(upstream)

        assert len(server.peers) == 2


async def test_pool_that_retires_lets_calls_finish() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, max_connections=2) as upstream:
        sending = [asyncio.ensure_future(fetch(upstream)) for _ in range(3)]
        await eventually(lambda: len(server.requests) == 2 and "1 queued" in repr(upstream))
        upstream.retire()
        late = asyncio.ensure_future(fetch(upstream))
        while not late.done():
            for peer in server.peers:
                if not peer.closed and peer in server.asked:
                    server.asked.remove(peer)
                    peer.transport.write(OK)
            await asyncio.sleep(0.001)

        assert await asyncio.gather(*sending, late) == [(200, b"ok")] * 4
        await eventually(lambda: "[0 leased, 0 idle, 0 queued, 0 open]" in repr(upstream))


async def test_pool_that_retires_closes_idle_connections() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        upstream.retire()

        await eventually(lambda: "[0 leased, 0 idle, 0 queued, 0 open]" in repr(upstream))
        assert await fetch(upstream) == (200, b"ok")


async def test_pool_that_closes_ends_everything_and_opens_nothing() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, max_connections=2) as upstream:
        sending = [asyncio.ensure_future(fetch(upstream)) for _ in range(4)]
        await eventually(lambda: len(server.requests) == 2 and "2 queued" in repr(upstream))
        await upstream.close()

        assert "[0 leased, 0 idle, 0 queued, 0 open]" in repr(upstream)
        for result in await asyncio.gather(*sending, return_exceptions=True):
            assert isinstance(result, UpstreamError)
        with pytest.raises(UpstreamError, match="no longer used"):
            await upstream.send(GET)


async def test_pool_that_closes_breaks_a_running_stream() -> None:
    async with scripted(Reply(b"HTTP/1.1 200 OK\r\n\r\n")) as server, upstream_to(server.url) as upstream:
        response = await upstream.send(GET)
        await upstream.close()

        assert not response.complete
        with pytest.raises(UpstreamError):
            await response.wait_for_more()


async def test_pool_forgets_a_connect_cancelled_as_it_completes() -> None:
    """uvloop, which serves in production, closes such a connection without telling its protocol."""

    async def cancel_at_every_turn() -> None:
        async with scripted() as server, upstream_to(server.url, max_connections=8) as upstream:
            for turns in range(40):
                sending = asyncio.ensure_future(upstream.send(Request(b"GET", b"/")))
                for _ in range(turns % 10):
                    await asyncio.sleep(0)
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await sending).close()
            async with asyncio.timeout(5):
                await upstream.close()
            assert "0 leased, 0 idle, 0 queued, 0 open" in repr(upstream)

    await asyncio.to_thread(uvloop.run, cancel_at_every_turn())


@pytest.mark.parametrize("seed", range(4))
async def test_pool_never_gives_a_response_to_another_request(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a reproducible schedule, nothing secret

    def echo(request: bytes) -> Reply:
        nonce = request.split(b" ")[1]
        good = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(nonce), nonce)
        damaged = [good + b"X", good + good, good[:-1], b"", b"HTTP/1.1 100 Continue\r\n\r\n" + good, good + b"\r\n"]
        data = good if chance.random() < 0.7 else chance.choice(damaged)
        return Reply(data, chance.choice([Then.KEEP] * 8 + [Then.CLOSE, Then.RESET]))

    async def client(name: int) -> int:
        answered = 0
        for turn in range(40):
            nonce = b"/%d-%d" % (name, turn)
            asking = asyncio.ensure_future(fetch(upstream, Request(b"GET", nonce)))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.002)
                asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, UpstreamError):
                assert await asking == (200, nonce)
                answered += 1
        return answered

    short_timeouts = {f"{what}_timeout_seconds": 0.05 for what in ("first_byte", "idle")}
    async with scripted() as server, upstream_to(server.url, max_connections=3, **short_timeouts) as upstream:
        server.respond = echo
        assert sum(await asyncio.gather(*(client(name) for name in range(8)))) > 100


@pytest.mark.parametrize("seed", range(6))
async def test_pool_leaks_nothing_wherever_it_is_cancelled(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a reproducible schedule, nothing secret
    tasks_before, files_before = len(asyncio.all_tasks()), psutil.Process().num_fds()
    replies = [
        Reply(),
        SILENCE,
        Reply(b"", Then.CLOSE),
        Reply(OK, Then.CLOSE),
        Reply(OK[:-1]),
        Reply(OK[:-1], Then.RESET),
    ]
    script = tuple(chance.choice(replies) for _ in range(400))
    async with (
        scripted(*script) as server,
        upstream_to(
            server.url,
            max_connections=3,
            **{f"{what}_timeout_seconds": 0.05 for what in ("queue", "first_byte", "idle")},
        ) as one,
    ):
        clients = [asyncio.ensure_future(_hurried_client(one, random.Random(chance.random()))) for _ in range(12)]  # noqa: S311
        await asyncio.gather(*clients)
        await eventually(lambda: "[0 leased, " in repr(one) and " 0 queued, " in repr(one))
    gc.collect()
    await eventually(lambda: len(asyncio.all_tasks()) == tasks_before)
    await eventually(lambda: psutil.Process().num_fds() == files_before)
    assert "0 leased, 0 idle, 0 queued, 0 open" in repr(one)


async def _hurried_client(upstream: Upstream, chance: random.Random) -> None:
    """Sends, and is cancelled after some turns of the loop or some microseconds."""
    for _ in range(25):
        sending = asyncio.ensure_future(fetch(upstream, _any_request(chance)))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.004)
        if chance.random() < 0.8:
            sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, UpstreamError):
            assert await sending == (200, b"ok")


def _any_request(chance: random.Random) -> Request:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
            yield b"some"

    return chance.choice([GET, Request(b"POST", b"/", body=b"x" * 40_000), Request(b"PUT", b"/", body=body())])
