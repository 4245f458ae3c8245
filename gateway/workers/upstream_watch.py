"""Probes the upstreams that name a probe path, and publishes how many targets are in service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.upstream.balancer import Upstream

# A probe has until the next one is due, as in HAProxy, but at most this long: a run waits for its slowest probe.
MAX_PROBE_SECONDS = 5.0


class UpstreamWatch:
    """`upstreams` gives the current ones, so that a new configuration takes effect with the next run."""

    idle_seconds = 0.5

    def __init__(
        self, upstreams: Callable[[], Sequence[Upstream]], *, monotonic: Callable[[], float] = monotonic_seconds
    ) -> None:
        self._upstreams = upstreams
        self._monotonic = monotonic
        self._due_at: dict[Upstream, float] = {}

    async def run_once(self) -> int:
        """Probes what is due; always 0, so that a pause follows."""
        now, upstreams = self._monotonic(), self._upstreams()
        gone = {each.name for each in self._due_at} - {each.name for each in upstreams}
        due_at = {each: self._due_at.get(each, now) for each in upstreams}
        self._due_at = {each: _next(each, at, now) for each, at in due_at.items()}
        await asyncio.gather(*(_probe(each) for each, at in due_at.items() if at <= now))
        for each in upstreams:
            in_service = each.targets_in_service
            metrics.UPSTREAM_TARGETS.labels(each.name).set(in_service)
            metrics.UPSTREAM_BREAKER.labels(each.name).set(not in_service)
        for name in gone:  # a series that processes share cannot be removed, and its alert would never end
            metrics.UPSTREAM_BREAKER.labels(name).set(0)
        return 0


def _next(upstream: Upstream, at: float, now: float) -> float:
    return now + upstream.probing.interval_seconds if upstream.probing is not None and at <= now else at


async def _probe(upstream: Upstream) -> None:
    probing = upstream.probing
    if probing is not None:
        await upstream.probe(probing.path, within_seconds=min(probing.interval_seconds, MAX_PROBE_SECONDS))
