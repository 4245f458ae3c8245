"""Records each request in metrics, the access log and traces, and for PostgreSQL the refusals and last use of keys."""

from __future__ import annotations

from collections.abc import Callable
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
from gateway.metrics import BufferedCounter, BufferedDifference, BufferedHistogram
from gateway.proxy.admission.caller import Caller
from gateway.proxy.admission.idempotency import IdempotentReplay
from gateway.proxy.forward.client_response import ClientResponse
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.settle.active_call import ActiveCall
from gateway.proxy.telemetry.access_log import NO_KEY, AccessLog
from gateway.proxy.telemetry.request_lines import RequestFacts
from policies.model import Refused, Route
from policies.pricing.model_costs import Flag

_RefusalKey = tuple[UUID, str, str, int]  # API key, endpoint, code, minute since the epoch

MAX_PENDING = 100_000  # distinct refusal keys between two writes; above it refusals are counted in metrics only


class SpanRecorder(Protocol):
    """Records spans of requests that have ended, as `gateway.proxy.telemetry.tracing` does."""

    def record_settled(self, call: ActiveCall, response: ClientResponse) -> None: ...

    def record_refused(
        self, inbound: Inbound, response: ClientResponse, *, code: str, seconds: float, route: Route | None
    ) -> None: ...


class Lines(Protocol):
    """Writes the lines of requests as the operator wants them."""

    def record(self, facts: RequestFacts) -> None: ...


class EndpointSeries:
    """The series of one route, bound once: a request then costs increments, not look-ups."""

    def __init__(self, route: Route | None) -> None:
        self.endpoint = metrics.OTHER if route is None else route.name
        self.endpoint_json = dumps(self.endpoint)
        self.methods = frozenset[str]() if route is None else route.methods
        self.duration = BufferedHistogram(metrics.DURATION.labels(self.endpoint), metrics.SECONDS)
        self.overhead = BufferedHistogram(metrics.OVERHEAD.labels(self.endpoint), metrics.OVERHEAD_SECONDS)
        self.released = BufferedCounter(metrics.CREDITS_RELEASED.labels(self.endpoint))
        self.responses = dict[tuple[str, int], BufferedCounter]()
        self.charges = dict[str, BufferedCounter]()
        self._refusals = dict[str, BufferedCounter]()

    def response(self, method: str, status: int) -> BufferedCounter:
        series = self.responses.get((method, status))
        if series is None:
            known = method if method in self.methods else metrics.OTHER
            series = self.responses.get((known, status))
            if series is None:
                series = BufferedCounter(metrics.REQUESTS.labels(self.endpoint, known, str(status)))
                self.responses[known, status] = series
        return series

    def charge(self, plan: str) -> BufferedCounter:
        series = self.charges.get(plan)
        if series is None:
            series = self.charges[plan] = BufferedCounter(metrics.CREDITS_CHARGED.labels(self.endpoint, plan))
        return series

    def count_refusal(self, code: str) -> None:
        series = self._refusals.get(code)
        if series is None:
            series = self._refusals[code] = BufferedCounter(metrics.REFUSALS.labels(self.endpoint, code))
        series.add(1)


