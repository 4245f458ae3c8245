"""Builds the configured upstreams, each with its metric series."""

from __future__ import annotations

from functools import cache

from gateway import metrics
from gateway.config import Config
from gateway.config import Upstream as UpstreamConfig
from gateway.http.fields import header_block
from gateway.metrics import BufferedCounter, BufferedHistogram
from gateway.proxy.forward.forwarding import Destination
from gateway.proxy.forward.redirects import origins
from gateway.proxy.forward.upstream_response import response_policy
from gateway.upstream.balancer import ProbeSettings, Upstream, tls_context
from policies.model import Outcome
from policies.pricing.price_list import PriceList


def destinations(config: Config) -> dict[str, Destination]:
    measured = {route.upstream for route in config.routes if isinstance(route.price, PriceList)}
    always_dropped = _CORS_FIELDS if config.server.cors.origins else ()
    return {
        each.name: _destination(each, always_dropped, is_measured=each.name in measured) for each in config.upstreams
    }


# What the providers of AI tell of the operator's account: its organization, its limits, its cookies; and of their own
# hosts, which browsers would take for the gateway's (RFC 6797, RFC 7838).
_PROVIDER_FIELDS = (
    "set-cookie",
    "openai-organization",
    "openai-project",
    "anthropic-organization-id",
    "x-ratelimit-*",
    "anthropic-ratelimit-*",
    "alt-svc",
    "strict-transport-security",
)
# Where the gateway says which pages may read a response, an upstream's second word would make it unreadable.
_CORS_FIELDS = ("access-control-*",)


def _destination(each: UpstreamConfig, always_dropped: tuple[str, ...], *, is_measured: bool) -> Destination:
    upstream = Upstream(
        each.name,
        targets=each.targets,
        connect_timeout_seconds=each.connect_timeout_seconds,
        first_byte_timeout_seconds=each.first_byte_timeout_seconds,
        idle_timeout_seconds=each.idle_timeout_seconds,
        total_timeout_seconds=each.total_timeout_seconds,
        max_connections=each.max_connections,
        max_share_per_account=float(each.max_share_per_account),
        max_share_client_paced=float(each.max_share_client_paced),
        queue_timeout_seconds=each.queue_timeout_seconds,
        retries=each.retries,
        tls=None if each.ca_file is None else tls_context(each.ca_file),
        probing=None if each.health is None else ProbeSettings(each.health.path.encode(), each.health.interval_seconds),
        observer=_upstream_series(each.name),
    )
    lines = [f"{name}: {value}\r\n" for name, value in each.headers.items()]
    block = header_block("".join(lines).encode("latin-1"))
    names = tuple(name.encode() for name in each.headers)
    passed = frozenset(name.encode() for name in each.pass_headers)
    dropped = each.drop_response_headers
    if dropped is None:
        dropped = _PROVIDER_FIELDS if is_measured else ()
    return Destination(
        upstream,
        block,
        names,
        asks_for_usage=each.ask_for_usage,
        passed_names=passed,
        passes_authorization=each.pass_authorization,
        response_policy=response_policy((*dropped, *always_dropped), believes_reports=each.reports),
        origins=origins(each.targets, each.headers.get("host")),
        passes_host=each.host == "pass",
    )


class _UpstreamSeries:
    """Counts the attempts of one upstream."""

    def __init__(self, upstream: str) -> None:
        requests = metrics.UPSTREAM_REQUESTS
        self._ended = {each: BufferedCounter(requests.labels(upstream, each)) for each in Outcome}
        self._duration = BufferedHistogram(metrics.UPSTREAM_DURATION.labels(upstream), metrics.SECONDS)

    def attempt_ended(self, upstream: str, outcome: Outcome, *, duration_seconds: float) -> None:  # noqa: ARG002 - ours
        self._ended[outcome].add(1)
        self._duration.observe(duration_seconds)

    def attempt_retried(self, upstream: str, reason: str) -> None:
        metrics.UPSTREAM_RETRIES.labels(upstream, reason).inc()

    def target_ejected(self, upstream: str) -> None:
        metrics.UPSTREAM_EJECTIONS.labels(upstream).inc()


@cache
def _upstream_series(upstream: str) -> _UpstreamSeries:
    """One for each name, however often the configuration is reloaded."""
    return _UpstreamSeries(upstream)
