"""One account never has all connections to a target, nor takes a target from others by calls that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.upstream import waiting as waiting_module
from gateway.upstream.errors import UpstreamError
from gateway.upstream.pool import UNTAKEN_SECONDS
from gateway.upstream.request_head import Request
from gateway.upstream.response import Response
from policies.model import Outcome, Refusal
from tests.upstream.scripted import Reply, Then, eventually, fetch, scripted, upstream_to

LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n" + bytes(10_000_000)


def by(account: str, method: bytes = b"GET") -> Request:
    return Request(method, b"/", account=account)


def upload(account: str, is_over: asyncio.Event) -> Request:
    """One that is sent but for its last byte, which waits for the event."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes(99)
        await is_over.wait()
        yield b"0"

    return Request(b"POST", b"/", body=body(), content_length=100, account=account)


def tunnel(account: str) -> Request:
    return Request(b"GET", b"/", upgrade=b"websocket", account=account)


async def test_account_that_has_its_share_leaves_the_rest_to_others() -> None:
    async with (
        scripted(Reply(b"")) as server,
        upstream_to(server.url, max_connections=4, max_share_per_account=0.5, queue_timeout_seconds=0.2) as upstream,
    ):
        hog = [asyncio.ensure_future(upstream.send(by("hog"))) for _ in range(6)]
        done: set[asyncio.Future[Response]] = set()
        held = set(hog)
        while len(done) < 4:
            more, held = await asyncio.wait(held, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for each in done:
            error = each.exception()
            assert isinstance(error, UpstreamError)
            assert error.code is Refusal.UPSTREAM_OVERLOADED
        assert len(server.peers) == 2

        server.replies = (Reply(),)
        for _ in range(20):
            await fetch(upstream, by("victim"))
        for each in held:
            each.cancel()
        await asyncio.wait(held)


async def test_account_takes_over_its_own_connections_in_turn() -> None:
    async with (
        scripted() as server,
        upstream_to(server.url, max_connections=4, max_share_per_account=0.5, queue_timeout_seconds=10) as upstream,
    ):
        await asyncio.gather(*(fetch(upstream, by("hog")) for _ in range(200)))
        assert len(server.peers) <= 2
        pool = upstream._targets[0].pool
        assert (pool.busy, pool._leases._leased_by) == (0, {})


async def test_poison_calls_of_one_account_fail_nobody_else() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        failed = 0
        for _ in range(100):
            server.replies = (Reply(b"", Then.RESET),)
            with pytest.raises(UpstreamError):
                await upstream.send(by("attacker", b"POST"))
            failed += 1
            server.replies = (Reply(),)
            await fetch(upstream, by("victim"))
        assert failed == 100


async def test_poison_calls_of_one_account_alone_pause_it_alone() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        server.replies = (Reply(b"", Then.RESET),)
        codes = []
        for _ in range(20):
            with pytest.raises(UpstreamError) as failure:
                await upstream.send(by("attacker", b"POST"))
            codes.append(failure.value.code)
        assert Refusal.UPSTREAM_OVERLOADED in codes
        server.replies = (Reply(),)
        await fetch(upstream, by("victim"))


async def test_unfinished_uploads_leave_half_of_the_connections_to_other_calls() -> None:
    is_over = asyncio.Event()
    async with (
        scripted() as server,
        upstream_to(server.url, max_connections=4, max_share_per_account=0.5, queue_timeout_seconds=10) as upstream,
    ):
        held = [asyncio.ensure_future(fetch(upstream, upload(who, is_over))) for who in ("one", "two", "one", "two")]
        await eventually(lambda: "[2 leased, 0 idle, 2 queued, 2 open]" in repr(upstream))
        for _ in range(20):
            await asyncio.gather(fetch(upstream, by("victim")), fetch(upstream, by("one")))
        assert "2 queued" in repr(upstream)

        is_over.set()
        assert await asyncio.gather(*held) == [(200, b"ok")] * 4
        assert len(server.peers) == 4


async def test_unfinished_uploads_of_one_account_leave_half_of_their_share_to_others() -> None:
    is_over = asyncio.Event()
    async with (
        scripted() as server,
        upstream_to(server.url, max_connections=4, max_share_per_account=0.5, queue_timeout_seconds=10) as upstream,
    ):
        held = [asyncio.ensure_future(fetch(upstream, upload("hog", is_over))) for _ in range(4)]
        await eventually(lambda: "[1 leased, 0 idle, 3 queued, 1 open]" in repr(upstream))
        at_once = asyncio.Event()
        at_once.set()
        for _ in range(20):
            assert await fetch(upstream, upload("victim", at_once)) == (200, b"ok")

        is_over.set()
        assert await asyncio.gather(*held) == [(200, b"ok")] * 4


async def test_upload_that_is_sent_makes_room_for_the_next_one_before_its_response() -> None:
    is_over = asyncio.Event()
    async with (
        scripted(Reply(b"")) as server,
        upstream_to(server.url, max_connections=2, queue_timeout_seconds=10) as upstream,
    ):
        first = asyncio.ensure_future(upstream.send(upload("one", is_over)))
        second = asyncio.ensure_future(upstream.send(upload("two", is_over)))
        await eventually(lambda: "[1 leased, 0 idle, 1 queued, " in repr(upstream))
        is_over.set()
        await eventually(lambda: len(server.requests) == 2)
        for each in (first, second):
            each.cancel()
        await asyncio.wait((first, second))


async def test_upload_whose_client_leaves_makes_room_for_the_next_one() -> None:
    is_over = asyncio.Event()
    async with (
        scripted() as server,
        upstream_to(server.url, max_connections=2, queue_timeout_seconds=10) as upstream,
    ):
        held = [asyncio.ensure_future(fetch(upstream, upload("one", is_over))) for _ in range(3)]
        await eventually(lambda: "[1 leased, 0 idle, 2 queued, " in repr(upstream))
        for each in held[:2]:
            each.cancel()
        await asyncio.wait(held[:2])
        is_over.set()
        assert await held[2] == (200, b"ok")
        assert upstream._targets[0].pool._client_paced.count == 0


async def test_tunnels_leave_a_reserve_of_connections_to_other_calls() -> None:
    async with (
        scripted(Reply(b"")) as server,
        upstream_to(server.url, max_connections=4, queue_timeout_seconds=10) as upstream,
    ):
        held = [asyncio.ensure_future(upstream.send(tunnel(who))) for who in ("one", "two", "one", "two")]
        await eventually(lambda: "[2 leased, 0 idle, 2 queued, 2 open]" in repr(upstream) and len(server.requests) == 2)
        server.replies = (Reply(),)
        for _ in range(20):
            await asyncio.gather(fetch(upstream, by("victim")), fetch(upstream, by("one")))
        assert "2 queued" in repr(upstream)
        for each in held:
            each.cancel()
        await asyncio.wait(held)
        assert upstream._targets[0].pool._client_paced.count == 0


async def test_tunnels_have_all_connections_where_the_operator_says_so() -> None:
    async with (
        scripted(Reply(b"")) as server,
        upstream_to(server.url, max_connections=4, max_share_client_paced=1.0) as upstream,
    ):
        held = [asyncio.ensure_future(upstream.send(tunnel("one"))) for _ in range(4)]
        await eventually(lambda: "[4 leased, 0 idle, 0 queued, 4 open]" in repr(upstream))
        for each in held:
            each.cancel()
        await asyncio.wait(held)


async def test_responses_that_nobody_takes_give_way_to_calls_of_others() -> None:
    async with (
        scripted(Reply(LARGE)) as server,
        upstream_to(server.url, max_connections=6, max_share_per_account=0.5, queue_timeout_seconds=10) as upstream,
    ):
        untaken = {who: [await upstream.send(by(who)) for _ in range(3)] for who in ("one", "two")}
        loop = asyncio.get_running_loop()
        pool = upstream._targets[0].pool
        await eventually(lambda: all(each.is_untaken(loop.time() - UNTAKEN_SECONDS) for each in pool._open))
        server.replies = (Reply(),)
        for _ in range(20):
            assert await fetch(upstream, by("victim")) == (200, b"ok")
        errors = [each.error for each in untaken["one"] + untaken["two"] if each.error is not None]
        (error,) = errors
        assert isinstance(error, UpstreamError)
        assert (error.outcome, error.is_clients_doing) == (Outcome.CLIENT_ABORTED, True)
        assert upstream.targets_in_service == 1
        for each in untaken["one"] + untaken["two"]:
            each.close()


async def test_call_does_not_wait_long_for_responses_that_nobody_has_taken_yet() -> None:
    patient = {"queue_timeout_seconds": 60.0, "total_timeout_seconds": 60.0}
    async with (
        scripted(Reply(LARGE)) as server,
        upstream_to(server.url, max_connections=6, max_share_per_account=0.5, **patient) as upstream,
    ):
        untaken = [await upstream.send(by(who)) for who in ("one", "two") for _ in range(3)]
        await eventually(lambda: all(each.buffered for each in untaken))
        server.replies = (Reply(),)
        async with asyncio.timeout(20):
            assert await fetch(upstream, by("victim")) == (200, b"ok")
        for each in untaken:
            each.close()


async def test_response_that_its_client_takes_or_of_an_account_with_few_is_kept() -> None:
    async with (
        scripted(Reply(LARGE)) as server,
        upstream_to(server.url, max_connections=3, queue_timeout_seconds=0.05) as upstream,
    ):
        loop = asyncio.get_running_loop()
        pool = upstream._targets[0].pool
        few = [await upstream.send(by(who)) for who in ("one", "one", "two")]
        await eventually(lambda: all(each.is_untaken(loop.time() - UNTAKEN_SECONDS) for each in pool._open))
        with pytest.raises(UpstreamError):
            await upstream.send(by("victim"))
        few[2].close()
        many = [*few[:2], await upstream.send(by("one"))]
        await eventually(lambda: all(each.buffered for each in many))
        for each in many:
            each.take()
        with pytest.raises(UpstreamError):
            await upstream.send(by("victim"))
        assert [each.error for each in many] == [None] * 3
        for each in many:
            each.close()


async def test_accounts_that_wait_take_turns() -> None:
    async with (
        scripted(Reply(b"")) as server,
        upstream_to(server.url, max_connections=2, max_share_per_account=1.0, queue_timeout_seconds=10) as upstream,
    ):
        running = [asyncio.ensure_future(upstream.send(by("hog"))) for _ in range(2)]
        waiting = [asyncio.ensure_future(fetch(upstream, by("hog"))) for _ in range(30)]
        await eventually(lambda: "30 queued" in repr(upstream))
        victim = asyncio.ensure_future(fetch(upstream, by("victim")))
        await eventually(lambda: "31 queued" in repr(upstream) and len(server.requests) == 2)
        server.replies = (Reply(),)
        running[0].cancel()
        assert await victim == (200, b"ok")
        assert sum(each.done() for each in waiting) <= 2
        running[1].cancel()
        assert await asyncio.gather(*waiting) == [(200, b"ok")] * 30


async def test_account_fills_half_of_the_queue_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_QUEUED", 8)
    async with (
        scripted(Reply(b"")) as server,
        upstream_to(server.url, max_connections=1, queue_timeout_seconds=10) as upstream,
    ):
        hog = [asyncio.ensure_future(upstream.send(by("hog"))) for _ in range(20)]
        await eventually(lambda: "[1 leased, 0 idle, 4 queued, 1 open]" in repr(upstream))
        victim = asyncio.ensure_future(fetch(upstream, by("victim")))
        await eventually(lambda: "5 queued" in repr(upstream) and len(server.requests) == 1)
        server.replies = (Reply(),)
        for each in hog:
            each.cancel()
        assert await victim == (200, b"ok")
