"""Settlements that Redis did not take, on disk: one file for each process, which another recovers when its owner died.

A file is a queue. `append` hands a record to the kernel before it returns, so the record outlives the process however
that ends. fdatasync follows within SYNC_SECONDS: a machine that loses power loses no more than what was appended in
the last SYNC_SECONDS and while the disk wrote that. A file is truncated, or removed, when all of it is settled.

Space for RESERVED_BYTES more is reserved ahead, so that a full disk takes settlements for a while longer.

A record is one line with its length and CRC-32. It brings its line break at both ends, so damage costs only the records
whose own bytes it hits, and reading goes on behind it. It begins with a record separator, as in RFC 7464. No payload
holds one, so a byte that turns into a line break makes no record of the rest of a line. A damaged file is set aside for
inspection.

Locks show which owners live: the kernel drops a `flock(2)` with its process, and not while the process is frozen.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.proxy.settle.disk_space import reserve_space

SYNC_SECONDS = 0.05
READ_BYTES = 64 * 1024
MAX_RECORD_BYTES = 1024 * 1024  # no record is longer
RESERVED_BYTES = 8 * 1024 * 1024  # some 10,000 settlements
_RECORD = re.compile(rb"\x1e(\d{1,7}) ([0-9a-f]{8}) (.*)", re.DOTALL)
_SUFFIX = ".spool2"
_SUFFIXES = (".spool", _SUFFIX)  # release 0.1.0 wrote the first, and would take other files for damaged ones
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some records in the order in which they were appended, and the position in the file behind them."""

    records: tuple[bytes, ...]
    end: int


def frame(payload: bytes) -> bytes:
    """A record as it stands in the file. The payload must hold no control characters."""
    return b"\n\x1e%d %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


class SpoolFile:
    """One file, locked by this process. Its methods raise OSError where the disk fails."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.pending = 0
        self.is_damaged = False
        self._descriptor = descriptor
        self._position = 0
        self._reserved_upto = 0

    @classmethod
    def create(cls, path: Path) -> SpoolFile:
        """A new file. It is locked before it gets its name, so that no process takes it for an orphan in between."""
        unnamed = path.with_suffix(".new")
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(path)
            _sync_folder(path.parent)
        except OSError:
            os.close(descriptor)
            unnamed.unlink(missing_ok=True)  # else no later attempt could create it
            raise
        created = cls(path, descriptor)
        created.reserve()
        return created

    @classmethod
    def recover(cls, path: Path) -> SpoolFile | None:
        """The file of a dead process, its records counted; None where its owner lives, or it is gone or no file."""
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        if not _lock(descriptor, path):
            os.close(descriptor)
            return None
        orphan = cls(path, descriptor)
        orphan.pending = sum(len(chunk.records) for chunk in orphan._chunks())
        return orphan

    @property
    def is_empty(self) -> bool:
        return not self.pending and not self._position

    def append(self, payload: bytes) -> None:
        """Hands the record to the kernel, whole or not at all."""
        record, before = frame(payload), os.fstat(self._descriptor).st_size
        written = 0
        try:
            written = os.write(self._descriptor, record)
        finally:
            if written != len(record):
                os.ftruncate(self._descriptor, before)
        if written != len(record):
            raise OSError("the disk took only a part of the record")
        self.pending += 1
        if before + RESERVED_BYTES // 2 > self._reserved_upto:
            self.reserve()

    def next_chunk(self) -> Chunk | None:
        """The first pending records; None at the end. Damage is skipped, and `is_damaged` set."""
        return next(self._chunks(), None)

    def advance(self, chunk: Chunk) -> None:
        """Moves behind records that are no longer pending in this file."""
        self._position = chunk.end
        self.pending -= len(chunk.records)

    def sync(self) -> None:
        """Blocks until everything is on the disk."""
        os.fdatasync(self._descriptor)

    def truncate(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._position = self.pending = self._reserved_upto = 0
        self.reserve()

    def reserve(self) -> bool:
        """Reserves space behind the end of the file; False where the disk is full or cannot do that."""
        end = os.fstat(self._descriptor).st_size
        if end + RESERVED_BYTES // 2 <= self._reserved_upto:
            return True
        if not reserve_space(self._descriptor, end, RESERVED_BYTES):
            return False
        self._reserved_upto = end + RESERVED_BYTES
        return True

    def remove(self) -> None:
        """Removes the file; a damaged one stays beside it, under a name that no process recovers."""
        if self.is_damaged:
            renamed = self.path.with_suffix(".damaged")
            self.path.rename(renamed)
            _log.error("spool_damaged", path=str(renamed))
        else:
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Releases the lock, so that another process may recover the file."""
        os.close(self._descriptor)

    def _chunks(self) -> Iterator[Chunk]:
        position = self._position
        while data := self._lines(position):
            position += len(data)
            lines = [line for line in data.split(b"\n") if line]
            records = tuple(record for record in map(_unframe, lines) if record is not None)
            self.is_damaged |= len(records) < len(lines)
            if records:
                yield Chunk(records, position)

    def _lines(self, position: int) -> bytes:
        """Whole lines from that position, or the bytes there if no line ends among them."""
        size = READ_BYTES
        while True:
            data = os.pread(self._descriptor, size, position)
            if end := data.rfind(b"\n") + 1:
                return data[:end]
            if len(data) < size or size >= MAX_RECORD_BYTES:
                return data
            size *= 2


