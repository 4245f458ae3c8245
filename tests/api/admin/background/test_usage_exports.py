"""Exports of usage: begun, seen to advance, whole once done, gone once canceled."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gateway.api.admin.background_runs import RunState
from gateway.api.admin.records import usage_exports
from gateway.api.admin.records.usage_exports import UsageExport, UsageExports
from gateway.api.errors import Conflict
from gateway.api.unit_of_work import ChangePublisher, UnitOfWork
from gateway.clock import now
from gateway.ledger.usage import ingestion
from gateway.ledger.usage.history import UsageFilter
from tests.api.conftest import AdminApi
from tests.ledger.make import NOON, a_line

SPAN = {"from": (NOON - timedelta(hours=1)).isoformat(), "to": (NOON + timedelta(hours=1)).isoformat()}


async def a_caller(admin_api: AdminApi, *, calls: int) -> str:
    user = await admin_api.create_user()
    async with admin_api.database.transaction() as connection:
        lines = [a_line(UUID(user["id"]), at=NOON + timedelta(seconds=at), model="=demo") for at in range(calls)]
        await ingestion.ingest(connection, lines)
    return str(user["id"])


async def ended(admin_api: AdminApi, run: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := await admin_api.get(f"/usage/exports/{run['id']}"))["state"] == "running":
            assert 0 <= found["share"] <= 1
    return dict(found)


async def test_export_is_a_file_of_all_calls_of_the_span(admin_api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_exports, "_ROWS_PER_PAGE", 3)
    user_id = await a_caller(admin_api, calls=8)
    run = await admin_api.post("/usage/exports", {**SPAN, "user_id": user_id}, status=201)
    done = await ended(admin_api, run)
    assert (done["state"], done["rows"], done["share"], done["reached"]) == ("done", 8, 1, done["since"])
    assert (await admin_api.get("/usage/exports"))["data"][0] == done
    response = await admin_api.client.get(f"/admin/v1/usage/exports/{run['id']}/file")
    assert response.headers["content-type"] == "application/gzip"
    assert response.headers["content-disposition"] == 'attachment; filename="usage-2026-03-15-2026-03-15.csv.gz"'
    assert len(response.content) == done["bytes"]
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(response.content).decode())))
    assert [row["user_id"] for row in rows] == [user_id] * 8
    assert {row["model"] for row in rows} == {"'=demo"}, "no spreadsheet takes it for a formula"
    moments = [row["created_at"] for row in rows]
    assert moments == sorted(moments, reverse=True)


async def test_export_of_no_call_is_a_heading(admin_api: AdminApi) -> None:
    user_id = (await admin_api.create_user())["id"]
    done = await ended(admin_api, await admin_api.post("/usage/exports", {"user_id": user_id}, status=201))
    assert (done["state"], done["rows"]) == ("done", 0)
    content = (await admin_api.client.get(f"/admin/v1/usage/exports/{done['id']}/file")).content
    assert gzip.decompress(content).decode().startswith("request_id,created_at,user_id,")


async def test_span_that_ends_before_it_begins_is_refused(admin_api: AdminApi) -> None:
    refused = await admin_api.post("/usage/exports", {"from": SPAN["to"], "to": SPAN["from"]}, status=422)
    assert [each["field"] for each in refused["errors"]] == ["from"]


async def test_canceled_export_leaves_no_file(
    admin_api: AdminApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_exports, "_ROWS_PER_PAGE", 1)
    user_id = await a_caller(admin_api, calls=3)
    exports, run = UsageExports(tmp_path), a_run()
    exports.start(run, unit_of_work(admin_api), UsageFilter(user_id=UUID(user_id)))
    with pytest.raises(Conflict):
        exports.start(a_run(), unit_of_work(admin_api), UsageFilter())
    canceled = await exports.runs.cancel(run.id)
    assert canceled.state is RunState.CANCELED
    assert folders(tmp_path) == set()
    with pytest.raises(Conflict):
        exports.file(run.id)


async def test_export_that_outgrows_its_bound_fails(
    admin_api: AdminApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_exports, "MAX_BYTES", 10)
    exports = UsageExports(tmp_path)
    user_id = await a_caller(admin_api, calls=1)
    run = exports.start(a_run(), unit_of_work(admin_api), UsageFilter(user_id=UUID(user_id)))
    async with asyncio.timeout(30):
        while exports.runs.get(run.id).state is RunState.RUNNING:  # noqa: ASYNC110 - the run's own task ends it
            await asyncio.sleep(0.01)
    assert exports.runs.get(run.id).state is RunState.FAILED
    assert folders(tmp_path) == set()


async def test_file_is_kept_for_the_last_exports(
    admin_api: AdminApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_exports, "MAX_FILES", 2)
    exports = UsageExports(tmp_path)
    runs = [a_run() for _ in range(3)]
    for run in runs:
        exports.start(run, unit_of_work(admin_api), UsageFilter(user_id=run.id))
        async with asyncio.timeout(30):
            while exports.runs.get(run.id).state is RunState.RUNNING:  # noqa: ASYNC110 - the run's own task ends it
                await asyncio.sleep(0.01)
    assert folders(tmp_path) == {str(run.id) for run in runs[1:]}


def folders(path: Path) -> set[str]:
    return {folder.name for folder in path.iterdir()}


def a_run() -> UsageExport:
    return UsageExport(since=NOON, until=now())


def unit_of_work(admin_api: AdminApi) -> UnitOfWork:
    async def publish() -> None:
        """Nothing is changed."""

    return UnitOfWork(admin_api.database, ChangePublisher(publish), actor="test")
