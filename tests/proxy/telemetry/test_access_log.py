"""The access log: each line is one JSON object, whatever a key looks like, and each request has a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import metrics
from gateway.proxy.admission.controller import AdmissionController
from gateway.proxy.forward.forwarding import Forwarding
from gateway.proxy.telemetry.access_log import AccessLog
from gateway.proxy.telemetry.request_telemetry import EndpointSeries
from policies.model import Key, KeyStatus
from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem

# Quotes, backslashes, line ends, control characters, halves of characters, and what some readers take for a line end.
HOSTILE = st.text(st.sampled_from('"\\\n\r\t\0\x1b\x7f\x85\u2028\ud800{},:a…') | st.characters(), max_size=20)


@contextmanager
def written() -> Iterator[tuple[AccessLog, list[dict[str, Any]]]]:
    """An access log, and the lines that it has written when it is closed."""
    read_end, write_end = os.pipe()
    log = AccessLog(write_end)
    lines: list[dict[str, Any]] = []
    yield log, lines
    log.close()
    os.close(write_end)
    with os.fdopen(read_end, encoding="ascii") as written_text:
        lines += [json.loads(line) for line in written_text.read().splitlines()]


@given(keys=st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=50))
def test_each_line_is_one_object_that_holds_what_went_in(keys: list[tuple[str, str]]) -> None:
    with written() as (log, lines):
        for prefix, last4 in keys:
            key = Key(UUID(int=1), KeyStatus.ACTIVE, prefix, last4)
            log.record(
                "r-1", json.dumps(prefix), method="GET", status=200, seconds=0.5, credits=3, key=json.dumps(key.masked)
            )
    assert [(line["key"], line["endpoint"]) for line in lines] == [
        (f"{prefix}…{last4}", prefix) for prefix, last4 in keys
    ]
    rest = {
        "event": "request",
        "request_id": "r-1",
        "method": "GET",
        "status": 200,
        "code": "",
        "ms": 500,
        "credits": 3,
    }
    assert all(line.items() >= rest.items() for line in lines)


def test_endpoint_of_a_series_is_json() -> None:
    assert json.loads(EndpointSeries(None).endpoint_json) == metrics.OTHER


@pytest.mark.parametrize(
    ("part", "name", "code"),
    [(AdmissionController, "admit", "internal_error"), (Forwarding, "_render", "abandoned")],
    ids=["before admission", "after admission"],
)
async def test_fault_of_the_gateway_is_counted_and_has_a_line(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch, part: type, name: str, code: str
) -> None:
    account, telemetry = await data_plane.create_account(), data_plane.handler.telemetry
    assert (await data_plane.get(account, "/v1/dear")).status_code == 200
    before = await _faults()
    with written() as (log, lines):
        monkeypatch.setattr(telemetry, "_access_log", log)
        monkeypatch.setattr(part, name, _fail)
        answer = await data_plane.get(account, "/v1/dear", x_request_id="mine")
        monkeypatch.undo()
    assert_problem(answer, 500, "internal_error")
    assert await _faults() == before + 1
    expected = {"request_id": "mine", "endpoint": "dear", "method": "GET", "status": 500, "code": code}
    assert [line.items() >= expected.items() for line in lines] == [True]
    assert (await data_plane.redis_state(account)).in_flight == 0


def _fail(*_: object, **__: object) -> None:
    raise RuntimeError("a bug")


async def _faults() -> float:
    await metrics.MetricsFlusher().run_once()
    return metrics.REQUESTS.labels("dear", "GET", "500")._value.get()  # type: ignore[no-any-return]
