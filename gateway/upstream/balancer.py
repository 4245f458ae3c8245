"""One upstream: sends to the least busy healthy target, and retries only requests that no target has processed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, Callable, Hashable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from gateway.upstream.address import parse_target
from gateway.upstream.body_replay import ReplayableBody
from gateway.upstream.connection import Deadlines
from gateway.upstream.errors import NotSentError, UpstreamError, overloaded
from gateway.upstream.health import Health
from gateway.upstream.pool import Pool, PoolLimits
from gateway.upstream.request_head import Request, render_head
from gateway.upstream.response import OnEnd, Response
from policies.model import Outcome, Refusal

# RFC 9110 section 9.2.2. TRACE never reaches an upstream.
IDEMPOTENT_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
RETRIED_STATUSES = frozenset((502, 503, 504))
# A FIN that crossed the request arrives within a round trip; a second covers a continent and a busy loop.
STALE_WITHIN_SECONDS = 1.0
_REPLAYABLE = (bytes, ReplayableBody)
_SUCCEEDED = Outcome.SUCCEEDED  # looking up a member takes 50 ns


class Observer(Protocol):
    """Is called once for each attempt that ends, each retry and each ejection."""

    def attempt_ended(self, upstream: str, outcome: Outcome, *, duration_seconds: float) -> None: ...
    def attempt_retried(self, upstream: str, reason: str) -> None: ...
    def target_ejected(self, upstream: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """The path that a probe requests, and how often."""

    path: bytes
    interval_seconds: float


class Target:
    """One address with its connections and its health."""

    __slots__ = ("base_path", "health", "host", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.health = Health()
        self.host = pool.address.authority
        self.base_path = pool.address.base_path.encode()

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
        max_share_per_account: float = 1.0,
        max_share_client_paced: float = 0.5,
        queue_timeout_seconds: float = 2.0,
        retries: int = 1,
        tls: ssl.SSLContext | None = None,
        probing: ProbeSettings | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not targets:
            raise ValueError(f"upstream {name!r}: there is no target")
        per_account = max(1, ceil(max_connections * max_share_per_account))
        limits = PoolLimits(
            max_connections,
            connect_timeout_seconds,
            queue_timeout_seconds,
            max_connections_per_account=per_account,
            max_share_client_paced=max_share_client_paced,
        )
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
        self._on_end: OnEnd | None = None if observer is None else self._report_end
        self._rotation = 0
        self._now: Callable[[], float] = self._first_now

    def __repr__(self) -> str:
        return f"<Upstream {self.name!r} {self._targets!r}>"

    @property
    def targets_in_service(self) -> int:
        """How many are not ejected; with none the breaker is open."""
        return sum(not target.health.is_ejected for target in self._targets)

    async def send(self, request: Request) -> Response:
        """Sends, and returns once the head of the response has come; both bodies may still be on their way.

        The response must be closed. Raises UpstreamError, and what the iterator of the request body raises.
        """
        if request.body is not None and not isinstance(request.body, _REPLAYABLE):
            return await self._send_streamed(request, request.body)
        now = self._now()
        total_at = now + self._total_timeout_seconds
        retries_left = self._retries
        failed_target: Target | None = None
        while True:
            target = self._pick(now, request.account, exclude=failed_target)
            head = render_head(request, target.host, target.base_path)
            trial = target.health.start_attempt(now, request.account)
            try:
                response = await self._exchange(target, head, request, now=now, total_at=total_at, on_end=self._on_end)
            except UpstreamError as error:
                self._record_failure(target, error, request, trial=trial, started_at=now)
                if retries_left == 0 or not isinstance(error, NotSentError):
                    raise
                reason = "connect"
            except BaseException:
                target.health.record_unknown(trial=trial)
                raise
            else:
                target.health.record_success(request.account, now)
                if response.status not in RETRIED_STATUSES or retries_left == 0 or not _may_be_sent_twice(request):
                    return response
                response.close()
                reason = str(response.status)
            retries_left -= 1
            failed_target = target
            now = self._now()
            self._report_retry(reason)

    async def _send_streamed(self, request: Request, source: AsyncIterable[bytes]) -> Response:
        body = request.body = ReplayableBody(source)
        try:
            return await self.send(request)
        finally:
            body.forget()  # an upload may go on for long, but not begin once more

    def retire(self) -> None:
        """Lets the calls that run finish, and keeps no connection after them: the upstream is replaced."""
        for target in self._targets:
            target.pool.retire()

    async def close(self) -> None:
        """Closes every connection, whatever runs on it, and opens none afterwards."""
        for target in self._targets:
            await target.pool.close()

    async def probe(self, target: bytes, *, within_seconds: float = 5.0) -> dict[str, bool]:
        """Sends `GET target` to every address, ejected or not: healthy is which responds with a status below 500."""
        request = Request(b"GET", target)
        healthy = await asyncio.gather(*(self._probe(each, request, within_seconds) for each in self._targets))
        return {str(each.pool.address): is_healthy for each, is_healthy in zip(self._targets, healthy, strict=True)}

    def _first_now(self) -> float:
        """The loop's time. Keeps its clock: before Python 3.12 `get_running_loop` costs a system call (getpid)."""
        self._now = asyncio.get_running_loop().time
        return self._now()

    def _pick(self, now: float, account: Hashable, *, exclude: Target | None) -> Target:
        """The least busy target that accepts requests, equals in rotation; the excluded one if it is the only one."""
        if len(self._targets) == 1:
            available = self._targets if self._targets[0].health.accepts_requests(now, account) else []
        else:
            self._rotation = (self._rotation + 1) % len(self._targets)
            rotated = self._targets[self._rotation :] + self._targets[: self._rotation]
            available = [target for target in rotated if target.health.accepts_requests(now, account)]
        if not available:
            raise overloaded(f"every target of {self.name} failed many times in a row and is paused")
        if len(available) == 1:
            return available[0]
        return min((target for target in available if target is not exclude), key=_busy)

    async def _exchange(
        self, target: Target, head: bytes, request: Request, *, now: float, total_at: float, on_end: OnEnd | None
    ) -> Response:
        """Gives a response whose head has come. A connection that turns out stale is replaced once."""
        pool, account, may_replace = target.pool, request.account, True
        body = request.body if isinstance(request.body, ReplayableBody) else None
        is_client_paced = body is not None or request.upgrade is not None
        connection = pool.take_idle(now, account, is_client_paced=is_client_paced)
        while True:
            if connection is None:
                request.is_sent = False  # what an earlier attempt sent counts no more
                connection = await pool.connect_or_wait(account, is_client_paced=is_client_paced)
            response = connection.start(head, request, total_at=total_at, on_end=on_end)
            if body is not None:
                _limit_replay(body, request, response)
            try:
                while not response.status or response.error is not None:
                    await response.changed()
                return response
            except UpstreamError as error:
                response.close()
                if not (may_replace and self._was_stale(response, error, request)):
                    raise
                if body is not None:
                    body.keep()
                self._report_retry("stale")
                connection, may_replace = None, False
            except BaseException:  # a cancellation, too, gives the connection back
                response.close()
                raise

    def _was_stale(self, response: Response, error: UpstreamError, request: Request) -> bool:
        """Whether a reused connection ended without a byte of a response: the server closed it as the request was sent.

        A server that crashed over the request looks the same at first, and would get the request twice. So a method
        that is not idempotent counts within a short time only. The caller is charged once in either case.
        """
        took_seconds = self._now() - response.started_at
        return (
            response.reused
            and error.code is Refusal.UPSTREAM_UNREACHABLE
            and (took_seconds < STALE_WITHIN_SECONDS or request.method in IDEMPOTENT_METHODS)
            and _is_replayable(request)
        )

    async def _probe(self, target: Target, request: Request, within_seconds: float) -> bool:
        now = self._now()
        head = render_head(request, target.host, target.base_path)
        try:
            total_at = now + within_seconds
            response = await self._exchange(target, head, request, now=now, total_at=total_at, on_end=None)
            response.close()
            is_healthy = response.status < 500
        except UpstreamError as error:
            if error.code is Refusal.UPSTREAM_OVERLOADED:
                return True  # says nothing of its health, so nothing is recorded
            is_healthy = False
        if target.health.record_probe(is_healthy=is_healthy):
            self._report_ejection()
        return is_healthy

    def _record_failure(
        self, target: Target, error: UpstreamError, request: Request, *, trial: bool, started_at: float
    ) -> None:
        now = self._now()
        account = None if isinstance(error, NotSentError) else request.account
        if error.code is Refusal.UPSTREAM_OVERLOADED or error.is_clients_doing:
            target.health.record_unknown(trial=trial)
        elif target.health.record_failure(now, trial=trial, account=account):
            self._report_ejection()
        if self._observer is not None and (
            isinstance(error, NotSentError) or error.code is Refusal.UPSTREAM_OVERLOADED
        ):
            self._observer.attempt_ended(self.name, error.outcome, duration_seconds=now - started_at)

    def _report_end(self, response: Response) -> None:
        if self._observer is not None:
            seconds, is_success = self._now() - response.started_at, response.complete and response.status < 400
            outcome = _SUCCEEDED if is_success else outcome_of(response)
            self._observer.attempt_ended(self.name, outcome, duration_seconds=seconds)

    def _report_ejection(self) -> None:
        if self._observer is not None:
            self._observer.target_ejected(self.name)

    def _report_retry(self, reason: str) -> None:
        if self._observer is not None:
            self._observer.attempt_retried(self.name, reason)


