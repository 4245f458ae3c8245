"""What the numbers were measured on, and what of a process they count."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """The machine in one line."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"


def allow_many_files() -> None:
    """As many open files as the system lets this process and its children have: connections are files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def need(program: str, package: str) -> str | None:
    """The program's path; installed from Debian where that is possible, else None."""
    if shutil.which(program) is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", package], capture_output=True, check=False)
    return shutil.which(program)


@dataclass(frozen=True, slots=True)
class Family:
    """A process and its descendants."""

    pids: frozenset[int]

    @classmethod
    def of(cls, pid: int) -> Family:
        children = _children()
        found, queue = set[int](), [pid]
        while queue:
            each = queue.pop()
            found.add(each)
            queue += children.get(each, [])
        return cls(frozenset(found))

    def cpu_seconds(self) -> float:
        """User and system time so far, of those that still live."""
        return sum(map(_cpu_seconds, self.pids))

    def waited_seconds(self) -> float:
        """How long those that still live were ready to run and had no core."""
        return sum(int(_lines(f"/proc/{pid}/schedstat")[0].split()[1]) for pid in self.pids) / 1e9

    def resident_bytes(self) -> int:
        """Memory of those that still live, in bytes; a page that several share is split between them (PSS)."""
        return sum(map(_resident_bytes, self.pids))


def pids_running(family: Family, *words: str) -> Family:
    """Those of the family whose command line holds all words."""
    matching = frozenset(pid for pid in family.pids if all(word in _command(pid) for word in words))
    return Family(matching)


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat(path)
        if fields:
            found.setdefault(int(fields[1]), []).append(int(path.parent.name))
    return found


def _cpu_seconds(pid: int) -> float:
    fields = _stat(Path(f"/proc/{pid}/stat"))
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _resident_bytes(pid: int) -> int:
    try:
        lines = _lines(f"/proc/{pid}/smaps_rollup")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _stat(path: Path) -> list[str]:
    """The fields behind the command name, which may hold spaces."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
