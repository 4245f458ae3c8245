"""What is counted of the traffic: metrics of every request, and refusals of known keys for refused_requests."""

from __future__ import annotations

from collections import Counter as Counts

from prometheus_client import Counter

from gateway import metrics
from gateway.clock import now
from gateway.ledger import refusals
from gateway.ledger.refusals import RefusedIn
from gateway.ledger.session import Database
from gateway.proxy.call import Call
from gateway.proxy.principals import Caller
from policies.model import Refused, Route

MAX_PENDING = 100_000  # distinct (key, endpoint, code, minute) between two writes; past it the rest is only a metric


class EndpointSeries:
    """The series of one route, bound once: a request then pays for increments, not for look-ups."""

    def __init__(self, route: Route | None) -> None:
        self.endpoint = metrics.OTHER if route is None else route.name
        self.methods = frozenset[str]() if route is None else route.methods
        self.duration = metrics.DURATION.labels(self.endpoint)
        self.overhead = metrics.OVERHEAD.labels(self.endpoint)
        self.released = metrics.CREDITS_RELEASED.labels(self.endpoint)
        self._answered = dict[tuple[str, int], Counter]()

    def answered(self, method: str, status: int) -> None:
        series = self._answered.get((method, status))
        if series is None:
            known = method if method in self.methods else metrics.OTHER
            series = metrics.REQUESTS.labels(self.endpoint, known, str(status))
            if known == method:
                self._answered[method, status] = series
        series.inc()


class Tally:
    """Counts in memory; `run_once` writes what has to last."""

    idle_seconds = 5.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_route: dict[str, EndpointSeries] = {}
        self._other = EndpointSeries(None)
        self._refusals: Counts[RefusedIn] = Counts()

    def series(self, route: Route | None) -> EndpointSeries:
        if route is None:
            return self._other
        series = self._by_route.get(route.name)
        if series is None:
            series = self._by_route[route.name] = EndpointSeries(route)
        return series

    def admitted(self) -> None:
        metrics.ADMITTED.inc()
        metrics.IN_FLIGHT.inc()

    def settled(self, call: Call, status: int) -> None:
        ticket = call.ticket
        series = self.series(ticket.ask.match.route)
        elapsed = call.elapsed_seconds
        metrics.IN_FLIGHT.dec()
        metrics.SETTLED.inc()
        series.answered(ticket.ask.inbound.method, status)
        series.duration.observe(elapsed)
        if call.upstream_seconds is not None:
            series.overhead.observe(elapsed - call.upstream_seconds)
        if call.charged:
            metrics.CREDITS_CHARGED.labels(series.endpoint, ticket.subscription.plan.name).inc(call.charged)
        if ticket.held > call.charged:
            series.released.inc(ticket.held - call.charged)

    def refused(
        self, refused: Refused, *, method: str, status: int, route: Route | None, caller: Caller | None
    ) -> None:
        series = self.series(route)
        series.answered(method, status)
        metrics.REFUSALS.labels(series.endpoint, refused.code).inc()
        if caller is not None and len(self._refusals) < MAX_PENDING:
            minute = now().replace(second=0, microsecond=0)
            self._refusals[RefusedIn(caller.principal.key.id, series.endpoint, refused.code, minute)] += 1

    async def run_once(self) -> int:
        """Writes the refusals counted since the last time; gives how many rows that took."""
        if not self._refusals:
            return 0
        pending, self._refusals = self._refusals, Counts()
        try:
            async with self._database.transaction() as connection:
                await refusals.add(connection, pending)
        except BaseException:
            self._refusals.update(pending)
            raise
        return len(pending)
