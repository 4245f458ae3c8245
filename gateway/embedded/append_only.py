"""The disk's side of Valkey's append-only file: what Valkey wrote is taken there, and Valkey never waits for it.

A rewrite replaces the parts of the file, and frees the old ones at once. A file system that frees 64 MB lets everybody
wait who syncs meanwhile, and Valkey syncs its manifest then: measured, it answered nobody for 0.12 s at every rewrite,
once in 48,000 calls. A part that is held open is freed by whoever lets it go, so it is held here, and freed in pieces.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 1024 * 1024
PAUSE_SECONDS = 0.01
_PARTS = "appendonlydir/*.aof", "appendonlydir/*.rdb"


class AppendOnlyFile:
    """The parts in a folder of Valkey's. Its methods block: call them in a thread.

    With `durable` False nothing is flushed, but left to the kernel.
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
        """Takes to the disk what Valkey has written, and frees what it has replaced. Raises OSError."""
        with self._lock:
            self._find_new()
            for path, descriptor in list(self._parts.items()):
                if not os.fstat(descriptor).st_nlink:
                    self._free(self._parts.pop(path))
                elif self._durable:
                    os.fsync(descriptor)

    def close(self) -> None:
        """Lets go of all parts, at once."""
        self._closing.set()
        with self._lock:
            self._closing.clear()
            while self._parts:
                os.close(self._parts.popitem()[1])

    def _find_new(self) -> None:
        for path in (path for pattern in _PARTS for path in self._folder.glob(pattern)):
            if path not in self._parts:
                with suppress(FileNotFoundError):  # replaced this very moment
                    self._parts[path] = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def _free(self, descriptor: int) -> None:
        try:
            for size in range(os.fstat(descriptor).st_size, 0, -PIECE_BYTES):
                os.ftruncate(descriptor, max(0, size - PIECE_BYTES))
                if self._closing.wait(PAUSE_SECONDS):
                    return
        finally:
            os.close(descriptor)
