"""Flushes Valkey's append-only file to disk, so that Valkey never waits for the disk.

A rewrite replaces the parts of the file and unlinks the old ones. A file system that frees 64 MB at once delays every
sync meanwhile, and Valkey syncs its manifest then: it stopped answering for 0.12 s at every rewrite, once in 48,000
calls. The last process that closes an unlinked file frees it, so this module keeps the parts open and truncates them
piece by piece.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 1024 * 1024
PAUSE_SECONDS = 0.01
PIECES_AT_ONCE = 32  # a third of a second: what is written meanwhile waits so long for its flush
_PARTS = "appendonlydir/*.aof", "appendonlydir/*.rdb"


class AppendOnlyFile:
    """The parts in a folder of Valkey. The methods block: call them in a thread.

    With `durable` False flushing is left to the kernel.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._parts: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __repr__(self) -> str:
        return f"<AppendOnlyFile {len(self._parts)} parts>"

    def flush(self) -> None:
        """Flushes what Valkey has written, and frees some of the parts that it has replaced. Raises OSError."""
        with self._lock:
            self._find_new()
            for path, descriptor in list(self._parts.items()):
                if os.fstat(descriptor).st_nlink:
                    if self._durable:
                        os.fsync(descriptor)
                elif self._has_freed(descriptor):
                    os.close(self._parts.pop(path))

    def close(self) -> None:
        """Closes all parts without freeing them piece by piece."""
        self._closing.set()
        with self._lock:
            self._closing.clear()
            while self._parts:
                os.close(self._parts.popitem()[1])

    def _find_new(self) -> None:
        for path in (path for pattern in _PARTS for path in self._folder.glob(pattern)):
            if path not in self._parts:
                with suppress(FileNotFoundError):  # replaced since `glob` listed it
                    self._parts[path] = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def _has_freed(self, descriptor: int) -> bool:
        """Whether nothing is left of the file after some more pieces of it."""
        size = os.fstat(descriptor).st_size
        for _ in range(PIECES_AT_ONCE):
            size = max(0, size - PIECE_BYTES)
            os.ftruncate(descriptor, size)
            if size == 0 or self._closing.wait(PAUSE_SECONDS):
                break
        return size == 0
