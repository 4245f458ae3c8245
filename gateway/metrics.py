"""Every Prometheus series of the gateway. Labels are names from the configuration, never a client's."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"  # the label of paths and methods that are not in the route table: they add no series

# OpenTelemetry's boundaries for http.server.request.duration, with finer ones below for the gateway's own share.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
CALL_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

REQUESTS = Counter("gateway_requests", "Requests answered.", ["endpoint", "method", "code"])
DURATION = Histogram(
    "gateway_request_duration_seconds",
    "Seconds from the request head to settlement, of admitted calls.",
    ["endpoint"],
    buckets=SECONDS,
)
OVERHEAD = Histogram(
    "gateway_overhead_seconds",
    "Seconds of admitted calls that were not spent in the upstream.",
    ["endpoint"],
    buckets=OVERHEAD_SECONDS,
)
REFUSALS = Counter(
    "gateway_refusals", "Requests refused before they were forwarded, by problem code.", ["endpoint", "code"]
)
UPSTREAM_REQUESTS = Counter(
    "gateway_upstream_requests", "Attempts to forward a request, by outcome.", ["upstream", "outcome"]
)
UPSTREAM_DURATION = Histogram(
    "gateway_upstream_duration_seconds",
    "Seconds from forwarding to the end of the response.",
    ["upstream"],
    buckets=SECONDS,
)
UPSTREAM_RETRIES = Counter("gateway_upstream_retries", "Attempts that were retried, by reason.", ["upstream", "reason"])
UPSTREAM_EJECTIONS = Counter("gateway_upstream_ejections", "Targets ejected after consecutive failures.", ["upstream"])
UPSTREAM_TARGETS = Gauge(
    "gateway_upstream_targets_in_service",
    "Targets not ejected, by the process that sees the fewest.",
    ["upstream"],
    multiprocess_mode="livemin",
)
UPSTREAM_BREAKER = Gauge(
    "gateway_upstream_breaker_open",
    "1 while a process has no target in service and responds 503.",
    ["upstream"],
    multiprocess_mode="livemax",
)
CREDITS_CHARGED = Counter("gateway_credits_charged", "Credits charged.", ["endpoint", "plan"])
CREDITS_RELEASED = Counter("gateway_credits_released", "Credits that were held and not charged.", ["endpoint"])
USAGE_MISSING = Counter(
    "gateway_usage_missing",
    "Calls whose price needs usage that was not reported: encoding, shape, size, absent, or the client left.",
    ["endpoint", "reason"],
)
COST_UNKNOWN = Counter(
    "gateway_cost_unknown", "Calls by a price list with costs whose own cost could not be told.", ["endpoint"]
)
CHARGES_CUT = Counter(
    "gateway_charges_cut",
    "Calls charged less than they cost, by the maximum for one call of their price or of their plan.",
    ["endpoint", "maximum"],
)
IN_FLIGHT = Gauge("gateway_requests_in_flight", "Calls admitted and not settled.", multiprocess_mode="livesum")
ADMITTED = Counter("gateway_admitted", "Calls admitted: settled plus open holds.")
SETTLED = Counter("gateway_settled", "Calls settled.")
REPLAYS = Counter(
    "gateway_repeats", "Calls whose stored response was replayed for their Idempotency-Key.", ["endpoint"]
)
RESPONSES_NOT_STORED = Counter(
    "gateway_responses_not_stored",
    "Responses to calls with an Idempotency-Key that a limit of stored bytes kept out: account, all.",
    ["limit"],
)
PRINCIPAL_CACHE = Counter("gateway_principal_cache", "Look-ups of an API key, by result.", ["result"])
METER_CALL = Histogram(
    "gateway_meter_call_seconds", "Seconds of a round trip to Redis, by script.", ["script"], buckets=CALL_SECONDS
)
EPOCHS_BEGUN = Counter(
    "gateway_epochs_begun",
    "Partitions of Redis whose accounts were all loaded again, by reason: first, redis_lost, redis_behind (an older"
    " server of Redis came back), postgresql_behind (PostgreSQL has lost commits), requested.",
    ["reason"],
)
HOLDS_OPEN = Gauge("gateway_holds_open", "Open holds in Redis.", multiprocess_mode="livemostrecent")
JOURNAL_ENTRIES = Gauge(
    "gateway_journal_entries", "Journal entries waiting for PostgreSQL.", multiprocess_mode="livemostrecent"
)
JOURNAL_NEWER_PARTITIONS = Gauge(
    "gateway_journal_newer_partitions",
    "Partitions whose journal waits at an entry of a newer release for a usage writer of it.",
    multiprocess_mode="livemostrecent",
)
JOURNAL_LAG = Gauge(
    "gateway_journal_lag_seconds",
    "Age in seconds of the oldest journal entry that waits for PostgreSQL.",
    multiprocess_mode="livemostrecent",
)
USAGE_ROWS = Counter("gateway_usage_rows_written", "Rows written to usage_tracking.")
QUARANTINED = Gauge(
    "gateway_worker_parked",
    "Items that a worker has quarantined because it failed on them; the log gives the error.",
    ["worker"],
    multiprocess_mode="livesum",
)
JOURNAL_POISON = Counter(
    "gateway_journal_poison", "Journal entries that PostgreSQL refused; `gateway usage poison` shows them."
)
ARCHIVE_FAILURES = Counter(
    "gateway_usage_archive_failures", "Months that could not be archived, and so were not dropped."
)
USAGE_SINK_LAG = Gauge(
    "gateway_usage_sink_lag_seconds",
    "Seconds since the end of the oldest hour whose usage the sink lacks; 0 if it lacks none that is due.",
    multiprocess_mode="livemostrecent",
)
RECONCILE_DIFFERENCE = Gauge(
    "gateway_reconcile_difference_credits",
    "Credits by which the books disagree, over all accounts, at the last reconciliation.",
    multiprocess_mode="mostrecent",
)
SPOOL_ENTRIES = Gauge("gateway_spool_entries", "Settlements that Redis has not taken yet.", multiprocess_mode="livesum")
SPOOL_NEWER_FILES = Gauge(
    "gateway_spool_newer_files",
    "Spool files that a newer release wrote, and that wait for a process of it.",
    multiprocess_mode="livesum",
)
SPOOL_FAILURES = Counter("gateway_spool_failures", "Settlements that could not be spooled and wait in memory.")
OUTAGE_CREDIT_CALLS = Counter("gateway_float_calls", "Calls admitted on outage credit, without Redis.")
OUTAGE_CREDIT_UNSETTLED = Gauge(
    "gateway_float_unsettled", "Calls on outage credit that Redis has not settled yet.", multiprocess_mode="livesum"
)
SETTLEMENTS_LOST = Counter("gateway_settlements_lost", "Settlements lost because neither the disk nor memory had room.")
WEBHOOK_EVENTS = Counter(
    "gateway_webhook_events",
    "Events of payment providers, by result: received, duplicate, refused, processed, ignored, failed.",
    ["provider", "type", "result"],
)
PRICE_DIFFERENCES = Gauge(
    "gateway_provider_price_differences",
    "Differences between the prices of plans and packs and those that the provider charges, as of the last night.",
    ["provider"],
    multiprocess_mode="mostrecent",
)
FAILED_SIGN_INS = Counter(
    "gateway_failed_sign_ins",
    "Sign-ins with wrong credentials: password, refresh_token, one_time_token, admin_token.",
    ["kind"],
)
NOTIFICATION_DELIVERIES = Counter(
    "gateway_notification_deliveries",
    "Attempts to deliver by mail or webhook: delivered, dropped (the channel is not set up), retried (it failed and "
    "has attempts left), failed (for good; the log gives the reason).",
    ["channel", "result"],
)
PROCESS_READY = Gauge("gateway_process_ready", "1 while the process is ready, as its supervisor sees it.", ["process"])
PROCESS_RESTARTS = Counter(
    "gateway_process_restarts",
    "Processes that ended unasked and were started again.",
    ["process"],
)
CONFIG_RELOADS = Counter(
    "gateway_config_reloads", "Reloads by SIGHUP; those refused for an invalid file changed nothing.", ["result"]
)
BUILD_INFO = Gauge("gateway_build_info", "The running version.", ["version"], multiprocess_mode="mostrecent")


class BufferedCounter:
    """A counter of the hot path: `add(amount)` appends to a list, which the next `flush` adds to the shared series.

    One addition to a series that processes share through a file costs 1.2 µs, and a request makes a dozen of them.
    """

    __slots__ = ("_child", "_pending", "_total", "add")

    def __init__(self, child: Counter) -> None:
        self._child = child
        self._total = 0
        self._pending: list[int] = []
        self.add: Callable[[int], None] = self._pending.append
        _buffered.append(self)

    @property
    def total(self) -> int:
        return self._total + sum(self._pending)

    def flush(self) -> None:
        if self._pending:
            amount = sum(self._pending)
            self._pending.clear()
            self._total += amount
            self._child.inc(amount)


class BufferedDifference:
    """A gauge of the hot path: by how much one counter is ahead of another, shown at the next `flush`."""

    __slots__ = ("_ahead", "_behind", "_child", "_flushed")

    def __init__(self, child: Gauge, *, ahead: BufferedCounter, behind: BufferedCounter) -> None:
        self._child = child
        self._ahead, self._behind = ahead, behind
        self._flushed = 0
        _buffered.append(self)

    def flush(self) -> None:
        difference = self._ahead.total - self._behind.total
        if difference != self._flushed:
            self._flushed = difference
            self._child.set(difference)


class BufferedHistogram:
    """A histogram of the hot path: `observe(value)` appends to a list, which the next `flush` sorts into buckets."""

    __slots__ = ("_bounds", "_child", "_pending", "observe")

    def __init__(self, child: Histogram, bounds: Sequence[float]) -> None:
        self._child = child
        self._bounds = bounds
        self._pending: list[float] = []
        self.observe: Callable[[float], None] = self._pending.append
        _buffered.append(self)

    def flush(self) -> None:
        if not self._pending:
            return
        # prometheus_client observes one value at a time; its own buckets are what it would have added to.
        buckets = self._child._buckets  # noqa: SLF001
        for index, count in Counted(map(partial(bisect_left, self._bounds), self._pending)).items():
            buckets[index].inc(count)
        self._child._sum.inc(sum(self._pending))  # noqa: SLF001
        self._pending.clear()


_buffered: list[BufferedCounter | BufferedDifference | BufferedHistogram] = []


class MetricsFlusher:
    """The worker that flushes the buffered metrics."""

    idle_seconds = 0.5

    async def run_once(self) -> int:
        for each in _buffered:
            each.flush()
        return 0


def exposition() -> bytes:
    """All series of this process, in the Prometheus text format."""
    return generate_latest(REGISTRY)
