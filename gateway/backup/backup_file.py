"""The file of a backup: a ZIP archive that ends in a SHA-256 of all that precedes.

A member for each table, as COPY writes it, one for the journal, and the manifest last. Any unzip and psql can read it.
The hash is the archive's comment, so the last 64 characters of the file are that of all before them:
`head -c -64 FILE | sha256sum`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

FORMAT = 1
MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"
_CHECKSUM_BYTES = 64
_COMMENT = b"sha256:"
_CHUNK_BYTES = 1 << 20
# Level 1 of zlib writes four times as fast as level 6, and a tenth more.
_LEVEL = 1


class BackupDamaged(Exception):  # noqa: N818 - named for the condition
    """The file is no backup, not all of one, or was changed."""


@dataclass(frozen=True, slots=True)
class TableCopy:
    """What a backup has of a table."""

    name: str
    columns: tuple[str, ...]
    rows: int

    @property
    def member(self) -> str:
        return f"tables/{self.name}.copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup has, and of which versions. `journal_entries` is None for a backup without Redis.

    `schema` is the revision of the database, `months` are the names of its month partitions.
    """

    format: int
    release: str
    schema: str
    created_at: str
    postgresql: str
    tables: tuple[TableCopy, ...]
    months: tuple[str, ...]
    sequences: dict[str, int]
    journal_entries: int | None


class BackupWriter:
    """Adds members to the archive, each streamed."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        with self._archive.open(name, "w", force_zip64=True) as stream:
            yield stream

    def add_manifest(self, manifest: Manifest) -> None:
        self._archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1))


class BackupReader:
    """A backup whose checksum has been verified."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self.manifest = manifest
        self._archive = archive

    def member(self, name: str) -> IO[bytes]:
        """Raises BackupDamaged if there is none of this name."""
        try:
            return self._archive.open(name)
        except KeyError as error:
            raise BackupDamaged(f"the backup lacks {name}") from error


@contextmanager
def create(path: Path) -> Iterator[BackupWriter]:
    """The file appears under its name when it is complete and on disk, readable by its owner only."""
    partial = path.with_name(f"{path.name}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            hashed = _HashedStream(raw)
            with zipfile.ZipFile(hashed, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
                archive.comment = _COMMENT + b"0" * _CHECKSUM_BYTES
                yield BackupWriter(archive)
            raw.seek(-_CHECKSUM_BYTES, io.SEEK_END)
            raw.write(hashed.hexdigest().encode())
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def open_verified(path: Path) -> Iterator[BackupReader]:
    """Reads the whole file once to verify its checksum. Raises BackupDamaged, OSError."""
    with path.open("rb") as raw:
        _verify(raw)
        try:
            archive = zipfile.ZipFile(raw)
            manifest = _manifest(json.loads(archive.read(MANIFEST)))
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise BackupDamaged(f"the file cannot be read as a backup: {error}") from error
        with archive:
            yield BackupReader(archive, manifest)


class _HashedStream:
    """Hashes what is written, but for the last bytes, where the hash goes. It cannot seek, so ZIP never goes back."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self._last = b""

    def write(self, data: bytes) -> int:
        self._last += data[-_CHECKSUM_BYTES:]
        if len(data) > _CHECKSUM_BYTES:
            self._hash.update(self._last[:-_CHECKSUM_BYTES])
            self._hash.update(memoryview(data)[:-_CHECKSUM_BYTES])
        else:
            self._hash.update(self._last[:-_CHECKSUM_BYTES])
        self._last = self._last[-_CHECKSUM_BYTES:]
        return self._raw.write(data)

    def flush(self) -> None:
        self._raw.flush()

    def close(self) -> None:
        """The stream belongs to whoever opened it."""

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _verify(raw: BinaryIO) -> None:
    remaining = os.fstat(raw.fileno()).st_size - _CHECKSUM_BYTES
    hashed = hashlib.sha256()
    while remaining > 0 and (chunk := raw.read(min(remaining, _CHUNK_BYTES))):
        hashed.update(chunk)
        remaining -= len(chunk)
    if remaining or raw.read() != hashed.hexdigest().encode():
        raise BackupDamaged("the file is no backup, or is damaged: its checksum does not match")
    raw.seek(0)


def _manifest(fields: dict[str, Any]) -> Manifest:
    if fields["format"] > FORMAT:
        raise BackupDamaged(f"the backup was made by release {fields['release']}, whose format this one cannot read")
    tables = tuple(TableCopy(each["name"], tuple(each["columns"]), each["rows"]) for each in fields["tables"])
    return Manifest(**{**fields, "tables": tables, "months": tuple(fields["months"])})
