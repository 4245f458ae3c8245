"""Keeps a process to a share of one core, by a control group of the kernel's, so that nothing else runs short of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.contender import PeerUnavailableError

_PERIOD_US = 10_000
_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


@contextmanager
def share_of_a_core(pid: int, share: float) -> Iterator[None]:
    """Until the block ends. Raises PeerUnavailableError where control groups cannot be had: they need root."""
    root = _V1 if (_V1 / "cpu.cfs_quota_us").exists() else _V2
    group = root / f"gateway-benchmark-{os.getpid()}-{pid}"
    try:
        if root is _V2:
            (root / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
        quota_us = int(_PERIOD_US * share)
        if root is _V1:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise PeerUnavailableError(f"control groups cannot be had: {error}") from error
    try:
        yield
    finally:
        (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()
