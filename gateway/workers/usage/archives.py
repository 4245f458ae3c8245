"""Archives of months: a gzip file of CSV or a Parquet file for each, and beside it the facts that verify it.

The facts are added last, once the file has been read back. So a file without them is not complete.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.db import month_partitions
from gateway.ledger.db.bulk_copy import Write
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.workers.usage.archive_folder import ArchiveFailed, ArchivePlace, measure

ArchiveFormat = Literal["csv", "parquet"]

_CHUNK_BYTES = 1 << 20
_SUFFIX: dict[ArchiveFormat, str] = {"csv": "csv.gz", "parquet": "parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The facts of an archive. `sha256` is that of the file, `content_sha256` that of its rows as CSV."""

    file: str
    table: str
    month: str
    rows: int
    bytes: int
    sha256: str
    content_sha256: str
    created_at: str
    release: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    """The rows of a month as a gzip file of CSV."""

    source: Path
    partition: MonthPartition
    rows: int
    content_sha256: str

    def describe(self, draft: Path, file: str) -> Archive:
        size, digest = measure(draft)
        return Archive(
            file=file,
            table=self.partition.table,
            month=f"{self.partition.begins:%Y-%m}",
            rows=self.rows,
            bytes=size,
            sha256=digest,
            content_sha256=self.content_sha256,
            created_at=now().isoformat(timespec="seconds"),
            release=version("metering-gateway"),
        )


class Archives:
    """Exports months to where archives are kept. Every method raises ArchiveFailed.

    Parquet needs the extra `parquet`.
    """

    def __init__(self, place: ArchivePlace, archive_format: ArchiveFormat = "csv") -> None:
        self._place = place
        self._format = archive_format

    async def check(self) -> None:
        """Finds whether files can be written there."""
        await asyncio.to_thread(self._place.check)

    async def add(self, connection: AsyncConnection, partition: MonthPartition) -> Archive:
        """Exports the partition, which must not change before the end of the transaction.

        Keeps a complete archive that has the same content, and never replaces one that has another.
        """
        source = self._draft(partition, "csv")
        try:
            rows, content = await export_gzip(source, partial(month_partitions.export_csv, connection, partition))
            export = _Export(source=source, partition=partition, rows=rows, content_sha256=content)
            return await asyncio.to_thread(self._complete, export)
        except OSError as error:
            raise ArchiveFailed(f"{partition.name} cannot be archived: {error.strerror or error}") from error
        finally:
            for each in _SUFFIX:
                self._draft(partition, each).unlink(missing_ok=True)

    def _draft(self, partition: MonthPartition, archive_format: ArchiveFormat) -> Path:
        return self._place.drafts / f"{partition.name}.{archive_format}.part"

    def _complete(self, export: _Export) -> Archive:
        """Gives the archive with this content; if there is none, adds it under the first name that is free.

        A restored backup may bring back a month that was archived, with other content.
        """
        _verify(export.source, export.content_sha256)
        draft: Path | None = None
        for stem in _stems(export.partition.name):
            if (facts := self._place.read(f"{stem}.json")) is not None:
                if (present := self._present(facts, export.content_sha256)) is not None:
                    return present
                continue
            draft = draft or self._convert(export)
            archive = export.describe(draft, f"{stem}.{_SUFFIX[self._format]}")
            if self._publish(draft, archive, stem):
                return archive
        raise AssertionError("unreachable")

    def _present(self, facts: bytes, content: str) -> Archive | None:
        """The archive of these facts; None if it has other content, or its file is not as they say."""
        try:
            archive = Archive(**json.loads(facts))
        except (TypeError, ValueError):
            return None
        if archive.content_sha256 != content or self._place.measure(archive.file) != (archive.bytes, archive.sha256):
            return None
        return archive

    def _convert(self, export: _Export) -> Path:
        """Gives the draft in the format of the archives."""
        if self._format == "csv":
            return export.source
        from gateway.workers.usage import parquet  # here, since it needs an extra

        draft = self._draft(export.partition, self._format)
        parquet.convert(export.source, draft, export.partition.table)
        return draft

    def _publish(self, draft: Path, archive: Archive, stem: str) -> bool:
        """False if another file has one of the names, and is not to be replaced."""
        if not self._place.add(draft, archive.file):
            return False
        facts = self._place.drafts / f"{stem}.json.part"
        try:
            with facts.open("wb") as raw:
                raw.write(f"{json.dumps(asdict(archive), indent=1)}\n".encode())
                _flush(raw)
            return self._place.add(facts, f"{stem}.json")
        finally:
            facts.unlink(missing_ok=True)


def _stems(name: str) -> Iterator[str]:
    return (name if number == 1 else f"{name}.{number}" for number in count(1))


async def export_gzip(path: Path, export: Callable[[Write], Awaitable[int]]) -> tuple[int, str]:
    """Writes what is exported to a gzip file and flushes it; gives the number of rows, and the hash of the content.

    Threads compress and write, so no other worker waits. Raises OSError.
    """
    hashed = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
        # Without name and time, so that the same rows make the same file.
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as compressed:

            def take(data: bytes) -> None:
                hashed.update(data)
                compressed.write(data)

            async def write(data: bytes) -> None:
                await asyncio.to_thread(take, data)

            rows = await export(write)
        await asyncio.to_thread(_flush, raw)
    return rows, hashed.hexdigest()


def _flush(raw: BinaryIO) -> None:
    raw.flush()
    os.fsync(raw.fileno())


def _verify(path: Path, content: str) -> None:
    """Raises ArchiveFailed if the content of the gzip file is not what was written."""
    read = hashlib.sha256()
    with gzip.open(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            read.update(chunk)
    if read.hexdigest() != content:
        raise ArchiveFailed(f"{path} does not hold what was written")
