"""Password hashing in a thread: one at a time at low priority, so that calls on this process stay fast.

While many hashes are queued, further ones are refused at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from gateway.api.errors import Busy
from policies.access.passwords import normalised

# OWASP's minimum for argon2id: 19 MiB, two passes. More memory would multiply with the processes that serve.
_HASH = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))
# Verified in place of a missing hash, so that an unknown address takes as long as a known one. It has the same
# parameters, and is of random bytes.
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$54Ln18JlZ4HMouCD7c2teA$7Vxt1NTTP9WvJpmDEGH9QEmOHIqVqVh7XiqBy4kcfYc"
MAX_WAITING = 32
# Calls go first where both need the same core.
_NICENESS = 5

T = TypeVar("T")


class PasswordHasher:
    """One thread for any number of callers. Its methods raise Busy while too many wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_give_way)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        return await self._run(lambda: _HASH.hash(normalised(password)))

    async def verify(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        """Whether the password is right, and a new hash where the old one is of weaker terms than today's."""
        checked = password_hash or _NOBODYS
        is_right, stronger = await self._run(lambda: _HASH.verify_and_update(normalised(password), checked))
        return is_right and password_hash is not None, stronger

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Busy("Too many passwords are being checked at the moment; try again shortly.")
        self._waiting += 1
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        # Counted until it is done, even if its caller is cancelled.
        done.add_done_callback(self._count_down)
        return await asyncio.shield(done)

    def _count_down(self, done: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not done.cancelled():
            done.exception()  # its caller may be cancelled


def _give_way() -> None:
    """Lowers the priority of this thread. Linux has priorities by thread (sched(7)), other systems by process."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
