"""Settlements that Redis did not take, on disk: a file for each process, which the next one adopts when its owner died.

A file is a queue. What is appended is handed to the kernel before `append` returns, so it outlives the process, however
that ends. fdatasync follows within SYNC_SECONDS, so a machine that loses power loses no more than what was appended in
the last SYNC_SECONDS and while the disk was writing that. A file is emptied, or removed, when all of it is settled.

A record is a line of its own with its length and CRC-32. It brings its line break at both ends, so damage costs the
records whose own bytes it hits, and reading goes on behind it. It begins with a record separator as those of RFC 7464
do, which no text has inside, so a byte that turns into a line break makes no record of the rest of a line. A damaged
file is kept aside for whoever wants to know.

Locks say who lives: the kernel drops a `flock(2)` with its process, however that ends, and not while it is frozen.
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

SYNC_SECONDS = 0.05
READ_BYTES = 64 * 1024
MAX_RECORD_BYTES = 1024 * 1024  # what is longer than this without a line break is nothing of ours
_RECORD = re.compile(rb"\x1e(\d{1,7}) ([0-9a-f]{8}) (.*)", re.DOTALL)
_SUFFIX = ".spool"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some records in the order in which they were appended, and where in the file what follows them begins."""

    records: tuple[bytes, ...]
    end: int


def framed(payload: bytes) -> bytes:
    """A record as it stands in the file. The payload holds no control characters."""
    return b"\n\x1e%d %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


