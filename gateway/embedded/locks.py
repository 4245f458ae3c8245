"""Locks on a data directory: advisory file locks, which the kernel releases when their holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.embedded.errors import DataDirBusyError, DataDirUnusableError


@contextmanager
def serve_lock(data_dir: Path) -> Iterator[None]:
    """Locks `data_dir` for one `serve`.

    Raises DataDirBusyError, naming the directory and the pid, where another one serves from it.
    """
    path = prepare_data_dir(data_dir) / "serve.lock"
    lock = FileLock.acquire(path)
    if lock is None:
        raise DataDirBusyError(f"{data_dir} is already being served by process {lock_holder(path)}")
    try:
        yield
    finally:
        lock.release()


class FileLock:
    """A `flock(2)` on a file that holds its holder's pid; a shared one admits others of its kind and names none.

    It lasts until `release`, or until the last process that inherited the descriptor is gone.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> FileLock | None:
        """The lock, or None where another holds it."""
        descriptor = _locked(path, fcntl.LOCK_EX)
        if descriptor is None:
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return cls(descriptor)

    @classmethod
    def acquire_shared(cls, path: Path) -> FileLock | None:
        """The lock, shared with others, or None where one holds it alone."""
        descriptor = _locked(path, fcntl.LOCK_SH)
        return cls(descriptor) if descriptor is not None else None

    def release(self) -> None:
        os.close(self._descriptor)


def is_held(path: Path) -> bool:
    """Whether any process holds the lock. This acquires it for an instant, so only its next holder may call."""
    descriptor = _locked(path, fcntl.LOCK_EX)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def lock_holder(path: Path) -> int | None:
    """The pid that the present or last holder wrote; None in the instant before it is written."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def prepare_data_dir(data_dir: Path) -> Path:
    """Creates the directory if it is missing; gives its absolute path.

    Raises DataDirUnusableError where it is not a directory or cannot be written to.
    """
    path = data_dir.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataDirUnusableError(f"{path} cannot be the data directory: a file is in its place") from error
    except OSError as error:
        raise DataDirUnusableError(f"{path} cannot be the data directory: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise DataDirUnusableError(f"{path} cannot be the data directory: it is not writable by this user")
    return path


def _locked(path: Path, kind: int) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise DataDirUnusableError(f"{path} belongs to another user; run as that user") from error
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
