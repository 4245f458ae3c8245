"""What is sent again and what never is; who is asked, and who is left alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.upstream.balancer import Upstream
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
async def test_a_stale_connection_costs_the_client_nothing(request_: Request, then: Then) -> None:
    async with scripted(Reply(), Reply(b"", then), Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)

        assert await fetch(upstream, request_) == (200, b"ok")
        assert len(server.peers) == 2
        assert server.requests[1] == server.requests[2]


@pytest.mark.parametrize("length", [6, None], ids=["counted", "chunked"])
async def test_a_small_streamed_body_is_sent_again_whole(length: int | None) -> None:
    async with scripted(Reply(), GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        request = Request(b"POST", b"/", body=chunks(b"abc", b"", b"def"), content_length=length)

        assert await fetch(upstream, request) == (200, b"ok")
        assert server.requests[1] == server.requests[2]


async def test_a_streamed_body_too_big_to_keep_is_not_sent_again() -> None:
    async with scripted(Reply(), GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream, Request(b"POST", b"/", body=chunks(*[b"x" * 10_000] * 7)))

        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert len(server.requests) == 2


async def test_a_body_still_on_its_way_is_not_sent_again() -> None:
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


@pytest.mark.parametrize(("method", "sent"), [(b"GET", 3), (b"POST", 2)])
async def test_a_connection_that_ends_late_may_have_been_worked_on(
    monkeypatch: pytest.MonkeyPatch, method: bytes, sent: int
) -> None:
    monkeypatch.setattr("gateway.upstream.balancer.STALE_WITHIN_SECONDS", 0.0)
    async with scripted(Reply(), GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        await asyncio.gather(fetch(upstream, Request(method, b"/")), return_exceptions=True)

        assert len(server.requests) == sent


async def test_a_stale_connection_is_replaced_once() -> None:
    async with scripted(Reply(), GONE, GONE, Reply()) as server, upstream_to(server.url) as upstream:
        await fetch(upstream)
        with pytest.raises(UpstreamError):
            await fetch(upstream)

        assert len(server.requests) == 3


@pytest.mark.parametrize("method", [*IDEMPOTENT, b"POST"])
async def test_nothing_sent_over_a_fresh_connection_is_sent_again(method: bytes) -> None:
    async with scripted(GONE, Reply()) as server, upstream_to(server.url, retries=3) as upstream:
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream, Request(method, b"/", body=b"x"))

        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert len(server.requests) == 1


async def test_an_answer_that_began_is_never_asked_for_again() -> None:
    async with scripted(Reply(), Reply(b"H", Then.CLOSE)) as server, upstream_to(server.url, retries=3) as upstream:
        await fetch(upstream)
        with pytest.raises(UpstreamError) as raised:
            await fetch(upstream)

        assert raised.value.outcome is Outcome.UPSTREAM_INVALID
        assert len(server.requests) == 2


async def test_a_timeout_is_never_asked_again() -> None:
    async with scripted(SILENCE) as server, upstream_to(server.url, retries=3, first_byte_timeout_seconds=0.05) as one:
        with pytest.raises(UpstreamError) as raised:
            await fetch(one)

        assert raised.value.code is Refusal.UPSTREAM_TIMEOUT
        assert len(server.requests) == 1


# Retries.


@pytest.mark.parametrize("method", [*IDEMPOTENT, b"POST", b"PATCH"])
async def test_a_refused_connect_is_tried_elsewhere_for_any_method(method: bytes) -> None:
    dead = await refusing_url()
    async with scripted() as server, upstream_to(dead, server.url, retries=1) as upstream:
        for _ in range(4):
            response = await upstream.send(Request(method, b"/", body=chunks(b"x")))
            assert response.status == 200
            response.close()


async def test_a_retry_goes_elsewhere_even_if_that_is_busier() -> None:
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
async def test_an_idempotent_request_is_retried_on_another_target(method: bytes, status: bytes) -> None:
    bad = Reply(UNAVAILABLE.data.replace(b"503", status))
    async with scripted(bad) as worse, scripted() as better, upstream_to(worse.url, better.url, retries=1) as upstream:
        for _ in range(4):
            assert await fetch(upstream, Request(method, b"/", body=chunks(b"x"))) == (200, b"ok")

        assert len(better.requests) == 4


async def test_the_last_answer_is_passed_on_when_retries_are_spent() -> None:
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
async def test_anything_else_is_passed_on_at_once(request_: Request, status: bytes) -> None:
    async with (
        scripted(Reply(UNAVAILABLE.data.replace(b"503", status))) as server,
        upstream_to(server.url, retries=2) as upstream,
    ):
        assert await fetch(upstream, request_) == (int(status), b"busy")
        assert len(server.requests) == 1


async def test_no_retries_means_none() -> None:
    async with scripted(UNAVAILABLE) as server, upstream_to(server.url, retries=0) as upstream:
        assert await fetch(upstream) == (503, b"busy")
        assert len(server.requests) == 1


# Choosing.


async def test_equal_targets_take_turns() -> None:
    async with scripted() as one, scripted() as two, scripted() as three:
        async with upstream_to(one.url, two.url, three.url) as upstream:
            for _ in range(9):
                await fetch(upstream)

        assert [len(each.requests) for each in (one, two, three)] == [3, 3, 3]


async def test_the_least_busy_target_is_asked() -> None:
    async with scripted(SILENCE) as slow, scripted() as quick, upstream_to(slow.url, quick.url) as upstream:
        held = [asyncio.ensure_future(fetch(upstream)) for _ in range(2)]
        await eventually(lambda: len(slow.requests) == 1)
        for _ in range(6):
            await fetch(upstream)
        assert len(slow.requests) == 1

        slow.peers[0].transport.write(OK)
        await asyncio.gather(*held)


async def test_a_failing_target_is_left_alone_and_comes_back() -> None:
    dead = await refusing_url()
    async with scripted() as server, upstream_to(dead, server.url) as upstream:
        results = [await _code_of(upstream) for _ in range(4 * FAILURES_TO_EJECT)]

        assert results.count(Refusal.UPSTREAM_UNREACHABLE) == FAILURES_TO_EJECT
        assert "ejected" in repr(upstream)
        assert upstream.targets_in_service == 1


async def test_the_breaker_answers_at_once_while_every_target_is_out() -> None:
    dead = await refusing_url()
    async with upstream_to(dead) as upstream:
        for _ in range(FAILURES_TO_EJECT):
            assert await _code_of(upstream) is Refusal.UPSTREAM_UNREACHABLE
        for _ in range(50):
            assert await _code_of(upstream) is Refusal.UPSTREAM_OVERLOADED


async def test_one_trial_closes_the_breaker_again(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_trial_that_its_client_leaves_frees_the_way_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.health.FIRST_PAUSE_SECONDS", 0.02)
    async with scripted(*[GONE] * FAILURES_TO_EJECT, SILENCE, Reply()) as server, upstream_to(server.url) as upstream:
        while "ejected" not in repr(upstream):
            await _code_of(upstream)
        trial = await _request_that_lasts(upstream)
        await eventually(lambda: len(server.requests) == FAILURES_TO_EJECT + 1)
        trial.cancel()
        await asyncio.wait([trial])

        assert await fetch(upstream) == (200, b"ok")


async def test_probes_eject_and_readmit_whatever_requests_say() -> None:
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


async def test_a_target_too_busy_to_be_probed_is_neither_well_nor_ill() -> None:
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


async def test_statuses_alone_never_open_the_breaker() -> None:
    async with scripted(UNAVAILABLE) as server, upstream_to(server.url) as upstream:
        for _ in range(3 * FAILURES_TO_EJECT):
            assert await fetch(upstream) == (503, b"busy")


# Observing.


async def test_every_attempt_is_observed_once() -> None:
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


async def test_a_connect_that_failed_is_observed_too() -> None:
    seen = Seen()
    async with upstream_to(await refusing_url(), observer=seen, retries=1) as upstream:
        with pytest.raises(NotSentError):
            await fetch(upstream)

    assert seen.outcomes == {Outcome.UPSTREAM_UNREACHABLE: 2}
    assert seen.retries == {"connect": 1}


def test_an_upstream_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="no target"):
        Upstream("test", targets=[])


async def test_an_unsafe_request_is_refused_before_anything_is_opened() -> None:
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
