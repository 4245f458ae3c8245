"""Every Prometheus series of the gateway, declared once. Labels are names from the configuration, never a client's."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import ValueClass

# prometheus_client decides when it is imported, by the directory that the supervisor names in the environment.
IS_MULTIPROCESS = ValueClass.__name__ == "MmapedValue"
OTHER = "other"  # what is not in the route table: unknown paths and methods add no series

# OpenTelemetry's boundaries for http.server.request.duration, with finer ones below for the gateway's own share.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_CALL_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

REQUESTS = Counter("gateway_requests", "Requests answered.", ["endpoint", "method", "code"])
DURATION = Histogram("gateway_request_duration_seconds", "From head to settlement.", ["endpoint"], buckets=_SECONDS)
OVERHEAD = Histogram(
    "gateway_overhead_seconds", "The part of it spent outside the upstream.", ["endpoint"], buckets=_OVERHEAD_SECONDS
)
REFUSALS = Counter("gateway_refusals", "Requests refused before the upstream, by reason.", ["endpoint", "code"])
UPSTREAM_REQUESTS = Counter("gateway_upstream_requests", "Requests forwarded, by outcome.", ["upstream", "outcome"])
UPSTREAM_DURATION = Histogram(
    "gateway_upstream_duration_seconds", "From forwarding to the end of the answer.", ["upstream"], buckets=_SECONDS
)
UPSTREAM_RETRIES = Counter("gateway_upstream_retries", "Attempts made again, by reason.", ["upstream", "reason"])
CREDITS_CHARGED = Counter("gateway_credits_charged", "Credits charged.", ["endpoint", "plan"])
CREDITS_RELEASED = Counter("gateway_credits_released", "Credits held and given back.", ["endpoint"])
IN_FLIGHT = Gauge("gateway_requests_in_flight", "Admitted and not settled.", multiprocess_mode="livesum")
ADMITTED = Counter("gateway_admitted", "Calls admitted: settled plus open holds.")
SETTLED = Counter("gateway_settled", "Calls settled.")
PRINCIPAL_CACHE = Counter("gateway_principal_cache", "Look-ups of a key, by result.", ["result"])
METER_CALL = Histogram("gateway_meter_call_seconds", "Round trips to Redis.", ["script"], buckets=_CALL_SECONDS)
HOLDS_OPEN = Gauge("gateway_holds_open", "Holds in Redis.", multiprocess_mode="mostrecent")
JOURNAL_ENTRIES = Gauge(
    "gateway_journal_entries", "Journal entries waiting for PostgreSQL.", multiprocess_mode="mostrecent"
)
JOURNAL_LAG = Gauge("gateway_journal_lag_seconds", "Age of the oldest of them.", multiprocess_mode="mostrecent")
USAGE_ROWS = Counter("gateway_usage_rows_written", "Rows written to usage_tracking.")
JOURNAL_POISON = Counter("gateway_journal_poison", "Journal entries that PostgreSQL refused; see journal_poison.")
RECONCILE_DIFFERENCE = Gauge(
    "gateway_reconcile_difference_credits",
    "Credits by which books disagree, over all accounts, as the last reconciliation found.",
    multiprocess_mode="mostrecent",
)
BUILD_INFO = Gauge("gateway_build_info", "The version that runs.", ["version"], multiprocess_mode="mostrecent")


def exposition() -> bytes:
    """All series of all processes together, in the Prometheus text format."""
    if not IS_MULTIPROCESS:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # prometheus_client leaves it bare
    return generate_latest(registry)
