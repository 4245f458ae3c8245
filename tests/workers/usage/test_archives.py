"""A month is dropped only after its rows have been read back from its archive."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from pyarrow import parquet as pa_parquet
from sqlalchemy import select, text

from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db import month_partitions
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.db.tables import metadata
from gateway.ledger.usage.ingestion import ingest
from gateway.workers.usage import archives, parquet
from gateway.workers.usage.archive_folder import ArchiveFolder
from gateway.workers.usage.archives import ArchiveFormat, Archives
from gateway.workers.usage.retention import RetentionWorker
from policies.usage.records import text as escaped
from tests.ledger.make import a_line
from tests.workers.conftest import Backend
from tests.workers.usage.conftest import AWKWARD, KEPT, NOW, OLD, bounded, failures, names


def retention(backend: Backend, folder: Path, archive_format: ArchiveFormat = "csv") -> RetentionWorker:
    archives = archives_in(folder, archive_format)
    return RetentionWorker(backend.database, backend.journal, keep_months=2, archives=archives, now=lambda: NOW)


def archives_in(folder: Path, archive_format: ArchiveFormat = "csv") -> Archives:
    return Archives(ArchiveFolder(folder), archive_format)


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def facts_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def files_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def test_archived_month_has_every_row_and_its_facts(months: Backend, tmp_path: Path) -> None:
    folder = tmp_path / "far" / "archive"
    assert await retention(months, folder).run_once() == 2
    assert [name for name in await names(months) if "2025" in name] == []
    file, facts = folder / "usage_tracking_2025_12.csv.gz", facts_of(folder / "usage_tracking_2025_12.json")
    older, younger = rows_of(file)
    assert (older["cost_usd"], json.loads(older["metadata"]), younger["category"]) == ("0.012345", {"a": 1}, AWKWARD)
    assert datetime.fromisoformat(younger["created_at"]) == OLD
    assert [row["file_name"] for row in rows_of(folder / "analysis_history_2025_12.csv.gz")] == ["x.csv"]
    content = file.read_bytes()
    assert (facts["rows"], facts["bytes"], facts["month"]) == (2, len(content), "2025-12")
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["content_sha256"] == hashlib.sha256(gzip.decompress(content)).hexdigest()
    assert len(list(folder.iterdir())) == 4
    async with months.database.read() as connection:
        entries = (await audit_log.list_entries(connection, AuditFilter(entity="partition"))).data
    recorded = {entry.entity_id: dict(entry.after or {}) for entry in entries}
    assert recorded["usage_tracking_2025_12"]["sha256"] == facts["sha256"]


async def test_archive_takes_as_long_as_it_takes_where_transactions_are_bounded(
    months: Backend, tmp_path: Path
) -> None:
    class Slow(ArchiveFolder):
        def add(self, draft: Path, name: str) -> bool:
            time.sleep(0.6)
            return super().add(draft, name)

    async with bounded(months) as database:
        worker = RetentionWorker(
            database, months.journal, keep_months=2, archives=Archives(Slow(tmp_path)), now=lambda: NOW
        )
        assert await worker.run_once() == 2


@pytest.mark.parametrize("table", month_partitions.PARTITIONED)
async def test_parquet_archive_equals_the_table_row_by_row(months: Backend, tmp_path: Path, table: str) -> None:
    december, columns = MonthPartition(table, datetime(2025, 12, 1, tzinfo=UTC)), metadata.tables[table].c
    async with months.database.transaction() as connection:
        as_csv = await archives_in(tmp_path).add(connection, december)
        as_parquet = await archives_in(_made(tmp_path / "parquet"), "parquet").add(connection, december)
        query = select(*columns).where(columns.created_at < KEPT).order_by(columns.created_at)
        rows = [dict(row._mapping) for row in await connection.execute(query)]
    assert (as_parquet.file, as_parquet.rows) == (f"{table}_2025_12.parquet", len(rows))
    assert as_parquet.content_sha256 == as_csv.content_sha256
    content = (tmp_path / "parquet" / as_parquet.file).read_bytes()
    assert (as_parquet.bytes, as_parquet.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert pa_parquet.read_table(io.BytesIO(content)).to_pylist() == [
        {name: _in_parquet(value) for name, value in row.items()} | _json_as_written(row, as_csv_row)
        for row, as_csv_row in zip(rows, rows_of(tmp_path / as_csv.file), strict=True)
    ]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _in_parquet(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _json_as_written(row: dict[str, Any], as_csv: dict[str, str]) -> dict[str, str]:
    """Objects are text, with the spaces of PostgreSQL."""
    objects = [name for name, value in row.items() if isinstance(value, dict)]
    assert [json.loads(as_csv[name]) for name in objects] == [row[name] for name in objects] != []
    return {name: as_csv[name] for name in objects}


async def test_parquet_archive_has_types_and_bounded_row_groups(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 20)
    async with months.database.transaction() as connection:
        await ingest(connection, [a_line(months.users[0], at=OLD - timedelta(hours=n)) for n in range(1, 101)])
    assert await retention(months, tmp_path, "parquet").run_once() == 2
    with pa_parquet.ParquetFile(tmp_path / "usage_tracking_2025_12.parquet") as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert sum(groups) == facts_of(tmp_path / "usage_tracking_2025_12.json")["rows"] == 102
        assert max(groups) < 51
        types = {field.name: field.type for field in file.schema_arrow}
        rows = file.read().to_pylist()
    assert (types["created_at"], types["cost_usd"]) == (pa.timestamp("us", tz="UTC"), pa.decimal128(12, 6))
    assert (types["credits_charged"], types["status_code"]) == (pa.int64(), pa.int16())
    assert {row["cost_usd"] for row in rows} == {Decimal("0.012345"), None}
    assert (rows[0]["category"], rows[-1]["category"]) == (None, AWKWARD)
    assert files_in(tmp_path) == sorted(
        f"{table}_2025_12.{suffix}" for table in month_partitions.PARTITIONED for suffix in ("json", "parquet")
    )


async def test_parquet_archive_has_rows_of_any_length(months: Backend, tmp_path: Path) -> None:
    long = json.dumps({"prompt": 'say "no"' * (1 << 18)})
    async with months.database.transaction() as connection:
        lines = [a_line(months.users[0], at=OLD, metadata=escaped(each)) for each in (long, "{}", long)]
        await ingest(connection, lines)
    assert len(long) > 2 * parquet.BLOCK_BYTES
    assert await retention(months, tmp_path, "parquet").run_once() == 2
    rows = pa_parquet.read_table(tmp_path / "usage_tracking_2025_12.parquet").to_pylist()
    assert sorted(row["metadata"] for row in rows) == sorted([long, long, "{}", "{}", '{"a": 1}'])


async def test_parquet_row_groups_have_bounded_bytes(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 8192)
    async with months.database.transaction() as connection:
        await ingest(connection, [a_line(months.users[0], at=OLD, path="/" + "x" * 1000) for _ in range(50)])
    assert await retention(months, tmp_path, "parquet").run_once() == 2
    with pa_parquet.ParquetFile(tmp_path / "usage_tracking_2025_12.parquet") as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sum(groups) == 52
    assert max(groups) < 13


async def test_parquet_archive_of_a_month_without_rows_has_its_columns(months: Backend, tmp_path: Path) -> None:
    february = MonthPartition("analysis_history", datetime(2026, 2, 1, tzinfo=UTC))
    async with months.database.transaction() as connection:
        archive = await archives_in(tmp_path, "parquet").add(connection, february)
    read = pa_parquet.read_table(tmp_path / archive.file)
    assert (archive.rows, read.num_rows) == (0, 0)
    assert set(read.column_names) == {column.name for column in metadata.tables["analysis_history"].c}


async def test_another_format_keeps_the_archive_of_the_same_rows(months: Backend, tmp_path: Path) -> None:
    december = MonthPartition("usage_tracking", datetime(2025, 12, 1, tzinfo=UTC))
    async with months.database.transaction() as connection:
        first = await archives_in(tmp_path).add(connection, december)
        assert await archives_in(tmp_path, "parquet").add(connection, december) == first
        await connection.execute(text("DELETE FROM usage_tracking_2025_12 WHERE cost_usd IS NULL"))
        other = await archives_in(tmp_path, "parquet").add(connection, december)
    assert other.file == "usage_tracking_2025_12.2.parquet"


async def test_month_stays_while_parquet_cannot_hold_its_rows(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, failed = await names(months), failures()
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_arrow_type", lambda table, name: pa.int64())  # noqa: ARG005 - both by position
        assert await retention(months, tmp_path, "parquet").run_once() == 0
    write = parquet._write

    def spoil(_groups: Iterator[pa.Table], target: Path, schema: pa.Schema) -> None:
        write(iter(()), target, schema)

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_write", spoil)
        assert await retention(months, tmp_path, "parquet").run_once() == 0
    assert (await names(months), failures(), files_in(tmp_path)) == (before, failed + 2, [])
    assert await retention(months, tmp_path, "parquet").run_once() == 2


async def test_archive_is_taken_back_by_postgresql(months: Backend, tmp_path: Path) -> None:
    await retention(months, tmp_path).run_once()
    async with months.database.transaction() as connection:
        await month_partitions.create(connection, [MonthPartition("usage_tracking", datetime(2025, 12, 1, tzinfo=UTC))])
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        with gzip.open(tmp_path / "usage_tracking_2025_12.csv.gz") as stream:
            await driver.copy_to_table("usage_tracking", source=io.BytesIO(stream.read()), format="csv", header=True)
        assert (await connection.execute(text("SELECT count(*) FROM usage_tracking"))).scalar_one() == 3
    assert await retention(months, tmp_path).run_once() == 1  # the same rows: the archive is kept as it is
    assert not (tmp_path / "usage_tracking_2025_12.2.json").exists()


async def test_month_with_other_content_gets_an_archive_beside_the_first(months: Backend, tmp_path: Path) -> None:
    await retention(months, tmp_path).run_once()
    first = (tmp_path / "usage_tracking_2025_12.csv.gz").read_bytes()
    async with months.database.transaction() as connection:
        await month_partitions.create(connection, [MonthPartition("usage_tracking", datetime(2025, 12, 1, tzinfo=UTC))])
        await ingest(connection, [a_line(months.users[0], at=OLD)])
    assert await retention(months, tmp_path).run_once() == 1
    assert (tmp_path / "usage_tracking_2025_12.csv.gz").read_bytes() == first
    assert len(rows_of(tmp_path / "usage_tracking_2025_12.2.csv.gz")) == 1
    assert facts_of(tmp_path / "usage_tracking_2025_12.2.json")["file"] == "usage_tracking_2025_12.2.csv.gz"


async def test_month_stays_while_its_archive_cannot_be_written(
    months: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, failed = await names(months), failures()
    (tmp_path / "file").write_text("no folder")
    assert await retention(months, tmp_path / "file").run_once() == 0

    class FullDisk(gzip.GzipFile):
        def write(self, data: Any) -> int:
            raise OSError(28, f"No space left on device for {len(data)} bytes")

    with monkeypatch.context() as patch:
        patch.setattr(archives.gzip, "GzipFile", FullDisk)  # type: ignore[attr-defined] # the module that it uses
        assert await retention(months, tmp_path / "full").run_once() == 0
    verify = archives._verify
    monkeypatch.setattr(archives, "_verify", lambda path, content: verify(_spoilt(path), content))
    assert await retention(months, tmp_path / "bad").run_once() == 0
    assert await names(months) == before
    assert failures() == failed + 3
    assert list((tmp_path / "full").iterdir()) == list((tmp_path / "bad").iterdir()) == []
    monkeypatch.undo()
    assert await retention(months, tmp_path / "bad").run_once() == 2


def _spoilt(path: Path) -> Path:
    """As a disk that gives back something else."""
    path.write_bytes(gzip.compress(b"something else"))
    return path


async def test_one_worker_at_a_time_archives_a_month(months: Backend, tmp_path: Path) -> None:
    december = MonthPartition("usage_tracking", datetime(2025, 12, 1, tzinfo=UTC))
    async with months.database.transaction() as connection:
        assert await month_partitions.freeze(connection, december)
        assert await retention(months, tmp_path).run_once() == 0
    assert await retention(months, tmp_path).run_once() == 2
    async with months.database.transaction() as connection:
        assert not await month_partitions.freeze(connection, december)
