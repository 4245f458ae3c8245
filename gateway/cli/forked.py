"""What prepares the stores, in a process of its own: a supervisor that did it would hold what it imports for ever.

The process is a fork that is made before there is a loop, a thread or a lock, so neither Python starts once more nor is
anything imported twice. It imports its own part while the stores start, and fails as a command does, with one line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import typer

from gateway.runtime.stores import StoreUrls
from gateway.runtime.supervisor import ChildFailed

Work = Callable[[StoreUrls], Coroutine[Any, Any, None]]


class ForkedWork:
    """The work of a process that waits for the stores."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self._pid = pid
        self._line = line
        self._code: int | None = None

    async def run(self, stores: StoreUrls) -> None:
        """Returns once the work is done. Raises typer.Exit once the process has said why it failed, or ChildFailed."""
        reader, writer = await asyncio.open_connection(sock=self._line)
        writer.write(json.dumps(asdict(stores)).encode() + b"\n")
        with suppress(ConnectionError):
            await reader.read()  # until it ends
        writer.close()
        if (code := self.wait()) > 0:
            raise typer.Exit(code)
        if code < 0:
            raise ChildFailed(f"the process that prepares the stores was ended by {signal.Signals(-code).name}")

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code


@contextmanager
def forked(load: Callable[[], Work]) -> Iterator[ForkedWork]:
    """A process that loads the work at once, and waits for the stores until the block ends. It ends with this one."""
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        ours.close()
        _work(load, theirs)
        sys.stderr.flush()
        os._exit(0)  # without a clean-up of all that its parent holds
    theirs.close()
    work = ForkedWork(pid, ours)
    try:
        yield work
    finally:
        ours.close()
        work.wait()


def _work(load: Callable[[], Work], line: socket.socket) -> None:
    gc.disable()  # a collection would copy the pages that it shares with its parent, and the process ends soon
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that of a terminal reaches its parent too, with which it ends
    work = load()
    with line.makefile("rb") as stores:
        if given := stores.readline():
            asyncio.run(_while_not_alone(work(StoreUrls(**json.loads(given))), line))


async def _while_not_alone(work: Coroutine[Any, Any, None], line: socket.socket) -> None:
    asyncio.get_running_loop().add_reader(line, os._exit, 1)  # nothing comes but its end
    await work
