"""OpenTelemetry spans of requests, made when a request has ended, so that no request waits for them.

A request is a server span; its exchange with the upstream is a client span below it, under the ids of the
`traceparent` that the upstream got. The SDK exports them by OTLP over HTTP in a thread, and drops what the collector
does not take in time. A span holds what the access log may hold: no key, no body, no query.
"""

from __future__ import annotations

from random import getrandbits
from threading import Timer
from time import time_ns
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway.clock import monotonic_seconds
from gateway.proxy.forward.client_response import ClientResponse
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.settle.active_call import ActiveCall
from policies.model import Outcome, Route

# https://opentelemetry.io/docs/specs/semconv/http/http-spans/: any other method is `_OTHER`.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"})
_TIMEOUT_SECONDS = 5.0  # of one export
_CLOSING_SECONDS = 1.0
# https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/: the last 56 bits of a trace's id
# decide. The first bits of the gateway's ids are a time.
_RANDOM_BITS = 56

Attributes = dict[str, str | int]


class Origin(NamedTuple):
    """The trace of a request, and its parent span; None where the trace begins here."""

    trace_id: int
    parent_id: int | None


class OpenTelemetryRecorder:
    """Samples requests and records their spans. A trusted proxy decides on the traces that it began."""

    def __init__(self, endpoint: str, *, sample_ratio: float, service_name: str) -> None:
        self._exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_SECONDS)
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # `_sample` has decided before a span is made
            resource=Resource.create({"service.name": service_name}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("gateway")
        self._threshold = round((1 - sample_ratio) * (1 << _RANDOM_BITS))

    def record_settled(self, call: ActiveCall, response: ClientResponse) -> None:
        """An admitted call, with its exchange where it was forwarded."""
        admitted_call = call.admitted_call
        digits = admitted_call.request_id.replace("-", "")
        origin = self._sample(admitted_call.inbound, int(digits, 16))
        if origin is None:
            return
        ended = time_ns()
        attributes = _request_attributes(admitted_call.inbound, response, call.route) | {
            "url.path": admitted_call.path,
            "gateway.request_id": admitted_call.request_id,
            "gateway.plan": admitted_call.plan.name,
            "gateway.outcome": str(call.outcome),
            "gateway.credits": call.charge,
        }
        started = _wall_ns(call.received_at)
        server = self._start_server_span(origin, call.route, attributes, started=started, status=response.status)
        if call.forwarded_at is not None and call.upstream_seconds is not None:
            self._ids.span_id = int(digits[16:], 16)  # the parent id that the upstream got
            self._record_exchange(call, server, response.status)
        server.end(ended)

    def record_refused(
        self, inbound: Inbound, response: ClientResponse, *, code: str, seconds: float, route: Route | None
    ) -> None:
        """A request that never reached the upstream: refused, or an idempotent replay."""
        origin = self._sample(inbound, getrandbits(128))
        if origin is None:
            return
        ended = time_ns()
        attributes = _request_attributes(inbound, response, route) | {"gateway.code": code}
        if route is not None:
            attributes["url.path"] = inbound.raw_path.decode("ascii", "replace")
        started = ended - int(seconds * 1e9)
        self._start_server_span(origin, route, attributes, started=started, status=response.status).end(ended)

    def close(self) -> None:
        """Exports the buffered spans, as far as the collector takes them within a second. Blocks until then."""
        deadline = Timer(_CLOSING_SECONDS, self._exporter.shutdown)
        deadline.start()
        self._provider.shutdown()
        deadline.cancel()

    def _sample(self, inbound: Inbound, own_id: int) -> Origin | None:
        trace = inbound.trace
        if trace is None:
            return Origin(own_id, None) if own_id % (1 << _RANDOM_BITS) >= self._threshold else None
        if not int(trace.flags, 16) & TraceFlags.SAMPLED:
            return None
        parent = inbound.fields[b"traceparent"].split(b"-")[2]
        return Origin(int(trace.id, 16), int(parent, 16))

    def _start_server_span(
        self, origin: Origin, route: Route | None, attributes: Attributes, *, started: int, status: int
    ) -> Span:
        self._ids.trace_id, self._ids.span_id = origin.trace_id, getrandbits(64) or 1
        context = set_span_in_context(NonRecordingSpan(_remote(origin)))
        method = attributes["http.request.method"]
        name = f"{'HTTP' if method == '_OTHER' else method} {route.path if route else ''}".rstrip()
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes, start_time=started)
        if status >= 500:
            _set_error(span, str(status))
        return span

    def _record_exchange(self, call: ActiveCall, server: Span, status: int) -> None:
        forwarded_at, seconds = call.forwarded_at or 0.0, call.upstream_seconds or 0.0
        method = call.admitted_call.inbound.method
        attributes: Attributes = {"http.request.method": method, "gateway.upstream": call.route.upstream}
        started = _wall_ns(forwarded_at)
        context = set_span_in_context(server)
        span = self._tracer.start_span(method, context, SpanKind.CLIENT, attributes, start_time=started)
        has_response = call.outcome in (Outcome.SUCCEEDED, Outcome.UPSTREAM_ERROR)
        if has_response and status:
            span.set_attribute("http.response.status_code", status)
        if not has_response or status >= 400:
            _set_error(span, str(status) if has_response else str(call.outcome))
        span.end(started + int(seconds * 1e9))


class _Ids(IdGenerator):
    """Gives the ids that were set last: spans are made one at a time, of requests that have ids."""

    trace_id = 1
    span_id = 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


def _request_attributes(inbound: Inbound, response: ClientResponse, route: Route | None) -> Attributes:
    attributes: Attributes = {
        "http.request.method": inbound.method if inbound.method in _METHODS else "_OTHER",
        "url.scheme": inbound.scheme,
        "network.protocol.version": inbound.http_version,
    }
    if response.status:
        attributes["http.response.status_code"] = response.status
    if route is not None:
        attributes |= {"http.route": route.path, "gateway.endpoint": route.name}
    return attributes


def _remote(origin: Origin) -> SpanContext:
    """Without a parent the context is invalid, so that a new trace begins, under the id that `_Ids` gives."""
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(origin.trace_id, origin.parent_id or 0, is_remote=True, trace_flags=sampled)


def _set_error(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))


def _wall_ns(monotonic: float) -> int:
    return time_ns() - int((monotonic_seconds() - monotonic) * 1e9)
