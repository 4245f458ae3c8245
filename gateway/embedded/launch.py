"""The last step before a server's exec: locks its file, drops root, and asks to be stopped when the gateway dies.

Runs as a bare script, `python launch.py LOCK PARENT_PID DEATH_SIGNAL UID GID COMMAND...`, on the standard
library alone. A script of its own, because little is safe between fork and exec in a process with threads.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
from contextlib import suppress

# linux/prctl.h, linux/capability.h, linux/securebits.h
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_DAC_READ_SEARCH = 1 << _CAP_DAC_READ_SEARCH
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    lock, parent, death_signal, uid, gid, *command = arguments
    _acquire(lock)
    if int(uid) != os.geteuid():
        _drop_root(int(uid), int(gid), program=command[0])
    # After the change of user, which clears it.
    _stop_with_parent(int(parent), int(death_signal))
    os.execv(command[0], command)  # noqa: S606 - replacing this process is its purpose


def _acquire(path: str) -> None:
    """Locks `path` on a descriptor that the server and its children inherit, so that each of them holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another server still runs here ({path} is locked)")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    os.set_inheritable(descriptor, True)


def _drop_root(uid: int, gid: int, *, program: str) -> None:
    """Becomes `uid`, since PostgreSQL refuses root, without any capability.

    Where working directory or program lie below a directory that only root may enter, CAP_DAC_READ_SEARCH is kept.
    """
    linux = sys.platform == "linux"
    try:
        if linux:
            _prctl(_PR_SET_KEEPCAPS, 1)
            _keep_access_check()
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        if linux:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            _set_capabilities(effective=0, permitted=_DAC_READ_SEARCH)
            folder = os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than all else here
            if os.access(folder, os.R_OK | os.X_OK) and os.access(program, os.R_OK | os.X_OK):
                _set_capabilities(effective=0, permitted=0)
            else:
                _keep_file_access()
    except OSError as error:
        sys.exit(
            f"the embedded stores cannot change from root to user {uid} ({error}); start the gateway as a normal user"
        )


def _keep_access_check() -> None:
    """Makes access(2) count the kept capability: initdb looks for its server by it, also where only root may enter.

    A container may forbid it; then only such folders fail.
    """
    with suppress(OSError):
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)


def _keep_file_access() -> None:
    """Makes CAP_DAC_READ_SEARCH survive exec (capabilities(7), ambient set)."""
    _set_capabilities(effective=_DAC_READ_SEARCH, permitted=_DAC_READ_SEARCH)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH)


def _set_capabilities(*, effective: int, permitted: int) -> None:
    """Sets these and no others; what is permitted is inheritable."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(effective, permitted, permitted, 0, 0, 0)
    _check(ctypes.CDLL(None, use_errno=True).capset(header, effective_permitted_inheritable))


def _stop_with_parent(parent: int, death_signal: int) -> None:
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, death_signal)
    # The parent may have died before that took effect.
    if os.getppid() != parent:
        sys.exit("the gateway has ended")


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _check(ctypes.CDLL(None, use_errno=True).prctl(option, *padded))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
