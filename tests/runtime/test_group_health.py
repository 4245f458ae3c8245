"""What a supervisor tells of its processes, by what they have reported."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.clock import monotonic_seconds
from gateway.config.quantities import Address
from gateway.http.known_hosts import KnownHosts
from gateway.runtime.health import listener
from gateway.runtime.health.group import FROZEN_SECONDS, SILENT_SECONDS, GroupHealth, ProcessReport
from gateway.runtime.health.listener import bind_health, build_app
from gateway.runtime.sockets import AddressUnusable


def heard(name: str, *, serves_calls: bool = False, ago_seconds: float = 0, **missing: str) -> ProcessReport:
    return ProcessReport(
        name, serves_calls=serves_calls, missing=missing, reported_at=monotonic_seconds() - ago_seconds
    )


def missing(*processes: ProcessReport) -> set[str]:
    return set(GroupHealth(lambda: processes).missing())


def test_group_is_ready_as_its_proxies_are() -> None:
    worker = heard("worker", database="away")

    assert missing(worker) == {"database"}
    assert missing(heard("proxy-0", serves_calls=True), worker) == set()
    assert missing(heard("proxy-0", serves_calls=True), heard("proxy-1", serves_calls=True, redis="away")) == {"redis"}


def test_process_that_starts_ended_or_is_silent_is_missing() -> None:
    ended = heard("proxy-1", serves_calls=True)
    ended.end()

    assert missing() == {"starting"}
    assert missing(ProcessReport("proxy-0", serves_calls=True)) == {"proxy-0"}
    assert missing(heard("proxy-0", serves_calls=True), ended) == {"proxy-1"}
    assert missing(heard("proxy-0", serves_calls=True, ago_seconds=SILENT_SECONDS + 1)) == {"proxy-0"}


def test_gateway_that_stops_is_not_ready() -> None:
    health = GroupHealth(lambda: [heard("proxy-0", serves_calls=True)])
    health.is_draining = True

    assert set(health.missing()) == {"draining"}


def test_only_a_process_that_runs_and_stays_silent_is_frozen() -> None:
    processes = [
        ProcessReport("starting", serves_calls=True),
        heard("silent", ago_seconds=SILENT_SECONDS + 1),
        heard("frozen", ago_seconds=FROZEN_SECONDS + 1),
    ]

    assert GroupHealth(lambda: processes).frozen() == ["frozen"]


@pytest.fixture
def taken() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Address(*server.getsockname())


def test_default_address_in_use_gives_way_and_a_chosen_one_is_an_error(
    taken: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AddressUnusable, match=r"server\.health: cannot listen"):
        bind_health(taken)

    monkeypatch.setattr(listener, "DEFAULT_HEALTH", taken)
    with bind_health(taken) as bound:
        assert bound.getsockname()[1] != taken.port


@pytest.mark.parametrize(
    ("host", "metrics_status"),
    [
        ("evil.example", 400),
        ("127.0.0.1.evil.example:8082", 400),
        ("10.1.2.3:8082", 200),  # as a kubelet and a scraper of pods name it
        ("[fd00::1]:8082", 200),
        ("gateway:8082", 200),
        ("metrics.example.com", 200),
    ],
)
async def test_metrics_are_for_known_hosts_and_probes_are_answered_by_any_name(
    tmp_path: Path, host: str, metrics_status: int
) -> None:
    health = GroupHealth(lambda: [heard("proxy-0", serves_calls=True)])
    app = build_app(health, str(tmp_path), hosts=KnownHosts(("metrics.example.com",)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test") as client:
        for path in ("/livez", "/readyz", "/healthz"):
            assert (await client.get(path, headers={"host": host})).status_code == 200
        assert (await client.get("/metrics", headers={"host": host})).status_code == metrics_status
