"""The product as its users start it: real processes, real clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway in a process group of its own, and what it said of itself."""

    process: subprocess.Popen[str]
    public_url: str
    admin_url: str
    admin_token: str
    database_url: str
    redis_url: str
    api_key: str
    user_id: str

    @property
    def admin_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_token}"}


def start_demo(data_dir: Path, **environment: str) -> Running:
    """`gateway demo` on free ports."""
    command = [sys.executable, "-m", "gateway", "demo", "--port", "0", "--admin-port", "0", "--json"]
    with (data_dir.parent / "demo.log").open("a") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    assert process.stdout is not None
    with process.stdout as announced:
        said: dict[str, Any] = json.loads(announced.readline() or "{}")
    assert said, (data_dir.parent / "demo.log").read_text()
    said.pop("upstream_url")
    return Running(process=process, **said)


def stop(running: Running) -> int:
    """Asks it to stop, and gives its exit code."""
    running.process.send_signal(signal.SIGTERM)
    return running.process.wait(START_SECONDS)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One demo with two public workers for the tests that only call it."""
    running = start_demo(tmp_path_factory.mktemp("demo run") / "data", GATEWAY_SERVER__WORKERS="2")
    yield running
    assert stop(running) == 0
