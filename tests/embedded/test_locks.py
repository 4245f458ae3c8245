"""One `serve` per data directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded.errors import DataDirBusyError, DataDirUnusableError
from gateway.embedded.locks import FileLock, prepare_data_dir, serve_lock


def test_serve_lock_refuses_a_second_process_by_name(tmp_path: Path) -> None:
    refusal = rf"^{tmp_path} is already being served by process {os.getpid()}$"
    with serve_lock(tmp_path), pytest.raises(DataDirBusyError, match=refusal), serve_lock(tmp_path):
        pass


def test_serve_lock_is_free_after_its_process(tmp_path: Path) -> None:
    for _ in range(2):
        with serve_lock(tmp_path):
            pass


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere, so while the test runs this process is somebody else."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("ordinary_user")
def test_data_dir_without_write_access_is_refused() -> None:
    with pytest.raises(DataDirUnusableError, match="not writable"):
        prepare_data_dir(Path("/"))
    with pytest.raises(DataDirUnusableError, match=r"Permission denied"):
        prepare_data_dir(Path("/gateway"))


def test_shared_lock_admits_guests_but_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = FileLock.acquire_shared(path), FileLock.acquire_shared(path)
    assert first is not None
    assert second is not None
    first.release()
    assert FileLock.acquire(path) is None
    second.release()
    alone = FileLock.acquire(path)
    assert alone is not None
    assert FileLock.acquire_shared(path) is None
    alone.release()
