"""What is sent again and what never is; who is asked, and who is left alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.upstream.balancer import Upstream
from gateway.upstream.body_replay import ReplayableBody
from gateway.upstream.errors import NotSentError, UpstreamError
from gateway.upstream.health import FAILED_PROBES_TO_EJECT, FAILURES_TO_EJECT
from gateway.upstream.request_head import Request
from policies.model import Outcome, Refusal
from tests.upstream.scripted import OK, Reply, Then, eventually, fetch, read_all, scripted, upstream_to

SILENCE = Reply(b"")
GONE = Reply(b"", Then.CLOSE)
UNAVAILABLE = Reply(b"HTTP/1.1 503 X\r\ncontent-length: 4\r\n\r\nbusy")
IDEMPOTENT = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"]


async def refusing_url() -> str:
    async with scripted() as server:
        return server.url


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class Seen:
    """An observer that counts."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.retries: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.ejections = 0

    def attempt_ended(self, upstream: str, outcome: Outcome, *, duration_seconds: float) -> None:
        assert upstream == "test"
        self.outcomes[outcome] += 1
        self.seconds.append(duration_seconds)

    def attempt_retried(self, _upstream: str, reason: str) -> None:
        self.retries[reason] += 1

    def target_ejected(self, _upstream: str) -> None:
        self.ejections += 1


# Stale connections.


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize(
    "request_",
    [
        Request(b"GET", b"/"),
        Request(b"POST", b"/", body=b"hello"),
        Request(b"POST", b"/", body=b"x" * 1_000_000),
        Request(b"POST", b"/"),
    ],
    ids=["GET", "POST", "big POST", "empty POST"],
)
async def test_stale_connection_is_replaced(request_: Request, then: Then) -> None:
    async with scripted(Reply(), Reply(b"", then), Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)

        assert await fetch(upstream, request_) == (200, b"ok")
        assert len(server.peers) == 2
        assert server.requests[1] == server.requests[2]


@pytest.mark.parametrize("length", [6, None], ids=["counted", "chunked"])
async def test_stale_connection_replays_a_small_streamed_body(length: int | None) -> None:
    async with scripted(Reply(), GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        request = Request(b"POST", b"/", body=chunks(b"abc", b"", b"def"), content_length=length)

        assert await fetch(upstream, request) == (200, b"ok")
        assert server.requests[1] == server.requests[2]


async def test_stale_connection_does_not_replay_a_large_streamed_body() -> None:
    async with scripted(Reply(), GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream, Request(b"POST", b"/", body=chunks(*[b"x" * 10_000] * 7)))

        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert len(server.requests) == 2


async def test_stale_connection_does_not_replay_an_unfinished_body() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()

    async with scripted() as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        sending = asyncio.ensure_future(fetch(upstream, Request(b"POST", b"/", body=stalled())))
        await eventually(lambda: b"some" in server.peers[0].received)
        server.peers[0].transport.close()

        with pytest.raises(UpstreamError) as raised:
            await sending
        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("method", "is_reused", "kept_bytes"),
    [(b"POST", False, 0), (b"POST", True, 0), (b"PUT", False, 4), (b"PUT", True, 4)],
)
async def test_streamed_body_is_kept_only_while_it_may_be_sent_again(
    monkeypatch: pytest.MonkeyPatch, method: bytes, kept_bytes: int, *, is_reused: bool
) -> None:
    """Until its connection cannot be stale any more; of an idempotent request until the response begins."""

    async def stalled() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.upstream.balancer.STALE_WITHIN_SECONDS", 0.05)
    async with scripted() as server, upstream_to(server.url) as upstream:
        if is_reused:
            await fetch(upstream)
        request = Request(method, b"/", body=stalled())
        sending = asyncio.ensure_future(upstream.send(request))
        await eventually(lambda: bool(server.peers) and b"some" in server.peers[0].received)
        body = request.body
        assert isinstance(body, ReplayableBody)
        await eventually(lambda: body.kept_bytes == kept_bytes)

        server.peers[0].transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        response = await sending
        assert body.kept_bytes == 0
        response.close()