def outcome_of(response: Response) -> Outcome:
    """The outcome of an exchange that has ended: CLIENT_ABORTED if the client's side failed or it was closed early.

    After 101 either side may end it.
    """
    if response.error is not None:
        return response.error.outcome if isinstance(response.error, UpstreamError) else Outcome.CLIENT_ABORTED
    if response.status >= 400:
        return Outcome.UPSTREAM_ERROR
    return _SUCCEEDED if response.complete or response.status == 101 else Outcome.CLIENT_ABORTED


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Verifies certificates, by the system's authorities or those of a PEM file; TLS 1.2 and up, HTTP/1.1 by ALPN."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _limit_replay(body: ReplayableBody, request: Request, response: Response) -> None:
    """Keeps of a body no more than may be sent again: an idempotent request, or one on a connection that is stale."""
    if request.method not in IDEMPOTENT_METHODS:
        body.keep_for(STALE_WITHIN_SECONDS if response.reused else 0.0)


def _busy(target: Target) -> int:
    return target.pool.busy


def _may_be_sent_twice(request: Request) -> bool:
    return request.method in IDEMPOTENT_METHODS and _is_replayable(request)


def _is_replayable(request: Request) -> bool:
    body = request.body
    return body is None or isinstance(body, bytes) or (isinstance(body, ReplayableBody) and body.is_replayable)
