"""Starts processes of the gateway quickly, for tests that kill hundreds of them.

Importing the gateway takes two seconds of CPU, so one process does it once and forks. A child runs what `gateway proxy`
or `gateway worker` runs. When it dies another is forked at once on the same listening socket, as the supervisor would
half a second later. Reads one line of JSON for each child to have, and writes one for each that it forked; ends with
its standard input.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from gateway.config import Config

IMPORTED = (
    "gateway.runtime.roles",
    "uvloop",
    "uvicorn",
    "httptools",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "asyncpg",
)
RETRY_SECONDS = 0.2  # where a store is away: the next one tries again


class ForkRequest(NamedTuple):
    """The request for a child; a successor reuses it."""

    wanted: dict[str, Any]
    listener: socket.socket | None

    @property
    def url(self) -> str | None:
        return None if self.listener is None else f"http://127.0.0.1:{self.listener.getsockname()[1]}"


def main() -> None:
    for name in IMPORTED:
        import_module(name)

    requests: dict[int, ForkRequest] = {}
    bell, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([sys.stdin, bell], [], [])
        if bell in ready:
            os.read(bell, 4096)
            for request in _dead(requests):
                _fork(request, requests)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                break
            wanted = json.loads(line)
            _fork(ForkRequest(wanted, _listen() if wanted["listens"] else None), requests)
    for pid in requests:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
    for pid in requests:
        os.waitpid(pid, 0)


def _dead(requests: dict[int, ForkRequest]) -> list[ForkRequest]:
    found = []
    while requests:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        found.append(requests.pop(pid))
    return found


def _fork(request: ForkRequest, requests: dict[int, ForkRequest]) -> None:
    pid = os.fork()
    if pid == 0:
        _become(request)
    requests[pid] = request
    sys.stdout.write(json.dumps({"name": request.wanted["name"], "pid": pid, "url": request.url}) + "\n")
    sys.stdout.flush()


def _become(request: ForkRequest) -> NoReturn:
    """Runs the child; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(request.wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.dup2(2, 1)
        os.environ.update(request.wanted["places"])
        _run(request)
        os._exit(0)
    finally:
        traceback.print_exc()
        time.sleep(RETRY_SECONDS)
        os._exit(1)


def _run(request: ForkRequest) -> None:
    import uvloop

    from gateway import logs
    from gateway.config import load
    from gateway.runtime.roles import tune_garbage_collection

    logs.configure(role=request.wanted["name"])
    config = load(Path(request.wanted["config"]), os.environ)
    tune_garbage_collection()
    uvloop.run(_proxy(config, request.listener) if request.listener is not None else _worker(config))


async def _proxy(config: Config, listener: socket.socket) -> None:
    """The data plane alone: nobody calls the account API here, and it takes half a second to build."""
    from gateway.runtime.data_plane import data_plane
    from gateway.runtime.process import serve
    from gateway.runtime.roles import public_server

    async with data_plane(config) as handler:
        await serve([(public_server(handler, config), [listener])], line=None, missing=dict)


async def _worker(config: Config) -> None:
    from gateway.runtime.background import background
    from gateway.runtime.process import serve

    async with background(config):
        await serve([], line=None, missing=dict)


def _listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    main()
