"""What is noted of the traffic: metrics, the access log, and for PostgreSQL the refusals and last use of keys."""

from __future__ import annotations

from datetime import UTC, datetime
from json import dumps
from time import time
from typing import Protocol
from uuid import UUID

from gateway import metrics
from gateway.ledger.accounts.api_keys import touch_last_used
from gateway.ledger.db.session import Database
from gateway.ledger.usage import refusals
from gateway.ledger.usage.refusals import RefusedIn
from gateway.metrics import BufferedCounter, BufferedGauge, BufferedHistogram
from gateway.proxy.admission.idempotency import Repeated
from gateway.proxy.admission.principals import Caller
from gateway.proxy.forward.client_response import Reply
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.settle.call import Call
from gateway.proxy.telemetry.access_log import AccessLog
from policies.model import Refused, Route

_Counted = tuple[UUID, str, str, int]  # key, endpoint, code, minute since the epoch

MAX_PENDING = 100_000  # distinct (key, endpoint, code, minute) between two writes; past it the rest is only a metric


class Traces(Protocol):
    """Makes spans of what has ended, as `gateway.proxy.tracing` does."""

    def settled(self, call: Call, reply: Reply) -> None: ...

    def refused(self, inbound: Inbound, reply: Reply, *, code: str, seconds: float, route: Route | None) -> None: ...


class EndpointSeries:
    """The series of one route, bound once: a request then pays for increments, not for look-ups."""

    def __init__(self, route: Route | None) -> None:
        self.endpoint = metrics.OTHER if route is None else route.name
        self.quoted = dumps(self.endpoint)
        self.methods = frozenset[str]() if route is None else route.methods
        self.duration = BufferedHistogram(metrics.DURATION.labels(self.endpoint), metrics.SECONDS)
        self.overhead = BufferedHistogram(metrics.OVERHEAD.labels(self.endpoint), metrics.OVERHEAD_SECONDS)
        self.released = BufferedCounter(metrics.CREDITS_RELEASED.labels(self.endpoint))
        self._answered = dict[tuple[str, int], BufferedCounter]()
        self._charged = dict[str, BufferedCounter]()
        self._refused = dict[str, BufferedCounter]()

    def answered(self, method: str, status: int) -> None:
        series = self._answered.get((method, status))
        if series is None:
            known = method if method in self.methods else metrics.OTHER
            series = self._answered.get((known, status))
            if series is None:
                series = BufferedCounter(metrics.REQUESTS.labels(self.endpoint, known, str(status)))
                self._answered[known, status] = series
        series.inc()

    def refused(self, code: str) -> None:
        series = self._refused.get(code)
        if series is None:
            series = self._refused[code] = BufferedCounter(metrics.REFUSALS.labels(self.endpoint, code))
        series.inc()

    def charged(self, plan: str, credits: int) -> None:
        series = self._charged.get(plan)
        if series is None:
            series = self._charged[plan] = BufferedCounter(metrics.CREDITS_CHARGED.labels(self.endpoint, plan))
        series.inc(credits)


class Tally:
    """Counts in memory; `run_once` writes what has to last."""

    idle_seconds = 5.0

    def __init__(self, database: Database, access_log: AccessLog, traces: Traces | None = None) -> None:
        self._database = database
        self._access_log = access_log
        self._traces = traces
        self._by_route: dict[str, EndpointSeries] = {}
        self._other = EndpointSeries(None)
        self._refusals: dict[_Counted, int] = {}
        self._used: dict[UUID, float] = {}  # seconds since the epoch
        self._admitted = BufferedCounter(metrics.ADMITTED)
        self._settled = BufferedCounter(metrics.SETTLED)
        self._in_flight = BufferedGauge(metrics.IN_FLIGHT)

    def series(self, route: Route | None) -> EndpointSeries:
        if route is None:
            return self._other
        series = self._by_route.get(route.name)
        if series is None:
            series = self._by_route[route.name] = EndpointSeries(route)
        series.methods = route.methods  # those of another configuration, since the last call
        return series

    def admitted(self) -> None:
        self._admitted.inc()
        self._in_flight.add(1)

    def settled(self, call: Call, reply: Reply) -> None:
        ticket, status = call.ticket, reply.status
        series = self.series(ticket.ask.match.route)
        elapsed, caller = call.elapsed_seconds, ticket.caller
        self._used[caller.principal.key.id] = time()
        self._access_log.note(
            reply.request_id,
            series.quoted,
            method=ticket.ask.inbound.method,
            status=status,
            seconds=elapsed,
            upstream_seconds=call.upstream_seconds,
            code=call.outcome,
            credits=call.charged,
            key=caller.masked_key,
        )
        self._in_flight.add(-1)
        self._settled.inc()
        series.answered(ticket.ask.inbound.method, status)
        series.duration.observe(elapsed)
        if call.upstream_seconds is not None:
            series.overhead.observe(elapsed - call.upstream_seconds)
        if call.charged:
            series.charged(ticket.subscription.plan.name, call.charged)
        if ticket.held > call.charged:
            series.released.inc(ticket.held - call.charged)
        if self._traces is not None:
            self._traces.settled(call, reply)

    def repeated(self, repeated: Repeated, reply: Reply, *, inbound: Inbound, seconds: float) -> None:
        series, key = self.series(repeated.route), repeated.caller.principal.key
        self._used[key.id] = time()
        metrics.REPEATS.labels(series.endpoint).inc()
        series.answered(inbound.method, reply.status)
        self._access_log.note(
            reply.request_id,
            series.quoted,
            method=inbound.method,
            status=reply.status,
            seconds=seconds,
            code="repeated",
            credits=0,
            key=repeated.caller.masked_key,
        )
        if self._traces is not None:
            self._traces.refused(inbound, reply, code="repeated", seconds=seconds, route=repeated.route)

    def refused(
        self,
        refused: Refused,
        reply: Reply,
        *,
        inbound: Inbound,
        seconds: float,
        route: Route | None,
        caller: Caller | None,
    ) -> None:
        series, method = self.series(route), inbound.method
        series.answered(method, reply.status)
        series.refused(refused.code)
        key = caller.principal.key if caller is not None else None
        self._access_log.note(
            reply.request_id,
            series.quoted,
            method=method if method in series.methods else metrics.OTHER,
            status=reply.status,
            seconds=seconds,
            code=refused.code,
            key="" if caller is None else caller.masked_key,
        )
        if key is not None and len(self._refusals) < MAX_PENDING:
            counted = key.id, series.endpoint, refused.code, int(time()) // 60
            self._refusals[counted] = self._refusals.get(counted, 0) + 1
        if self._traces is not None:
            self._traces.refused(inbound, reply, code=refused.code, seconds=seconds, route=route)

    async def run_once(self) -> int:
        """Writes what was noted since the last time; always 0, for nothing is left."""
        if not self._refusals and not self._used:
            return 0
        refused, self._refusals = self._refusals, {}
        used, self._used = self._used, {}
        try:
            async with self._database.transaction() as connection:
                await refusals.add(connection, {_refused_in(*counted): count for counted, count in refused.items()})
                moments = {key_id: datetime.fromtimestamp(at, UTC) for key_id, at in used.items()}
                await touch_last_used(connection, moments)
        except BaseException:
            for counted, count in refused.items():
                self._refusals[counted] = self._refusals.get(counted, 0) + count
            self._used = used | self._used
            raise
        return 0


def _refused_in(key_id: UUID, endpoint: str, code: str, minute: int) -> RefusedIn:
    return RefusedIn(key_id, endpoint, code, datetime.fromtimestamp(minute * 60, UTC))