@pytest.mark.parametrize(("method", "sent"), [(b"GET", 3), (b"POST", 2)])
async def test_connection_that_ends_late_is_not_stale(
    monkeypatch: pytest.MonkeyPatch, method: bytes, sent: int
) -> None:
    monkeypatch.setattr("gateway.upstream.balancer.STALE_WITHIN_SECONDS", 0.0)
    async with scripted(Reply(), GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        await asyncio.gather(fetch(upstream, Request(method, b"/")), return_exceptions=True)

        assert len(server.requests) == sent


async def test_stale_connection_is_replaced_only_once() -> None:
    async with scripted(Reply(), GONE, GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        with pytest.raises(UpstreamError):
            await fetch(upstream)

        assert len(server.requests) == 3


@pytest.mark.parametrize("method", [*IDEMPOTENT, b"POST"])
async def test_fresh_connection_is_never_stale(method: bytes) -> None:
    async with scripted(GONE, Reply()) as server, upstream_to(server.url, retries=3) as upstream:
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream, Request(method, b"/", body=b"x"))

        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert len(server.requests) == 1


async def test_response_that_began_is_never_retried() -> None:
    async with scripted(Reply(), Reply(b"H", Then.CLOSE)) as server, upstream_to(server.url, retries=3) as upstream:
        await fetch(upstream)
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream)

        assert raised.value.outcome is Outcome.UPSTREAM_INVALID
        assert len(server.requests) == 2


async def test_timeout_is_never_retried() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, retries=3, first_byte_timeout_seconds=0.05) as one:
        with pytest.raises(UpstreamError) as raised:
            await fetch(one)

        assert raised.value.code is Refusal.UPSTREAM_TIMEOUT
        assert len(server.requests) == 1


# Retries.


@pytest.mark.parametrize("method", [*IDEMPOTENT, b"POST", b"PATCH"])
async def test_refused_connect_is_retried_for_any_method(method: bytes) -> None:
    dead = await refusing_url()
    async with scripted() as server, upstream_to(dead, server.url, retries=1) as upstream:
        for _ in range(4):
            response = await upstream.send(Request(method, b"/", body=chunks(b"x")))
            assert response.status == 200
            response.close()


async def test_retry_goes_to_another_target_even_if_it_is_busier() -> None:
    dead = await refusing_url()
    async with scripted(SILENCE, Reply()) as server, upstream_to(dead, server.url, retries=1) as upstream:
        held = asyncio.ensure_future(fetch(upstream))
        await eventually(lambda: len(server.requests) == 1)
        for _ in range(FAILURES_TO_EJECT - 1):
            assert await fetch(upstream) == (200, b"ok")

        server.peers[0].transport.write(OK)
        assert await held == (200, b"ok")


@pytest.mark.parametrize("status", [b"502", b"503", b"504"])
@pytest.mark.parametrize("method", [b"GET", b"PUT"])
async def test_retry_of_an_idempotent_request_goes_to_another_target(method: bytes, status: bytes) -> None:
    bad = Reply(UNAVAILABLE.data.replace(b"503", status))
    async with scripted(bad) as worse, scripted() as better, upstream_to(worse.url, better.url, retries=1) as upstream:
        for _ in range(4):
            assert await fetch(upstream, Request(method, b"/", body=chunks(b"x"))) == (200, b"ok")

        assert len(better.requests) == 4


async def test_retry_gives_the_last_response_when_none_is_left() -> None:
    async with scripted(UNAVAILABLE) as server, upstream_to(server.url, retries=2) as upstream:
        assert await fetch(upstream) == (503, b"busy")
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request(b"POST", b"/", body=b"x"), b"503"),
        (Request(b"PATCH", b"/"), b"502"),
        (Request(b"GET", b"/"), b"500"),
        (Request(b"GET", b"/"), b"429"),
    ],
)
async def test_retry_happens_for_no_other_response(request_: Request, status: bytes) -> None:
    async with (
        scripted(Reply(UNAVAILABLE.data.replace(b"503", status))) as server,
        upstream_to(server.url, retries=2) as upstream,
    ):
        assert await fetch(upstream, request_) == (int(status), b"busy")
        assert len(server.requests) == 1


