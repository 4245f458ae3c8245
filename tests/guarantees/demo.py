"""`gateway demo` as its users start it, in a process group of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Running:
    """A running demo and what it printed about itself."""

    process: subprocess.Popen[str]
    data_dir: Path
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
        printed: dict[str, Any] = json.loads(announced.readline() or "{}")
    assert printed, (data_dir.parent / "demo.log").read_text()
    printed.pop("upstream_url")
    return Running(process=process, data_dir=data_dir, **printed)


def stop(running: Running) -> int:
    """Terminates it and returns its exit code."""
    running.process.send_signal(signal.SIGTERM)
    return running.process.wait(START_SECONDS)