class Spool:
    """The files of one folder that one process settles: its own, and those of dead processes."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._path = folder / f"{owner}{_SUFFIX}"
        self._own: SpoolFile | None = None
        self._orphans: list[SpoolFile] = []
        self._unreadable: set[Path] = set()
        self._newer: set[Path] = set()
        self._syncing: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """How many records are not settled yet."""
        return sum(file.pending for file in self.files())

    def open(self) -> None:
        """Creates the own file, and recovers those of dead processes. `append` tries again where creating fails."""
        try:
            self._create()
        except OSError as error:
            _log.error("spool_unavailable", folder=str(self._folder), reason=str(error))
        self.recover_orphans()

    def recover_orphans(self) -> None:
        """Takes over the files of processes that have died since. A sibling may die at any time."""
        self._newer = {path for path in self._newer if path.exists()}
        for path in sorted(path for suffix in _SUFFIXES for path in self._folder.glob(f"*{suffix}")):
            if path != self._path and path not in self._newer:
                self._recover(path)

    @property
    def newer(self) -> int:
        """How many files wait for a process of a newer release."""
        return len(self._newer)

    def release(self, file: SpoolFile, *, reason: str) -> None:
        """Leaves a file of a dead process to one of a newer release, which wrote it."""
        file.close()
        self._orphans.remove(file)
        self._newer.add(file.path)
        _log.error("spool_version_unknown", path=str(file.path), reason=reason)

    def reserve(self) -> None:
        """Reserves space again that could not be reserved before."""
        if self._own is not None:
            self._own.reserve()

    def append(self, payload: bytes) -> None:
        """Appends a record to the own file. Raises OSError: then the file does not hold it."""
        if len(payload) >= MAX_RECORD_BYTES // 2:
            raise OSError("the record is too long for the spool")
        own = self._own or self._create()
        own.append(payload)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync(own))

    def files(self) -> tuple[SpoolFile, ...]:
        """The files to settle, those of dead processes first."""
        own = () if self._own is None or self._own.is_empty else (self._own,)
        return (*self._orphans, *own)

    def discard(self, file: SpoolFile) -> None:
        """Truncates or removes a file that is settled. Raises OSError."""
        if file is self._own and not file.is_damaged:
            file.truncate()
            return
        file.remove()
        if file is self._own:
            self._own = None
        else:
            self._orphans.remove(file)

    async def close(self) -> None:
        """Removes the own file if nothing is pending; else another process recovers it."""
        if self._syncing is not None:
            await self._syncing
        for file in self.files():
            file.close()
        if self._own is not None and self._own.is_empty:
            self._own.remove()
        self._own, self._orphans = None, []

    def _create(self) -> SpoolFile:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own = SpoolFile.create(self._path)
        return self._own

    def _recover(self, path: Path) -> None:
        try:
            file = SpoolFile.recover(path)
        except OSError as error:
            if path not in self._unreadable:
                self._unreadable.add(path)
                _log.error("spool_unreadable", path=str(path), reason=str(error))
            return
        if file is not None:
            _log.warning("spool_recovered", path=str(path), settlements=file.pending)
            self._orphans.append(file)

    async def _sync(self, file: SpoolFile) -> None:
        await asyncio.sleep(SYNC_SECONDS)
        self._syncing = None  # records appended from here on need another sync
        try:
            await asyncio.to_thread(file.sync)
        except OSError as error:
            _log.error("spool_sync_failed", path=str(file.path), reason=str(error))


def _lock(descriptor: int, path: Path) -> bool:
    """False where another process has the lock, or had it until now and has removed the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _unframe(line: bytes) -> bytes | None:
    match = _RECORD.fullmatch(line)
    if match is None or int(match[1]) != len(match[3]) or int(match[2], 16) != zlib.crc32(match[3]):
        return None
    return match[3]


def _sync_folder(folder: Path) -> None:
    """Makes the name of a new file as durable as its content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