async def test_retry_happens_only_if_configured() -> None:
    async with scripted(UNAVAILABLE) as server, upstream_to(server.url, retries=0) as upstream:
        assert await fetch(upstream) == (503, b"busy")
        assert len(server.requests) == 1


# Choosing.


async def test_balancer_rotates_equal_targets() -> None:
    async with scripted() as one, scripted() as two, scripted() as three:
        async with upstream_to(one.url, two.url, three.url) as upstream:
            for _ in range(9):
                await fetch(upstream)

        assert [len(each.requests) for each in (one, two, three)] == [3, 3, 3]


async def test_balancer_picks_the_least_busy_target() -> None:
    async with scripted(SILENCE) as slow, scripted() as quick, upstream_to(slow.url, quick.url) as upstream:
        held = [asyncio.ensure_future(fetch(upstream)) for _ in range(2)]
        await eventually(lambda: len(slow.requests) == 1)
        for _ in range(6):
            await fetch(upstream)
        assert len(slow.requests) == 1

        slow.peers[0].transport.write(OK)
        await asyncio.gather(*held)


async def test_ejected_target_returns_after_its_pause() -> None:
    dead = await refusing_url()
    async with scripted() as server, upstream_to(dead, server.url) as upstream:
        results = [await _code_of(upstream) for _ in range(4 * FAILURES_TO_EJECT)]

        assert results.count(Refusal.UPSTREAM_UNREACHABLE) == FAILURES_TO_EJECT
        assert "ejected" in repr(upstream)
        assert upstream.targets_in_service == 1


async def test_breaker_refuses_while_every_target_is_ejected() -> None:
    dead = await refusing_url()
    async with upstream_to(dead) as upstream:
        for _ in range(FAILURES_TO_EJECT):
            assert await _code_of(upstream) is Refusal.UPSTREAM_UNREACHABLE
        for _ in range(50):
            assert await _code_of(upstream) is Refusal.UPSTREAM_OVERLOADED


async def test_breaker_closes_after_one_successful_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.health.FIRST_PAUSE_SECONDS", 0.05)
    async with (
        scripted(*[GONE] * FAILURES_TO_EJECT, SILENCE) as server,
        upstream_to(server.url, first_byte_timeout_seconds=5.0) as upstream,
    ):
        while "ejected" not in repr(upstream):
            await _code_of(upstream)
        trial = await _request_that_lasts(upstream)

        assert "on trial" in repr(upstream)
        assert await _code_of(upstream) is Refusal.UPSTREAM_OVERLOADED
        server.peers[-1].transport.write(OK)
        assert await trial == (200, b"ok")
        assert "in use" in repr(upstream)


async def test_breaker_allows_another_trial_after_a_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.health.FIRST_PAUSE_SECONDS", 0.02)
    async with scripted(*[GONE] * FAILURES_TO_EJECT, SILENCE, Reply()) as server, upstream_to(server.url) as upstream:
        while "ejected" not in repr(upstream):
            await _code_of(upstream)
        trial = await _request_that_lasts(upstream)
        await eventually(lambda: len(server.requests) == FAILURES_TO_EJECT + 1)
        trial.cancel()
        await asyncio.wait([trial])

        assert await fetch(upstream) == (200, b"ok")


