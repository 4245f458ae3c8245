"""The sink has each row of usage_tracking once, as it is there, whatever fails, changes or comes late."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY
from pyarrow import parquet as pa_parquet
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from gateway import clock
from gateway.ledger.accounts import erasure, users
from gateway.ledger.accounts.erasure import erase_usage_details
from gateway.ledger.db import month_partitions
from gateway.ledger.db.month_partitions import MonthPartition, month_before
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.ledger.db.tables import usage_tracking
from gateway.ledger.usage import sink_hours
from gateway.ledger.usage.ingestion import correct, ingest
from gateway.workers.usage import parquet, sink
from gateway.workers.usage.retention import RetentionWorker
from gateway.workers.usage.sink import UsageSink
from tests.ledger.make import a_line
from tests.workers.conftest import Backend
from tests.workers.usage.conftest import bounded

Rows = list[dict[str, Any]]


@pytest.fixture
async def months(backend: Backend) -> Backend:
    """A user, and partitions from the month before this one."""
    async with backend.database.transaction() as connection:
        await month_partitions.create_missing(connection, now=month_before(clock.now(), 1), months_ahead=2)
    await backend.a_user()
    return backend


def ago(hours: float) -> datetime:
    return clock.now() - timedelta(hours=hours)


async def write(backend: Backend, *hours: float, **columns: Any) -> None:
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(backend.users[0], at=ago(each), **columns) for each in hours])


async def in_table(backend: Backend) -> Rows:
    async with backend.database.read() as connection:
        rows = await connection.execute(select(*usage_tracking.c).order_by(usage_tracking.c.request_id))
        return [
            {name: str(value) if isinstance(value, UUID) else value for name, value in row._mapping.items()}
            | {"metadata": "{}"}
            for row in rows
        ]


def in_sink(folder: Path) -> Rows:
    rows = [row for file in folder.glob("*/*.parquet") for row in pa_parquet.ParquetFile(file).read().to_pylist()]
    return sorted(rows, key=lambda row: str(row["request_id"]))


def files_in(folder: Path) -> list[Path]:
    return list(folder.glob("*/*"))


def drafts_in(folder: Path) -> list[Path]:
    return list(folder.glob(".draft*"))


def lag() -> float | None:
    return REGISTRY.get_sample_value("gateway_usage_sink_lag_seconds")


async def test_sink_has_every_row_once_in_the_file_of_its_hour(months: Backend, tmp_path: Path) -> None:
    await write(months, 30, 30, 3, 2, cost_usd="0.012300")
    folder = tmp_path / "far" / "usage"
    assert await UsageSink(months.database, folder).run_once() == 0  # no more remains
    assert in_sink(folder) == await in_table(months) != []
    hour = ago(3).astimezone(UTC)
    assert len(in_sink_of(folder, hour)) == 1
    await write(months, 0)
    await UsageSink(months.database, folder).run_once()
    assert (len(in_sink(folder)), lag()) == (4, 0)  # this hour has not ended


def in_sink_of(folder: Path, hour: datetime) -> Rows:
    file = folder / f"date={hour:%Y-%m-%d}" / f"usage-{hour:%H}.parquet"
    rows: Rows = pa_parquet.ParquetFile(file).read().to_pylist()
    return rows


async def test_rows_that_change_or_come_late_replace_what_the_sink_had(months: Backend, tmp_path: Path) -> None:
    worker, user = UsageSink(months.database, tmp_path), months.users[0]
    abandoned: dict[str, Any] = {"request_id": str(uuid4()), "at": ago(3), "client_ip": "203.0.113.7"}
    async with months.database.transaction() as connection:
        await ingest(connection, [a_line(user, credits_charged=0, outcome="abandoned", **abandoned)])
    await worker.run_once()
    assert [row["outcome"] for row in in_sink(tmp_path)] == ["abandoned"]
    async with months.database.transaction() as connection:
        await correct(connection, [a_line(user, credits_charged=7, outcome="succeeded", **abandoned)])
    await write(months, 3)
    await worker.run_once()
    assert in_sink(tmp_path) == await in_table(months)
    assert {(row["credits_charged"], row["client_ip"]) for row in in_sink(tmp_path)} == {(7, "203.0.113.7"), (1, None)}
    async with months.database.transaction() as connection:
        await users.delete(connection, user)
        assert await erase_usage_details(connection, limit=10) == 1
    await worker.run_once()
    assert {row["client_ip"] for row in in_sink(tmp_path)} == {None}


class Killed(Exception):  # noqa: N818 - named for the condition
    """The process ends here."""


class Steps:
    """Ends a run at its `last` step."""

    def __init__(self) -> None:
        self.last: float = float("inf")
        self.taken = 0

    def take(self) -> None:
        self.taken += 1
        if self.taken > self.last:
            raise Killed

    def around(self, called: Callable[..., Any]) -> Callable[..., Any]:
        """A step before the call, and one after it."""

        def wrapped(*given: Any, **named: Any) -> Any:
            self.take()
            result = called(*given, **named)
            self.take()
            return result

        async def awaited(*given: Any, **named: Any) -> Any:
            self.take()
            result = await called(*given, **named)
            self.take()
            return result

        return awaited if asyncio.iscoroutinefunction(called) else wrapped


async def test_death_at_any_step_loses_no_row_and_doubles_none(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    for owner, name in (
        (sink_hours, "renew"),
        (sink_hours, "claim"),
        (sink, "export_gzip"),
        (parquet, "convert"),
        (Path, "replace"),
        (sink, "_sync_names"),
        (UsageSink, "_publish"),
    ):
        monkeypatch.setattr(owner, name, steps.around(getattr(owner, name)))
    worker = UsageSink(months.database, tmp_path)
    deaths = 0
    for last in range(33):
        await write(months, 2, 3)
        (tmp_path / f".draft-{last}").mkdir()  # of a process that was killed
        steps.taken, steps.last = 0, last
        try:
            await worker.run_once()
        except Killed:
            deaths += 1
        ids = [row["request_id"] for row in in_sink(tmp_path)]
        assert len(ids) == len(set(ids))
    assert deaths >= 25
    steps.last = float("inf")
    await worker.run_once()
    assert in_sink(tmp_path) == await in_table(months)
    assert drafts_in(tmp_path) == []


async def test_process_that_lost_its_connection_publishes_nothing(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(months, 3)
    reached, released, convert = threading.Event(), threading.Event(), parquet.convert

    def stall(source: Path, target: Path, table: str) -> None:
        convert(source, target, table)
        reached.set()
        assert released.wait(30)

    monkeypatch.setattr(parquet, "convert", stall)
    stalled = asyncio.create_task(UsageSink(months.database, tmp_path)._copy(await the_hour(months)))
    assert await asyncio.to_thread(reached.wait, 30)
    monkeypatch.setattr(parquet, "convert", convert)
    await UsageSink(months.database, tmp_path).run_once()
    assert in_sink(tmp_path) == []  # the lock is held
    async with months.database.transaction() as connection:
        killed = text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        await connection.execute(killed)
    await write(months, 3)
    await UsageSink(months.database, tmp_path).run_once()
    released.set()
    with pytest.raises(DatabaseUnavailable):
        await stalled
    assert in_sink(tmp_path) == await in_table(months)
    assert len(in_sink(tmp_path)) == 2


async def the_hour(backend: Backend) -> datetime:
    async with backend.database.transaction() as connection:
        assert await sink_hours.renew(connection)
        (hour,) = await sink_hours.list_due(connection, limit=10)
    return hour


async def test_writer_under_way_when_the_sink_begins_is_not_missed(months: Backend, tmp_path: Path) -> None:
    async with months.database.transaction() as connection:
        await ingest(connection, [a_line(months.users[0], at=ago(3))])
        begun = asyncio.create_task(UsageSink(months.database, tmp_path).run_once())
        waits = text("SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'usage_tracking'::regclass AND NOT granted)")
        while not (await connection.execute(waits)).scalar_one():
            assert not begun.done()
    await begun
    assert in_sink(tmp_path) == await in_table(months) != []


async def test_nothing_is_marked_without_a_sink_and_all_is_copied_after_a_pause(
    months: Backend, tmp_path: Path
) -> None:
    marks = text("SELECT count(*) FROM usage_sink_changes")
    await write(months, 3)
    async with months.database.read() as connection:
        assert (await connection.execute(marks)).scalar_one() == 0
    worker = UsageSink(months.database, tmp_path)
    await worker.run_once()
    async with months.database.transaction() as connection:
        await connection.execute(text("UPDATE usage_sinks SET expires_at = now()"))
    await write(months, 3, 5)
    async with months.database.read() as connection:
        assert (await connection.execute(marks)).scalar_one() == 0
    await worker.run_once()
    assert in_sink(tmp_path) == await in_table(months)
    assert len(in_sink(tmp_path)) == 3


async def test_folder_that_cannot_be_written_delays_rows_and_shows_the_lag(months: Backend, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    await write(months, 5)
    assert await UsageSink(months.database, tmp_path / "file").run_once() == 0
    assert 3 * 3600 < (lag() or 0) <= 5 * 3600
    await UsageSink(months.database, tmp_path / "usage").run_once()
    assert (len(in_sink(tmp_path / "usage")), lag()) == (1, 0)


async def test_hour_that_cannot_be_converted_delays_no_other(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "HOURS_PER_RUN", 2)
    await write(months, 9, 8, 7, 5, 3)
    odd = {f"{ago(each).astimezone(UTC):%Y-%m-%d %H}" for each in (9, 8, 7)}
    convert = parquet.convert

    def refuse(source: Path, target: Path, table: str) -> None:
        convert(source, target, table)
        (row,) = pa_parquet.ParquetFile(target).read().to_pylist()
        if f"{row['created_at']:%Y-%m-%d %H}" in odd:
            raise OSError(f"{target}: CSV parser got out of sync")

    monkeypatch.setattr(parquet, "convert", refuse)
    worker = UsageSink(months.database, tmp_path)
    with capture_logs() as logs:
        while await worker.run_once():
            pass
    assert [entry["hour"][:13].replace("T", " ") for entry in logs if entry["event"] == "usage_sink_failed"] == sorted(
        odd
    )
    assert len(in_sink(tmp_path)) == 2
    assert 7 * 3600 < (lag() or 0) <= 9 * 3600
    monkeypatch.setattr(parquet, "convert", convert)
    while await worker.run_once():
        pass
    assert in_sink(tmp_path) == await in_table(months)
    assert lag() == 0


async def test_hour_takes_as_long_as_it_takes_where_transactions_are_bounded(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(months, 3)
    convert = parquet.convert

    def slow(source: Path, target: Path, table: str) -> None:
        time.sleep(1.2)
        convert(source, target, table)

    monkeypatch.setattr(parquet, "convert", slow)
    async with bounded(months) as database:
        await UsageSink(database, tmp_path).run_once()
    assert in_sink(tmp_path) == await in_table(months)


async def test_full_disk_ends_the_run(months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(months, 5, 4, 3)
    tried: list[Path] = []

    def fill(source: Path, _target: Path, _table: str) -> None:
        tried.append(source)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet, "convert", fill)
    assert await UsageSink(months.database, tmp_path).run_once() == 0
    assert len(tried) == 1
    assert drafts_in(tmp_path) == []


async def test_month_is_dropped_once_the_sink_has_it_and_late_rows_come_beside(months: Backend, tmp_path: Path) -> None:
    begins, later = month_before(clock.now(), 1), clock.now() + timedelta(days=70)
    retention = RetentionWorker(months.database, months.journal, keep_months=1, has_sink=True, now=lambda: later)
    async with months.database.transaction() as connection:
        await ingest(connection, [a_line(months.users[0], at=begins) for _ in range(3)])
    assert await retention.run_once() == 0  # no sink is registered
    worker = UsageSink(months.database, tmp_path)
    await worker.run_once()
    assert await retention.run_once() > 0
    for rows, imports in ((4, False), (5, True), (6, False)):
        async with months.database.transaction() as connection:
            if imports:
                await month_partitions.create(connection, [MonthPartition("usage_tracking", begins)])
            await ingest(connection, [a_line(months.users[0], at=begins)])
        await worker.run_once()
        assert len(in_sink_of(tmp_path, begins)) == 3
        assert len({row["request_id"] for row in in_sink(tmp_path)}) == len(in_sink(tmp_path)) == rows
    assert await retention.run_once() == 1
    async with months.database.transaction() as connection:
        await ingest(connection, [a_line(months.users[0], at=begins)])
    await worker.run_once()
    assert len({row["request_id"] for row in in_sink(tmp_path)}) == len(in_sink(tmp_path)) == 7


async def test_erasure_reaches_the_files_of_dropped_months_and_no_other_user(months: Backend, tmp_path: Path) -> None:
    begins, later = month_before(clock.now(), 1), clock.now() + timedelta(days=70)
    retention = RetentionWorker(months.database, months.journal, keep_months=1, has_sink=True, now=lambda: later)
    worker, stays = UsageSink(months.database, tmp_path), await months.a_user()
    gone, late = months.users[0], await months.a_user()
    calls: dict[str, Any] = {"client_ip": "203.0.113.7", "client_request_id": "a"}
    async with months.database.transaction() as connection:
        for hour in (begins, begins + timedelta(hours=30)):
            await ingest(connection, [a_line(user, at=hour, **calls) for user in (gone, stays, late)])
    await worker.run_once()
    await delete(months, late)
    assert await retention.run_once() > 0  # before the rows of the month are emptied
    empty, erased, rows = {"client_ip": None, "client_request_id": None}, {str(late)}, in_sink(tmp_path)
    await worker.run_once()
    assert in_sink(tmp_path) == [row | empty if row["user_id"] in erased else row for row in rows] != rows
    await delete(months, gone)
    erased.add(str(gone))
    assert await worker.run_once() == 0
    assert in_sink(tmp_path) == [row | empty if row["user_id"] in erased else row for row in rows]
    assert (drafts_in(tmp_path), lag()) == ([], 0)


async def delete(backend: Backend, user_id: UUID) -> None:
    async with backend.database.transaction() as connection:
        await erasure.erase(connection, user_id, now=clock.now())


async def test_row_that_comes_just_before_the_drop_keeps_its_month(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, later = month_before(clock.now(), 1), clock.now() + timedelta(days=70)
    retention = RetentionWorker(months.database, months.journal, keep_months=1, has_sink=True, now=lambda: later)
    worker, drop = UsageSink(months.database, tmp_path), month_partitions.drop

    async def write_and_drop(connection: AsyncConnection, partitions: Iterable[MonthPartition]) -> None:
        async with months.database.transaction() as other:
            await ingest(other, [a_line(months.users[0], at=begins)])
        await drop(connection, partitions)

    await worker.run_once()  # registers the sink
    with monkeypatch.context() as patched:
        patched.setattr(month_partitions, "drop", write_and_drop)
        assert await retention.run_once() == 0
    await worker.run_once()
    assert await retention.run_once() > 0
    assert len(in_sink_of(tmp_path, begins)) == 1


async def test_rows_without_a_month_move_into_the_file_of_their_hour(backend: Backend, tmp_path: Path) -> None:
    await backend.a_user()
    worker, begins = UsageSink(backend.database, tmp_path), month_before(clock.now(), 1)
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(backend.users[0], at=begins) for _ in range(3)])
    await worker.run_once()
    assert in_sink(tmp_path) == await in_table(backend) != []
    async with backend.database.transaction() as connection:
        await month_partitions.create(connection, [MonthPartition("usage_tracking", begins)])
    await worker.run_once()
    assert in_sink(tmp_path) == await in_table(backend)
    assert len(in_sink_of(tmp_path, begins)) == 3
    assert len(files_in(tmp_path)) == 1


async def test_rows_that_move_to_their_month_are_marked_only_for_a_sink(backend: Backend) -> None:
    await backend.a_user()
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(backend.users[0], at=month_before(clock.now(), 1))])
        await month_partitions.create_missing(connection, now=month_before(clock.now(), 1))
        assert (await connection.execute(text("SELECT count(*) FROM usage_sink_changes"))).scalar_one() == 0