class SpoolFile:
    """One file, locked by this process. Raises OSError where the disk does not do as it is told."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.unsettled = 0
        self.is_damaged = False
        self._descriptor = descriptor
        self._position = 0

    @classmethod
    def create(cls, path: Path) -> SpoolFile:
        """A new file. It gets its name when it is locked, so that nobody takes it for a dead one's in between."""
        unnamed = path.with_suffix(".new")
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(path)
        _sync_folder(path.parent)
        return cls(path, descriptor)

    @classmethod
    def adopt(cls, path: Path) -> SpoolFile | None:
        """A dead process's file, its records counted; None where its owner lives, or it is gone or no file."""
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        if not _lock(descriptor, path):
            os.close(descriptor)
            return None
        found = cls(path, descriptor)
        found.count()
        return found

    @property
    def is_empty(self) -> bool:
        return not self.unsettled and not self._position

    def append(self, payload: bytes) -> None:
        """Hands the record to the kernel, whole or not at all."""
        record, before = framed(payload), os.fstat(self._descriptor).st_size
        written = 0
        try:
            written = os.write(self._descriptor, record)
        finally:
            if written != len(record):
                os.ftruncate(self._descriptor, before)
        if written != len(record):
            raise OSError("the disk took a part of the record only")
        self.unsettled += 1

    def count(self) -> None:
        """Sees how many records there are, in a file that nobody appends to."""
        self.unsettled = sum(len(chunk.records) for chunk in self._chunks())

    def next(self) -> Chunk | None:
        """The first records that are not passed yet; None at the end. Damage is passed over, and remembered."""
        return next(self._chunks(), None)

    def passed(self, chunk: Chunk) -> None:
        """The records are settled, or somebody else's care."""
        self._position = chunk.end
        self.unsettled -= len(chunk.records)

    def sync(self) -> None:
        """Blocks until the disk has everything."""
        os.fdatasync(self._descriptor)

    def empty(self) -> None:
        """Begins anew, all of it being settled."""
        os.ftruncate(self._descriptor, 0)
        self._position = self.unsettled = 0

    def remove(self) -> None:
        """Ends the file, all of it being settled: a damaged one is kept beside, under a name that nobody adopts."""
        if self.is_damaged:
            aside = self.path.with_suffix(".damaged")
            self.path.rename(aside)
            _log.error("a spool was damaged; its intact settlements were made", kept_as=str(aside))
        else:
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Leaves the file to whoever adopts it."""
        os.close(self._descriptor)

    def _chunks(self) -> Iterator[Chunk]:
        position = self._position
        while data := self._lines(position):
            position += len(data)
            lines = [line for line in data.split(b"\n") if line]
            records = tuple(record for record in map(_record, lines) if record is not None)
            self.is_damaged |= len(records) < len(lines)
            if records:
                yield Chunk(records, position)

    def _lines(self, position: int) -> bytes:
        """Whole lines from there, or what is there where there are none."""
        size = READ_BYTES
        while True:
            data = os.pread(self._descriptor, size, position)
            if end := data.rfind(b"\n") + 1:
                return data[:end]
            if len(data) < size or size >= MAX_RECORD_BYTES:
                return data
            size *= 2


class Spool:
    """The files of one folder as one process sees them: its own, and those of the dead."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._path = folder / f"{owner}{_SUFFIX}"
        self._own: SpoolFile | None = None
        self._adopted: list[SpoolFile] = []
        self._unreadable: set[Path] = set()
        self._syncing: asyncio.Task[None] | None = None

    @property
    def unsettled(self) -> int:
        """Records that are not settled."""
        return sum(file.unsettled for file in self.files())

    def open(self) -> None:
        """Makes the own file, and adopts those whose owners died. Where that fails it is tried again when needed."""
        try:
            self._create()
        except OSError as error:
            _log.error("settlements cannot be spooled", folder=str(self._folder), reason=str(error))
        self.adopt()

    def adopt(self) -> None:
        """Takes over the files whose owners have died since. A sibling may die long after this process was started."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path != self._path:
                self._adopt(path)

    def append(self, payload: bytes) -> None:
        """Puts a record down. Raises OSError: it is not in the file then."""
        if len(payload) >= MAX_RECORD_BYTES // 2:
            raise OSError("the record is too long for the spool")
        own = self._own or self._create()
        own.append(payload)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync(own))

    def files(self) -> tuple[SpoolFile, ...]:
        """What is to be settled or finished: of the dead first."""
        own = () if self._own is None or self._own.is_empty else (self._own,)
        return (*self._adopted, *own)

    def finished(self, file: SpoolFile) -> None:
        """All of the file is settled. Raises OSError."""
        if file is self._own and not file.is_damaged:
            file.empty()
            return
        file.remove()
        if file is self._own:
            self._own = None
        else:
            self._adopted.remove(file)

    async def close(self) -> None:
        """Removes the own file if nothing is left in it; else it is there for the next process to adopt."""
        if self._syncing is not None:
            await self._syncing
        for file in self.files():
            file.close()
        if self._own is not None and self._own.is_empty:
            self._own.remove()
        self._own, self._adopted = None, []

    def _create(self) -> SpoolFile:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own = SpoolFile.create(self._path)
        return self._own

    def _adopt(self, path: Path) -> None:
        try:
            file = SpoolFile.adopt(path)
        except OSError as error:
            if path not in self._unreadable:
                self._unreadable.add(path)
                _log.error("a spool cannot be read", path=str(path), reason=str(error))
            return
        if file is not None:
            _log.warning("a spool was adopted", path=str(path), settlements=file.unsettled)
            self._adopted.append(file)

    async def _sync(self, file: SpoolFile) -> None:
        await asyncio.sleep(SYNC_SECONDS)
        self._syncing = None  # what is appended from here on asks anew
        try:
            await asyncio.to_thread(file.sync)
        except OSError as error:
            _log.error("the spool may not be on disk", path=str(file.path), reason=str(error))


def _lock(descriptor: int, path: Path) -> bool:
    """False where another process has the lock, or had it until now and has removed what the path named."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _record(line: bytes) -> bytes | None:
    match = _RECORD.fullmatch(line)
    if match is None or int(match[1]) != len(match[3]) or int(match[2], 16) != zlib.crc32(match[3]):
        return None
    return match[3]


def _sync_folder(folder: Path) -> None:
    """Makes the name of a new file as lasting as what will stand in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
