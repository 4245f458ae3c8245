"""Folders of metrics go with their supervisor, however it ended."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gateway.runtime.health.metrics_folder import metrics_folder

KILLED = """
import os, signal
from gateway.runtime.health.metrics_folder import metrics_folder
with metrics_folder():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert tempfile.gettempdir() == str(tmp_path)
    return tmp_path


def test_folder_of_a_killed_supervisor_is_removed_by_the_next(temporary: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = temporary.iterdir()

    with metrics_folder() as folder:
        assert not left.exists()
        assert Path(folder).exists()
    assert list(temporary.iterdir()) == []


def test_folder_of_a_living_supervisor_and_one_without_its_lock_stay(temporary: Path) -> None:
    strange = temporary / "gateway-metrics-strange"
    strange.mkdir()
    with metrics_folder() as first, metrics_folder():
        assert Path(first).exists()
        assert strange.exists()
