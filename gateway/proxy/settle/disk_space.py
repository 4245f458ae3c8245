"""Reserves space on the disk for a file that will grow, without changing its length.

Linux does that by fallocate(2) with FALLOC_FL_KEEP_SIZE, on ext4, XFS, Btrfs and tmpfs among others. Python has only
posix_fallocate(3), which makes the file longer. Where the file system or the system cannot, nothing is reserved: the
file then grows as any other.
"""

from __future__ import annotations

import ctypes
import errno
import sys
from functools import cache
from typing import Any

import structlog

_KEEP_SIZE = 0x01  # FALLOC_FL_KEEP_SIZE (linux/falloc.h)
_log = structlog.get_logger()


def reserve_space(descriptor: int, offset: int, length: int) -> bool:
    """Whether `length` bytes from `offset` on are reserved: no disk that is full refuses to write them."""
    fallocate = _fallocate()
    if fallocate is None:
        return False
    if fallocate(descriptor, _KEEP_SIZE, offset, length) == 0:
        return True
    if ctypes.get_errno() not in (errno.ENOSPC, errno.EDQUOT):
        _warn_once(ctypes.get_errno())
    return False


@cache
def _fallocate() -> Any:
    """None where the C library has no such function."""
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return found


@cache
def _warn_once(code: int) -> None:
    _log.warning("spool_space_not_reserved", reason=errno.errorcode.get(code, str(code)))