class RequestTelemetry:
    """Records requests in memory; `run_once` writes to PostgreSQL what must last. `admitted` counts admitted calls."""

    idle_seconds = 5.0

    def __init__(
        self,
        database: Database,
        access_log: AccessLog,
        span_recorder: SpanRecorder | None = None,
        *,
        lines: Lines | None = None,
    ) -> None:
        """`lines` write other lines than the default ones to the access log."""
        self._database = database
        self._access_log = access_log
        self._lines = lines
        self._span_recorder = span_recorder
        self._by_route: dict[str, EndpointSeries] = {}
        self._other = EndpointSeries(None)
        self._refusals: dict[_RefusalKey, int] = {}
        self._last_used: dict[UUID, float] = {}  # by API key, in seconds since the epoch
        self.admitted = BufferedCounter(metrics.ADMITTED)
        self._settled = BufferedCounter(metrics.SETTLED)
        self._in_flight = BufferedDifference(metrics.IN_FLIGHT, ahead=self.admitted, behind=self._settled)

    def change_lines(self, make: Callable[[AccessLog], Lines | None], *, form: str) -> None:
        """Writes other lines from here on: those that `make` gives for the access log, or the default ones."""
        self._access_log.form = form
        self._lines = make(self._access_log)

    def series(self, route: Route | None) -> EndpointSeries:
        if route is None:
            return self._other
        series = self._by_route.get(route.name)
        if series is None:
            series = self._by_route[route.name] = EndpointSeries(route)
        series.methods = route.methods  # a reload of the configuration may have changed them
        return series

    def record_settled(self, call: ActiveCall, response: ClientResponse) -> None:
        admitted_call, status, charged = call.admitted_call, response.status, call.charge
        series, method = self._by_route.get(call.route.name) or self.series(call.route), admitted_call.inbound.method
        elapsed, upstream_seconds = call.elapsed_seconds, call.upstream_seconds
        caller, held, plan = admitted_call.caller, admitted_call.quote.hold, admitted_call.plan.name
        self._last_used[caller.key_id] = time()
        if self._lines is None:
            self._access_log.record(
                response.request_id,
                series.endpoint_json,
                method=method,
                status=status,
                seconds=elapsed,
                upstream_seconds=upstream_seconds,
                code=call.outcome,
                credits=charged,
                key=caller.masked_key_json,
            )
        else:
            self._lines.record(_facts_of_call(call, response, series.endpoint))
        self._settled.add(1)
        (series.responses.get((method, status)) or series.response(method, status)).add(1)
        series.duration.observe(elapsed)
        if upstream_seconds is not None:
            series.overhead.observe(elapsed - upstream_seconds)
        if charged:
            (series.charges.get(plan) or series.charge(plan)).add(charged)
        if held > charged:
            series.released.add(held - charged)
        if call.missing is not None or call.flags or call.is_cost_unknown:
            _count_uncertainty(call)
        if self._span_recorder is not None:
            self._span_recorder.record_settled(call, response)

    def record_replayed(
        self, replay: IdempotentReplay, response: ClientResponse, *, inbound: Inbound, seconds: float
    ) -> None:
        metrics.REPLAYS.labels(replay.route.name).inc()
        self._record_free(replay.route, replay.caller, response, code="repeated", inbound=inbound, seconds=seconds)
        if self._span_recorder is not None:
            self._span_recorder.record_refused(inbound, response, code="repeated", seconds=seconds, route=replay.route)

    def record_served(
        self, route: Route, caller: Caller, response: ClientResponse, *, inbound: Inbound, seconds: float
    ) -> None:
        """Records a response of the gateway's own, which is no call."""
        self._record_free(route, caller, response, code="served", inbound=inbound, seconds=seconds)

    def _record_free(
        self, route: Route, caller: Caller, response: ClientResponse, *, code: str, inbound: Inbound, seconds: float
    ) -> None:
        series, status = self.series(route), response.status
        self._last_used[caller.key_id] = time()
        series.response(inbound.method, status).add(1)
        self._log_request(
            series, response, inbound=inbound, seconds=seconds, code=code, route=route, caller=caller, credits=0
        )

    def record_refused(
        self,
        refused: Refused,
        response: ClientResponse,
        *,
        inbound: Inbound,
        seconds: float,
        route: Route | None,
        caller: Caller | None,
    ) -> None:
        series = self.series(route)
        series.response(inbound.method, response.status).add(1)
        series.count_refusal(refused.code)
        self._log_request(
            series, response, inbound=inbound, seconds=seconds, code=refused.code, route=route, caller=caller
        )
        if caller is not None and len(self._refusals) < MAX_PENDING:
            refusal_key = caller.key_id, series.endpoint, refused.code, int(time()) // 60
            self._refusals[refusal_key] = self._refusals.get(refusal_key, 0) + 1
        if self._span_recorder is not None:
            self._span_recorder.record_refused(inbound, response, code=refused.code, seconds=seconds, route=route)

    def record_failed(self, response: ClientResponse, *, inbound: Inbound, seconds: float, route: Route | None) -> None:
        """Records a request that ended by a fault of the gateway itself before it was admitted."""
        series = self.series(route)
        series.response(inbound.method, response.status).add(1)
        self._log_request(series, response, inbound=inbound, seconds=seconds, code="internal_error", route=route)
        if self._span_recorder is not None:
            self._span_recorder.record_refused(inbound, response, code="internal_error", seconds=seconds, route=route)

    def _log_request(
        self,
        series: EndpointSeries,
        response: ClientResponse,
        *,
        inbound: Inbound,
        seconds: float,
        code: str,
        route: Route | None,
        caller: Caller | None = None,
        credits: int | None = None,
    ) -> None:
        """The line of a request that was no call."""
        method = inbound.method if inbound.method in series.methods else metrics.OTHER
        if self._lines is None:
            self._access_log.record(
                response.request_id,
                series.endpoint_json,
                method=method,
                status=response.status,
                seconds=seconds,
                code=code,
                credits=credits,
                key=NO_KEY if caller is None else caller.masked_key_json,
            )
            return
        facts = RequestFacts(
            request_id=response.request_id,
            endpoint=series.endpoint,
            method=method,
            status=response.status,
            seconds=seconds,
            code=code,
            credits=credits,
            inbound=inbound,
            route=route,
            caller=caller,
        )
        self._lines.record(facts)

    async def run_once(self) -> int:
        """Writes what was recorded since the last time; always 0, for nothing is left to do."""
        if not self._refusals and not self._last_used:
            return 0
        counts, self._refusals = self._refusals, {}
        last_used, self._last_used = self._last_used, {}
        try:
            async with self._database.transaction() as connection:
                await refusals.add(connection, {_refused_in(*key): count for key, count in counts.items()})
                moments = {key_id: datetime.fromtimestamp(at, UTC) for key_id, at in last_used.items()}
                await touch_last_used(connection, moments)
        except BaseException:
            for key, count in counts.items():
                self._refusals[key] = self._refusals.get(key, 0) + count
            self._last_used = last_used | self._last_used
            raise
        return 0


