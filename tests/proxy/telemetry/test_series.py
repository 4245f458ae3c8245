"""Unknown paths, methods and keys add no series: they are counted under configured names or `other`."""

from __future__ import annotations

from secrets import token_bytes

import pytest

from gateway import metrics
from gateway.paced_subjects import PacedSubjects
from policies.access.keys import ENTROPY_BYTES, compose
from policies.access.throttling import Pace
from tests.proxy.data_plane import DataPlane
from tests.support.sampling import scaled

REQUESTS = scaled(suite=2_000, full=10_000)
AT_ONCE = 50
METHODS = ("PUT", "PATCH", "DELETE", "OPTIONS")


async def test_unknown_paths_methods_and_keys_add_no_series(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpaced = PacedSubjects(Pace(burst=10 * REQUESTS, seconds_each=3600))
    monkeypatch.setattr(data_plane.handler._principals, "_unknown_pace", unpaced)
    await ask(data_plane, AT_ONCE)
    before = await series(data_plane)
    await ask(data_plane, REQUESTS)
    assert await series(data_plane) == before


async def series(data_plane: DataPlane) -> set[str]:
    """All series with their labels, once everything is counted."""
    await data_plane.handler.telemetry.run_once()
    await metrics.MetricsFlusher().run_once()
    lines = metrics.exposition().decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith("gateway_")}


async def ask(data_plane: DataPlane, count: int) -> None:
    """Unknown paths, unknown methods and unknown keys, in turn."""
    for first in range(0, count, AT_ONCE):
        async with data_plane.connect() as wire:
            requests = [_request(number) for number in range(first, first + AT_ONCE)]
            await wire.send(b"".join(requests))
            answers = await wire.read_rest()
        assert answers.count(b"HTTP/1.1 4") == AT_ONCE


def _request(number: int) -> bytes:
    key = compose("gw", token_bytes(ENTROPY_BYTES)).secret if number % 5 == 0 else f"stranger-{number}"
    lines = (f"GET /nothing/{number}", f"{METHODS[number % 4]} /v1/things/{number}", f"GET /v1/things/{number}")
    last = "connection: close\r\n" if number % AT_ONCE == AT_ONCE - 1 else ""
    return f"{lines[number % 3]} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n{last}\r\n".encode()
