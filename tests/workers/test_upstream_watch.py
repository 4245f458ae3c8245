"""Upstreams are probed on time, also after a reload, and targets in service are in the metrics."""

from __future__ import annotations

from prometheus_client import REGISTRY

from gateway.upstream.balancer import ProbeSettings, Upstream
from gateway.upstream.health import FAILED_PROBES_TO_EJECT
from gateway.workers.upstream_watch import UpstreamWatch
from tests.upstream.scripted import Reply, scripted, upstream_to

ILL = Reply(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")


def shown(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"gateway_upstream_{name}", {"upstream": "test"})


async def test_probe_is_sent_when_due() -> None:
    clock = [100.0]
    async with (
        scripted() as server,
        upstream_to(server.url, probing=ProbeSettings(b"/healthz?deep=1", 5.0)) as upstream,
    ):
        watch = UpstreamWatch(lambda: [upstream], monotonic=lambda: clock[0])
        made = []
        for clock[0] in (100.0, 104.9, 105.0, 109.9, 117.0, 121.9, 122.0):
            await watch.run_once()
            made.append(len(server.requests))
        assert made == [1, 1, 2, 2, 3, 3, 4]
        assert server.requests[0].startswith(b"GET /healthz?deep=1 HTTP/1.1\r\nhost: 127.0.0.1:")


async def test_upstream_without_probe_path_is_not_probed() -> None:
    async with scripted() as server, upstream_to(server.url) as upstream:
        assert await UpstreamWatch(lambda: [upstream]).run_once() == 0
        assert server.peers == []


async def test_targets_in_service_are_in_the_metrics() -> None:
    clock = [0.0]
    async with (
        scripted(*[ILL] * FAILED_PROBES_TO_EJECT, Reply()) as sick,
        upstream_to(sick.url, probing=ProbeSettings(b"/", 1.0)) as upstream,
    ):
        watch = UpstreamWatch(lambda: [upstream], monotonic=lambda: clock[0])
        seen = []
        for clock[0] in range(FAILED_PROBES_TO_EJECT + 1):
            await watch.run_once()
            seen.append((shown("targets_in_service"), shown("breaker_open")))
    assert seen == [(1, 0)] * (FAILED_PROBES_TO_EJECT - 1) + [(0, 1), (1, 0)]


async def test_reload_replaces_the_probed_upstreams() -> None:
    async with (
        scripted() as old_server,
        scripted() as new_server,
        upstream_to(old_server.url, probing=ProbeSettings(b"/", 0.001)) as old,
        upstream_to(new_server.url, probing=ProbeSettings(b"/", 60.0)) as new,
    ):
        serving: list[Upstream] = [old]
        watch = UpstreamWatch(lambda: serving)
        await watch.run_once()
        serving = [new]
        for _ in range(3):
            await watch.run_once()
        assert (len(old_server.requests), len(new_server.requests)) == (1, 1)


async def test_silent_upstream_delays_others_briefly() -> None:
    async with (
        scripted(Reply(b"")) as silent,
        scripted() as well,
        upstream_to(silent.url, probing=ProbeSettings(b"/", 0.05)) as first,
        upstream_to(well.url, probing=ProbeSettings(b"/", 60.0)) as second,
    ):
        for _ in range(FAILED_PROBES_TO_EJECT):
            await UpstreamWatch(lambda: [first, second]).run_once()
        assert (first.targets_in_service, second.targets_in_service) == (0, 1)


async def test_upstream_that_a_reload_removed_is_down_no_more() -> None:
    clock = [0.0]
    async with (
        scripted(*[ILL] * FAILED_PROBES_TO_EJECT) as sick,
        upstream_to(sick.url, probing=ProbeSettings(b"/", 1.0)) as upstream,
    ):
        serving: list[Upstream] = [upstream]
        watch = UpstreamWatch(lambda: serving, monotonic=lambda: clock[0])
        for clock[0] in range(FAILED_PROBES_TO_EJECT):
            await watch.run_once()
        assert shown("breaker_open") == 1
        serving = []
        await watch.run_once()
    assert shown("breaker_open") == 0