def _facts_of_call(call: ActiveCall, response: ClientResponse, endpoint: str) -> RequestFacts:
    return RequestFacts(
        request_id=response.request_id,
        endpoint=endpoint,
        method=call.admitted_call.inbound.method,
        status=response.status,
        seconds=call.elapsed_seconds,
        upstream_seconds=call.upstream_seconds,
        code=call.outcome or "",
        credits=call.charge,
        inbound=call.admitted_call.inbound,
        route=call.route,
        caller=call.admitted_call.caller,
        call=call,
    )


def _count_uncertainty(call: ActiveCall) -> None:
    """Counts what of a charge was estimated, cut or is unknown."""
    route = call.route.name
    if call.missing is not None:
        metrics.USAGE_MISSING.labels(route, call.missing).inc()
    if call.is_cost_unknown:
        metrics.COST_UNKNOWN.labels(route).inc()
    for flag in call.flags:
        if flag in _LIMIT_OF_FLAG:
            metrics.CHARGES_CUT.labels(route, _LIMIT_OF_FLAG[flag]).inc()


_LIMIT_OF_FLAG = {Flag.MAXIMUM_REACHED: "price", Flag.PLAN_MAXIMUM_REACHED: "plan"}


def _refused_in(key_id: UUID, endpoint: str, code: str, minute: int) -> RefusedIn:
    return RefusedIn(key_id, endpoint, code, datetime.fromtimestamp(minute * 60, UTC))
