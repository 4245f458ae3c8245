"""What is measured, whoever made it: where it listens, whose CPU counts, and how a call of each kind gets in."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import Family


class PeerUnavailableError(Exception):
    """This machine cannot run a contender; says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A running gateway. `processes` are its own, `behind` those it cannot work without, by name.

    `keys` maps what becomes of a call (`ok`, `unknown`, `limited`, `broke`) to the API key that brings it about; a
    contender that knows no keys has none. `fields` go with every call. `cases` are the names of those it takes part in.
    `log` is an access log of JSON lines, if there is one, that says how calls ended.
    """

    name: str
    url: str
    processes: Family
    cases: frozenset[str]
    behind: Mapping[str, Family] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    def endings(self) -> dict[tuple[int, str], int]:
        """How often its calls ended with which status and code, as far as its log says."""
        found: Counter[tuple[int, str]] = Counter()
        for line in self.log.open() if self.log is not None else ():
            if line.startswith('{"event":"request"'):
                entry = json.loads(line)
                found[entry["status"], entry["code"]] += 1
        return dict(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from when it listens on `port` until the block ends. Raises PeerUnavailableError."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)  # type: ignore[call-overload] # cwd, env
        try:
            _wait_for(port, process, log)
            yield process
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path, *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise PeerUnavailableError(f"it did not listen on port {port}: {log.read_text(errors='replace')[-500:]}")
