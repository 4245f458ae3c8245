"""Archives of months: a gzip file of CSV or a Parquet file for each, and beside it the facts that verify it.

The facts are written last, once the file has been read back from disk. So a file without them is not complete.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
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

ArchiveFormat = Literal["csv", "parquet"]

_CHUNK_BYTES = 1 << 20
_SUFFIX: dict[ArchiveFormat, str] = {"csv": "csv.gz", "parquet": "parquet"}


class ArchiveFailed(Exception):  # noqa: N818 - named for the condition
    """The archive could not be written, or the disk does not give back what was written."""


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


class ArchiveFolder:
    """The folder of the archives. Every method raises ArchiveFailed. Parquet needs the extra `parquet`."""

    def __init__(self, folder: Path, archive_format: ArchiveFormat = "csv") -> None:
        self._folder = folder
        self._format = archive_format

    def check(self) -> None:
        """Creates the folder if it is missing, and finds whether files can be written there."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self._folder / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ArchiveFailed(f"{self._folder} cannot be written: {error.strerror}") from error

    async def add(self, connection: AsyncConnection, partition: MonthPartition) -> Archive:
        """Exports the partition, which must not change before the end of the transaction.

        Keeps a complete archive that has the same content, and never replaces one that has another.
        """
        drafts = {each: self._folder / f"{partition.name}.{each}.part" for each in _SUFFIX}
        draft = drafts[self._format]
        try:
            rows, content = await export_gzip(
                drafts["csv"], partial(month_partitions.export_csv, connection, partition)
            )
            await asyncio.to_thread(_verify, drafts["csv"], content)
            stem = self._free_name(partition.name, content)
            if (present := self._read(stem)) is not None:
                return present
            if self._format == "parquet":
                await asyncio.to_thread(_convert, drafts["csv"], draft, partition.table)
            size, digest = await asyncio.to_thread(_measure, draft)
            archive = Archive(
                file=f"{stem}.{_SUFFIX[self._format]}",
                table=partition.table,
                month=f"{partition.begins:%Y-%m}",
                rows=rows,
                bytes=size,
                sha256=digest,
                content_sha256=content,
                created_at=now().isoformat(timespec="seconds"),
                release=version("metering-gateway"),
            )
            await asyncio.to_thread(self._publish, draft, archive, stem)
        except OSError as error:
            raise ArchiveFailed(f"{partition.name} cannot be archived: {error.strerror or error}") from error
        finally:
            for each in drafts.values():
                each.unlink(missing_ok=True)
        return archive

    def _free_name(self, name: str, content: str) -> str:
        """The name of the archive with this content, else the first that no complete archive has.

        A restored backup may bring back a month that was archived, with other content.
        """
        for number in count(1):
            stem = name if number == 1 else f"{name}.{number}"
            present = self._read(stem)
            if present is None or present.content_sha256 == content:
                return stem
        raise AssertionError("unreachable")

    def _read(self, stem: str) -> Archive | None:
        """The facts of a complete archive; None where there is none of this name."""
        try:
            archive = Archive(**json.loads((self._folder / f"{stem}.json").read_bytes()))
        except (FileNotFoundError, TypeError, ValueError):
            return None
        return archive if (self._folder / archive.file).exists() else None

    def _publish(self, draft: Path, archive: Archive, stem: str) -> None:
        draft.replace(self._folder / archive.file)
        facts = self._folder / f"{stem}.json.part"
        with facts.open("wb") as raw:
            raw.write(f"{json.dumps(asdict(archive), indent=1)}\n".encode())
            _flush(raw)
        facts.replace(self._folder / f"{stem}.json")
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the names, so that they outlast a loss of power as the dropped month does
        finally:
            os.close(descriptor)


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


def _convert(source: Path, target: Path, table: str) -> None:
    from gateway.workers.usage import parquet  # here, since it needs an extra

    parquet.convert(source, target, table)


def _measure(path: Path) -> tuple[int, str]:
    """Gives size and hash of the file."""
    with path.open("rb") as raw:
        return path.stat().st_size, hashlib.file_digest(raw, "sha256").hexdigest()