async def test_probes_eject_and_readmit_in_spite_of_requests() -> None:
    seen = Seen()
    replies = [UNAVAILABLE, Reply()] * (FAILED_PROBES_TO_EJECT - 1) + [UNAVAILABLE, UNAVAILABLE, Reply()]
    async with scripted(*replies) as server, upstream_to(server.url, observer=seen) as upstream:
        for _ in range(FAILED_PROBES_TO_EJECT - 1):
            assert await upstream.probe(b"/health") == {server.url: False}
            assert await fetch(upstream) == (200, b"ok")
        assert (seen.ejections, upstream.targets_in_service) == (0, 1)
        for _ in range(2):
            assert await upstream.probe(b"/health") == {server.url: False}
            assert await _code_of(upstream) is Refusal.UPSTREAM_OVERLOADED
        assert (seen.ejections, upstream.targets_in_service) == (1, 0)

        assert await upstream.probe(b"/health") == {server.url: True}
        assert await fetch(upstream) == (200, b"ok")
        assert upstream.targets_in_service == 1
        assert server.requests[0].startswith(b"GET /health HTTP/1.1\r\n")
    assert seen.outcomes == {Outcome.SUCCEEDED: FAILED_PROBES_TO_EJECT}, "probes are no requests"


async def test_probe_of_a_busy_target_records_nothing() -> None:
    async with (
        scripted(SILENCE) as server,
        upstream_to(server.url, max_connections=1, queue_timeout_seconds=0.01) as upstream,
    ):
        held = asyncio.ensure_future(fetch(upstream))
        await eventually(lambda: len(server.requests) == 1)
        for _ in range(FAILED_PROBES_TO_EJECT):
            assert await upstream.probe(b"/health") == {server.url: True}
        assert upstream.targets_in_service == 1
        server.peers[0].transport.write(OK)
        await held


async def test_breaker_ignores_statuses() -> None:
    async with scripted(UNAVAILABLE) as server, upstream_to(server.url) as upstream:
        for _ in range(3 * FAILURES_TO_EJECT):
            assert await fetch(upstream) == (503, b"busy")


# Observing.


async def test_attempt_is_observed_once() -> None:
    seen = Seen()
    replies = [Reply(), GONE, Reply(), Reply(b"?"), Reply(), UNAVAILABLE, Reply(OK[:-1])]
    async with scripted(*replies) as server, upstream_to(server.url, observer=seen) as upstream:
        await fetch(upstream)
        await fetch(upstream)
        assert await _code_of(upstream) is Refusal.UPSTREAM_INVALID
        await fetch(upstream)
        await fetch(upstream)
        response = await upstream.send(Request(b"GET", b"/"))
        response.close()
        response.close()

    assert seen.outcomes == {
        Outcome.SUCCEEDED: 3,
        Outcome.UPSTREAM_UNREACHABLE: 1,
        Outcome.UPSTREAM_INVALID: 1,
        Outcome.UPSTREAM_ERROR: 1,
        Outcome.CLIENT_ABORTED: 1,
    }
    assert seen.retries == {"stale": 1}
    assert all(seconds >= 0 for seconds in seen.seconds)


async def test_failed_connect_is_observed() -> None:
    seen = Seen()
    async with upstream_to(await refusing_url(), observer=seen, retries=1) as upstream:
        with pytest.raises(NotSentError):
            await fetch(upstream)

    assert seen.outcomes == {Outcome.UPSTREAM_UNREACHABLE: 2}
    assert seen.retries == {"connect": 1}


def test_upstream_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="no target"):
        Upstream("test", targets=[])


async def test_unsafe_request_is_refused_before_a_connection_is_opened() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        with pytest.raises(ValueError, match="request line"):
            await upstream.send(Request(b"GET", b"/a b"))

        assert server.peers == []


async def _request_that_lasts(upstream: Upstream) -> asyncio.Future[tuple[int, bytes]]:
    """Ask until one request is not refused at once."""
    while True:
        asking = asyncio.ensure_future(fetch(upstream))
        await asyncio.wait([asking], timeout=0.02)
        if not asking.done():
            return asking
        assert asking.exception()


async def _code_of(upstream: Upstream) -> Refusal | None:
    try:
        response = await upstream.send(Request(b"GET", b"/"))
        await read_all(response)
    except UpstreamError as error:
        return error.code
    return None
