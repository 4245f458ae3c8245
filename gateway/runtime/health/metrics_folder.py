"""The folder in which the processes of one supervisor share their metrics, and find the configuration that it accepted.

A supervisor that was killed leaves its folder behind, so the next one removes it. Each holds a lock in its own, which
ends with the process however it dies.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

PREFIX = "gateway-metrics-"
_LOCK = "supervisor.lock"
_OWN = ["gateway_process_ready", "gateway_process_restarts_total", "gateway_config_reloads_total"]


@contextmanager
def metrics_folder() -> Iterator[str]:
    """A new folder, removed at the end of the block; before that, those of supervisors that are dead are removed."""
    for left in Path(gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it lives, is another user's, or is being removed by another process
            _remove_unlocked(left)
    with TemporaryDirectory(prefix=PREFIX) as folder:
        unseen = Path(folder, f"{_LOCK}.new")  # nobody may find the lock before it is held
        with unseen.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unseen.rename(Path(folder, _LOCK))
            yield folder


def _remove_unlocked(folder: Path) -> None:
    with (folder / _LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


def exposition_of_group(directory: str) -> bytes:
    """All series of the processes that share the directory, together, and the supervisor's own of them."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call] # prometheus_client leaves it bare
    own = REGISTRY.restricted_registry(_OWN)
    return generate_latest(registry) + generate_latest(own)


def forget_process(pid: int, directory: str) -> None:
    """Removes what only a living process shows, once it is dead; what it has counted stays."""
    mark_process_dead(pid, directory)  # type: ignore[no-untyped-call] # as above
