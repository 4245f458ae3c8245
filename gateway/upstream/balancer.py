"""One upstream: picks the least busy healthy target, sends, and resends only what was certainly not processed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.upstream.address import parse_target
from gateway.upstream.body_replay import ReplayableBody
from gateway.upstream.connection import Deadlines
from gateway.upstream.errors import NotSentError, UpstreamError, overloaded
from gateway.upstream.health import FAILURES_TO_EJECT, Health
from gateway.upstream.pool import Pool, PoolLimits
from gateway.upstream.request_head import Request, render_head
from gateway.upstream.response import OnEnd, Response
from policies.model import Outcome, Refusal

# RFC 9110 section 9.2.2: sending these twice is sending them once. (TRACE never reaches an upstream.)
IDEMPOTENT_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
RETRIED_STATUSES = frozenset((502, 503, 504))
# A FIN that crossed our request is here within a round trip; a second covers a continent and a busy loop.
STALE_WITHIN_SECONDS = 1.0


class Observer(Protocol):
    """Hears of every attempt, once: how it ended and how long it took, why another followed, who was ejected by it."""

    def attempt_ended(self, upstream: str, outcome: Outcome, *, duration_seconds: float) -> None: ...
    def attempt_retried(self, upstream: str, reason: str) -> None: ...
    def target_ejected(self, upstream: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Probing:
    """What to ask a target for, to see whether it is well, and how often."""

    path: bytes
    interval_seconds: float


class Target:
    """One address with its connections and its record."""

    __slots__ = ("health", "host", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.health = Health()
        self.host = pool.address.authority

    def __repr__(self) -> str:
        return f"<Target {self.pool!r} {self.health!r}>"


class Upstream:
    """HTTP/1.1 to a set of equal targets.

    Durations are in seconds; `max_connections` counts per target. `retries` is how many more attempts a request gets
    where nothing was processed: after a failed connect, or after 502, 503, 504 to an idempotent method.
    """

    def __init__(
        self,
        name: str,
        *,
        targets: Sequence[str],
        connect_timeout_seconds: float = 2.0,
        first_byte_timeout_seconds: float = 60.0,
        idle_timeout_seconds: float = 60.0,
        total_timeout_seconds: float = 600.0,
        max_connections: int = 256,
        queue_timeout_seconds: float = 2.0,
        retries: int = 1,
        tls: ssl.SSLContext | None = None,
        probing: Probing | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not targets:
            raise ValueError(f"upstream {name!r}: there is no target")
        limits = PoolLimits(max_connections, connect_timeout_seconds, queue_timeout_seconds)
        deadlines = Deadlines(first_byte_timeout_seconds, idle_timeout_seconds)
        addresses = [parse_target(url) for url in targets]
        if tls is None and any(address.scheme == "https" for address in addresses):
            tls = tls_context()
        self.name = name
        self.idle_timeout_seconds = idle_timeout_seconds
        self.probing = probing
        self._targets = [Target(Pool(address, limits, deadlines=deadlines, tls=tls)) for address in addresses]
        self._total_timeout_seconds = total_timeout_seconds
        self._retries = retries
        self._observer = observer
        self._on_end: OnEnd | None = None if observer is None else self._response_ended
        self._turn = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Upstream {self.name!r} {self._targets!r}>"

    @property
    def targets_in_service(self) -> int:
        """How many are not ejected; with none the breaker is open."""
        return sum(not target.health.is_ejected for target in self._targets)

    async def send(self, request: Request) -> Response:
        """Send, and return once the head of the response is here; its body may still come, and ours still go.

        The response must be closed. Raises UpstreamError, and whatever the iterator of the request body raises.
        """
        now = self._now()
        total_at = now + self._total_timeout_seconds
        if request.body is not None and not isinstance(request.body, bytes):
            request.body = ReplayableBody(request.body)
        retries_left = self._retries
        avoided: Target | None = None
        while True:
            target = self._pick(now, avoided)
            try:
                response = await self._attempt(target, request, now=now, total_at=total_at)
            except NotSentError:
                if retries_left == 0:
                    raise
                reason = "connect"
            else:
                if response.status not in RETRIED_STATUSES or retries_left == 0 or not _may_be_sent_twice(request):
                    return response
                response.close()
                reason = str(response.status)
            retries_left -= 1
            avoided = target
            now = self._now()
            self._retried(reason)

    def retire(self) -> None:
        """Another has taken its place: calls that began here finish here, and no connection outlives them."""
        for target in self._targets:
            target.pool.retire()

    async def close(self) -> None:
        """Close every connection, whatever runs on it; drain first. Nothing is opened afterwards."""
        for target in self._targets:
            await target.pool.close()

    async def probe(self, target: bytes, *, within_seconds: float = 5.0) -> dict[str, bool]:
        """Ask every address for `GET target` now, ejected or not, and record which answered below 500."""
        request = Request(b"GET", target)
        well = await asyncio.gather(*(self._is_well(each, request, within_seconds) for each in self._targets))
        return {str(each.pool.address): answer for each, answer in zip(self._targets, well, strict=True)}

    def _now(self) -> float:
        """The loop's time. The loop is asked for once: before Python 3.12 each time costs a system call (getpid)."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()

    # Choosing.

    def _pick(self, now: float, avoided: Target | None) -> Target:
        """The least busy target that may be asked; equals take turns; the avoided one only if it is the last."""
        if len(self._targets) == 1:
            askable = self._targets if self._targets[0].health.may_be_asked(now) else []
        else:
            self._turn = (self._turn + 1) % len(self._targets)
            in_turn = self._targets[self._turn :] + self._targets[: self._turn]
            askable = [target for target in in_turn if target.health.may_be_asked(now)]
        if not askable:
            raise overloaded(f"every target of {self.name} failed {FAILURES_TO_EJECT} times in a row and is paused")
        if len(askable) == 1:
            return askable[0]
        return min((target for target in askable if target is not avoided), key=_busy)

    # One attempt.

    async def _attempt(self, target: Target, request: Request, *, now: float, total_at: float) -> Response:
        head = render_head(request, target.host)
        trial = target.health.asked()
        try:
            response = await self._exchange(target, head, request, now=now, total_at=total_at, on_end=self._on_end)
        except UpstreamError as error:
            self._failed(target, error, trial=trial, started_at=now)
            raise
        except BaseException:
            target.health.unknown(trial=trial)
            raise
        target.health.succeeded()
        return response

    async def _exchange(
        self, target: Target, head: bytes, request: Request, *, now: float, total_at: float, on_end: OnEnd | None
    ) -> Response:
        connection = target.pool.take_idle(now) or await target.pool.connect_or_wait()
        response = connection.start(head, request, total_at=total_at, on_end=on_end)
        try:
            await response.headed()
        except UpstreamError:
            if not self._was_stale(response, request):
                raise
            self._retried("stale")
            connection = await target.pool.connect_or_wait()
            response = connection.start(head, request, total_at=total_at, on_end=on_end)
            await response.headed()
        return response

    def _was_stale(self, response: Response, request: Request) -> bool:
        """A connection used before that ended without a byte of an answer: the server closed it as we wrote.

        A server that died over the request looks the same for a moment, and would get it twice; hence the moment only,
        for methods that are not idempotent. The caller is charged once either way.
        """
        error = response.error
        took_seconds = self._now() - response.started_at
        return (
            response.reused
            and isinstance(error, UpstreamError)
            and error.code is Refusal.UPSTREAM_UNREACHABLE
            and (took_seconds < STALE_WITHIN_SECONDS or request.method in IDEMPOTENT_METHODS)
            and _is_replayable(request)
        )

    async def _is_well(self, target: Target, request: Request, within_seconds: float) -> bool:
        now = self._now()
        head = render_head(request, target.host)
        try:
            total_at = now + within_seconds
            response = await self._exchange(target, head, request, now=now, total_at=total_at, on_end=None)
            response.close()
            well = response.status < 500
        except UpstreamError as error:
            if error.code is Refusal.UPSTREAM_OVERLOADED:
                return True  # busy is not ill, but not known to be well either
            well = False
        if target.health.probed(is_well=well):
            self._ejected()
        return well

    def _failed(self, target: Target, error: UpstreamError, *, trial: bool, started_at: float) -> None:
        now = self._now()
        if error.code is Refusal.UPSTREAM_OVERLOADED:
            target.health.unknown(trial=trial)
        elif target.health.failed(now, trial=trial):
            self._ejected()
        if self._observer is not None and (
            isinstance(error, NotSentError) or error.code is Refusal.UPSTREAM_OVERLOADED
        ):
            self._observer.attempt_ended(self.name, error.outcome, duration_seconds=now - started_at)

    # Observing.

    def _response_ended(self, response: Response) -> None:
        if self._observer is not None:
            seconds = self._now() - response.started_at
            self._observer.attempt_ended(self.name, outcome_of(response), duration_seconds=seconds)

    def _ejected(self) -> None:
        if self._observer is not None:
            self._observer.target_ejected(self.name)

    def _retried(self, reason: str) -> None:
        if self._observer is not None:
            self._observer.attempt_retried(self.name, reason)


def outcome_of(response: Response) -> Outcome:
    """How an ended exchange ended. One that broke for the client's sake, or was let go unfinished, was aborted.

    After 101 either side may end it.
    """
    if response.error is not None:
        return response.error.outcome if isinstance(response.error, UpstreamError) else Outcome.CLIENT_ABORTED
    if response.status >= 400:
        return Outcome.UPSTREAM_ERROR
    return Outcome.SUCCEEDED if response.complete or response.status == 101 else Outcome.CLIENT_ABORTED


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Verifying, TLS 1.2 and up, HTTP/1.1 by ALPN; with the system's authorities or those of a PEM file."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _busy(target: Target) -> int:
    return target.pool.busy


def _may_be_sent_twice(request: Request) -> bool:
    return request.method in IDEMPOTENT_METHODS and _is_replayable(request)


def _is_replayable(request: Request) -> bool:
    body = request.body
    return body is None or isinstance(body, bytes) or (isinstance(body, ReplayableBody) and body.is_replayable)
