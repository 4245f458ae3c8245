"""A month is dropped only after its rows have been read back from its archive."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db import month_partitions
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.usage.ingestion import ingest
from gateway.workers.usage import archives
from gateway.workers.usage.archives import ArchiveFolder
from gateway.workers.usage.retention import RetentionWorker
from policies.usage.records import text as escaped
from tests.ledger.make import a_line
from tests.workers.conftest import Backend

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
OLD, KEPT = datetime(2025, 12, 31, 23, 59, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
AWKWARD = 'a "quoted", comma\nand a line: é'


@pytest.fixture
async def months(backend: Backend) -> Backend:
    """Two calls in December, the older one second, one in January; with months for both tables."""
    async with backend.database.transaction() as connection:
        await month_partitions.create_missing(connection, now=OLD, months_ahead=3)
    user_id = await backend.a_user()
    async with backend.database.transaction() as connection:
        lines = [
            a_line(user_id, at=OLD, category=escaped(AWKWARD), usage_type="analysis", file_name="x.csv"),
            a_line(user_id, at=OLD - timedelta(days=1), cost_usd="0.012345", metadata='{"a": 1}'),
            a_line(user_id, at=KEPT),
        ]
        await ingest(connection, lines)
    return backend


def retention(backend: Backend, folder: Path) -> RetentionWorker:
    archive = ArchiveFolder(folder)
    return RetentionWorker(backend.database, backend.journal, keep_months=2, archive=archive, now=lambda: NOW)


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def facts_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


async def names(backend: Backend) -> list[str]:
    async with backend.database.read() as connection:
        return [each.name for each in await month_partitions.list_partitions(connection) if each.begins < NOW]


def failures() -> float:
    return REGISTRY.get_sample_value("gateway_usage_archive_failures_total") or 0.0


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
