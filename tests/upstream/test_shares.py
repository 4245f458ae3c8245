"""One account never has all connections to a target, nor takes a target from others by calls that fail."""

from __future__ import annotations

import asyncio

import pytest

from gateway.upstream.errors import UpstreamError
from gateway.upstream.request_head import Request
from gateway.upstream.response import Response
from policies.model import Refusal
from tests.upstream.scripted import Reply, Then, fetch, scripted, upstream_to


def by(account: str, method: bytes = b"GET") -> Request:
    return Request(method, b"/", account=account)


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
        assert (pool.busy, pool._leased_by) == (0, {})


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
