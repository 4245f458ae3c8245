"""The lines of requests as the operator wants them: fields, form, and which of the successes."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Log
from gateway.config.operation.logs import DEFAULT_FIELDS, MORE_FIELDS
from gateway.proxy.telemetry import request_lines as module
from gateway.proxy.telemetry.access_log import AccessLog
from gateway.proxy.telemetry.request_lines import VALUES
from gateway.runtime.data_plane import request_lines
from tests.proxy.data_plane import DataPlane

ALL = (*DEFAULT_FIELDS, *MORE_FIELDS)
Parse = Callable[[str], dict[str, Any]]


@contextmanager
def written(data_plane: DataPlane, log: Log, parse: Parse = json.loads) -> Iterator[list[dict[str, Any]]]:
    """The lines that the data plane writes in the block by these settings, once it has ended."""
    read_end, write_end = os.pipe()
    access_log, lines = AccessLog(write_end, form=log.format), list[dict[str, Any]]()
    telemetry = data_plane.handler.telemetry
    before = telemetry._access_log, telemetry._lines
    telemetry._access_log, telemetry._lines = access_log, request_lines(log, access_log)
    try:
        yield lines
    finally:
        telemetry._access_log, telemetry._lines = before
        access_log.close()
        os.close(write_end)
        with os.fdopen(read_end, encoding="ascii") as text:
            lines += [parse(line) for line in text.read().splitlines()]


def parse_logfmt(line: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in shlex.split(line))


def test_every_field_that_may_be_chosen_has_a_value() -> None:
    assert set(VALUES) == set(ALL)
    assert request_lines(Log(), AccessLog()) is None


async def test_request_line_has_the_chosen_fields_in_order(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=1)
    with written(data_plane, Log(fields=ALL)) as lines:
        await data_plane.get(account, "/v1/things/1?secret=1", x_request_id="mine")
        await data_plane.get(account, "/v1/things/2")
        await data_plane.get(account, "/nowhere/secret")
        await data_plane.settled_state(account)
    served, short, unknown = lines
    assert tuple(served) == ("event", *ALL)
    expected = {
        "event": "request",
        "level": "info",
        "request_id": "mine",
        "status": 200,
        "code": "succeeded",
        "credits": 1,
        "client": "127.0.0.1",
        "path": "/v1/things/1",
        "user_id": str(account.user_id),
        "request_bytes": 0,
    }
    assert served.items() >= expected.items()
    assert served["response_bytes"] > 0
    assert (short["status"], short["code"], short["user_id"]) == (402, "insufficient_credits", str(account.user_id))
    assert (unknown["endpoint"], unknown["code"], unknown["path"]) == ("other", "route_not_found", None)


async def test_request_line_in_logfmt_says_the_same(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    fields = ("timestamp", "level", "client", "path", "status", "upstream_ms", "key")
    with written(data_plane, Log(format="logfmt", fields=fields), parse_logfmt) as lines:
        await data_plane.get(account, "/v1/things/1")
        await data_plane.get(account, "/nowhere")
    served, unknown = lines
    assert tuple(served) == ("event", *fields)
    assert (served["path"], served["status"], served["level"]) == ("/v1/things/1", "200", "info")
    assert {"path", "upstream_ms"} & unknown.keys() == set()


@given(value=st.text(max_size=20))
def test_logfmt_value_is_one_word_that_can_be_read_back(value: str) -> None:
    word = module._logfmt(value)
    assert (json.loads(word) if word.startswith('"') else word) == value
    assert word.isascii()
    assert word.startswith('"') or not set(word) & set(' "=\n\t')


async def test_share_of_successes_spares_no_failure(data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    account = await data_plane.create_account(credits=8)
    drawn = iter([0.0, 0.24, 0.25, 0.9] * 2)
    monkeypatch.setattr(module, "random", lambda: next(drawn))
    with written(data_plane, Log(successes=Decimal("0.25"))) as lines:
        for _ in range(12):
            await data_plane.get(account)
    assert [line["status"] for line in lines] == [200] * 4 + [402] * 4
    assert list(lines[0]) == ["event", *DEFAULT_FIELDS]


async def test_requests_have_no_line_above_their_level(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=1)
    with written(data_plane, Log(level="warning")) as lines:
        await data_plane.get(account)
        await data_plane.get(account, "/nowhere")
    assert lines == []
