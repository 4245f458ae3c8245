"""One `serve` per data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.embedded.errors import DataDirBusyError, DataDirUnusableError
from gateway.embedded.locks import prepare_data_dir, serve_lock


def test_a_second_serve_is_refused_with_directory_and_pid(tmp_path: Path) -> None:
    refusal = rf"^{tmp_path} is already being served by process {os.getpid()}$"
    with serve_lock(tmp_path), pytest.raises(DataDirBusyError, match=refusal), serve_lock(tmp_path):
        pass


def test_serving_again_works_after_the_first_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with serve_lock(tmp_path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_access_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataDirUnusableError, match="not writable"):
        prepare_data_dir(tmp_path)
