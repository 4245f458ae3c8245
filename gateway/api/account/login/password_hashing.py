"""Password hashing in a thread: one at a time at low priority, so that calls on this process stay fast.

Addresses take turns, and while many hashes are queued, the address that has queued the most is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from gateway.api.errors import Busy
from policies.access.passwords import normalised
from policies.access.throttling import neighbourhood

# OWASP's minimum for argon2id: 19 MiB, two passes. More memory would multiply with the processes that serve.
_HASH = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))
# Verified in place of a missing hash, so that an unknown address takes as long as a known one. It has the same
# parameters, and is of random bytes.
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$54Ln18JlZ4HMouCD7c2teA$7Vxt1NTTP9WvJpmDEGH9QEmOHIqVqVh7XiqBy4kcfYc"
MAX_WAITING = 32
# Calls go first where both need the same core.
_NICENESS = 5

T = TypeVar("T")


class _Job:
    """A hash to compute, and the future of its result."""

    __slots__ = ("result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class PasswordHasher:
    """One thread for any number of callers. Its methods raise Busy while too many wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_give_way)
        self._queues: dict[str, deque[_Job]] = {}  # by neighbourhood, in the order of their turns
        self._waiting = 0
        self._is_running = False

    async def hash(self, password: str, *, address: str) -> str:
        return await self._run(lambda: _HASH.hash(normalised(password)), address)

    async def verify(self, password: str, password_hash: str | None, *, address: str) -> tuple[bool, str | None]:
        """Whether the password is right, and a new hash where the old one is of weaker terms than today's."""
        checked = password_hash or _NOBODYS
        is_right, stronger = await self._run(lambda: _HASH.verify_and_update(normalised(password), checked), address)
        return is_right and password_hash is not None, stronger

    def close(self) -> None:
        """Cancels what waits."""
        for job in itertools.chain.from_iterable(self._queues.values()):
            job.result.cancel()
        self._queues.clear()
        self._thread.shutdown(cancel_futures=True)

    async def _run(self, work: Callable[[], T], address: str) -> T:
        share = neighbourhood(address)
        if self._waiting >= MAX_WAITING:
            self._make_room(share)
        job = _Job(work)
        self._queues.setdefault(share, deque()).append(job)
        self._waiting += 1
        self._start_next()
        # Shielded: the work of an impatient caller is done, and counted until it is.
        result: T = await asyncio.shield(job.result)
        return result

    def _make_room(self, share: str) -> None:
        """Refuses the last hash of the longest queue; raises Busy where that would not be fairer than the caller's."""
        longest = max(self._queues, key=lambda each: len(self._queues[each]), default=share)
        if len(self._queues.get(longest, ())) <= len(self._queues.get(share, ())) + 1:
            raise _busy()
        refused = self._queues[longest].pop().result
        self._waiting -= 1
        refused.set_exception(_busy())
        refused.exception()  # its caller may be cancelled

    def _start_next(self) -> None:
        if self._is_running or not self._queues:
            return
        share = next(iter(self._queues))
        queue = self._queues.pop(share)
        job = queue.popleft()
        if queue:
            self._queues[share] = queue  # behind the other addresses
        self._is_running = True
        done = asyncio.get_running_loop().run_in_executor(self._thread, job.work)
        done.add_done_callback(lambda done: self._finish(job, done))

    def _finish(self, job: _Job, done: asyncio.Future[Any]) -> None:
        self._is_running = False
        self._waiting -= 1
        if done.cancelled():
            job.result.cancel()
        elif (failure := done.exception()) is not None:
            job.result.set_exception(failure)
        else:
            job.result.set_result(done.result())
        self._start_next()


def _busy() -> Busy:
    return Busy("Too many passwords are being checked at the moment; try again shortly.")


def _give_way() -> None:
    """Lowers the priority of this thread. Linux has priorities by thread (sched(7)), other systems by process."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
