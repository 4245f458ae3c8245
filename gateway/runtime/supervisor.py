"""The parent of the gateway's processes: starts them, waits until they are ready, restarts them, stops them.

Each child holds one end of a socket pair. It reports `ready` there, then twice a second what keeps it from serving, and
hears there that the gateway drains. When the parent dies, however it dies, the child reads the end of the stream and
stops: nothing outlives its supervisor.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import structlog

from gateway import metrics
from gateway.runtime.health.group import ProcessReport
from gateway.runtime.health.metrics_folder import forget_process

READY = b"ready\n"
DRAIN = b"drain\n"
# For a process that hangs: the end of one that starts is noticed at once. It is what systemd gives a service. Where ten
# processes share a core, one that needs three seconds of it takes half a minute.
START_TIMEOUT_SECONDS = 90.0
RESTART_SECONDS = 0.5  # between a child's death and its successor: a crash loop must not use up the machine
KILL_AFTER_SECONDS = 10.0  # beyond the drain timeout
_log = structlog.get_logger()


class ChildFailed(Exception):  # noqa: N818 - reads as the sentence it is
    """A process did not become ready; its log lines say why."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process: its name for the log, the arguments behind `python -m gateway`, the sockets it inherits.

    Children in a row of the same `stage` are stopped together. `withheld` are secrets that it does not use.
    """

    name: str
    arguments: Sequence[str]
    sockets: Sequence[socket.socket] = ()
    stage: str = ""
    serves_calls: bool = False
    withheld: Collection[str] = ()


class Supervisor:
    """Runs children until it is stopped. `before_start` prepares what each of them reads."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        metrics_dir: str,
        drain_timeout_seconds: float,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._environment = environment
        self._before_start = before_start
        self._metrics_dir = metrics_dir
        self._patience_seconds = drain_timeout_seconds + KILL_AFTER_SECONDS
        self._children: list[_Child] = []
        self._draining = self._stopping = False

    def reports(self) -> Sequence[ProcessReport]:
        """What each process has reported last."""
        return [child.report for child in self._children]

    async def start(self, specs: Sequence[ChildSpec]) -> None:
        """Starts the children and returns when all are ready; raises ChildFailed if one does not become so."""
        self._before_start()
        self._children += [_Child(spec, self._environment) for spec in specs]
        await asyncio.gather(*(child.start() for child in self._children))

    async def watch(self) -> None:
        """Restarts children that die, until cancelled."""
        await asyncio.gather(*(self._restart_forever(child) for child in self._children))

    def reload(self) -> None:
        for child in self._children:
            child.reload()

    def announce_drain(self) -> None:
        """Tells the children that they will be stopped: their clients should move on."""
        self._draining = True
        for child in self._children:
            child.announce_drain()

    async def stop(self) -> None:
        """Stops the children, stage by stage in the order of their start: listeners before workers.

        All listeners stop at once: one that waited its turn would go on accepting connections, and drains would add up.
        """
        self._stopping = True
        for _, stage in groupby(self._children, key=lambda child: child.stage):
            await asyncio.gather(*(child.stop(self._patience_seconds) for child in stage))

    async def _restart_forever(self, child: _Child) -> None:
        restarts = metrics.PROCESS_RESTARTS.labels(child.name)  # shown before the first, so that it is an increase
        while True:
            code = await child.wait()
            forget_process(child.pid, self._metrics_dir)
            if self._stopping:
                return
            restarts.inc()
            _log.error("process_restarted", process=child.name, exit_code=code)
            await asyncio.sleep(RESTART_SECONDS)
            if self._stopping:
                return
            try:
                self._before_start()
                await child.start()
                if self._draining:
                    child.announce_drain()
            except (ChildFailed, OSError) as failure:  # OSError: the machine has no room for a process, or on its disk
                _log.error("process_restart_failed", process=child.name, reason=str(failure))


@contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """A process that starts meanwhile has the signals blocked: SIGINT for good, SIGHUP until it can reload.

    A terminal sends SIGINT to all processes of the gateway; the supervisor alone is to act on it, since it stops the
    others in order.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


class _Child:
    def __init__(self, spec: ChildSpec, environment: Mapping[str, str]) -> None:
        self.name = spec.name
        self.stage = spec.stage
        self._spec = spec
        self._environment = {
            name: value for name, value in environment.items() if name.removesuffix("_FILE") not in spec.withheld
        }
        self._process: asyncio.subprocess.Process | None = None
        self._line: asyncio.StreamWriter | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._reloads_once_ready = False
        self.report = ProcessReport(spec.name, serves_calls=spec.serves_calls)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        self._hang_up()
        ours, theirs = socket.socketpair()
        sockets = [each.fileno() for each in self._spec.sockets]
        arguments = [*self._spec.arguments, "--line", str(theirs.fileno())]
        arguments += [part for fd in sockets for part in ("--listen", str(fd))]
        with _blocked(signal.SIGINT, signal.SIGHUP):
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                *arguments,
                env=self._environment,
                pass_fds=[theirs.fileno(), *sockets],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
            )
        theirs.close()
        reader, self._line = await asyncio.open_connection(sock=ours)
        await self._become_ready(reader)
        self._hearing = asyncio.create_task(self._hear(reader))
        if self._reloads_once_ready:
            self.reload()

    def reload(self) -> None:
        """A process that starts has no handler yet and may have read the file: it reloads once it is ready."""
        self._reloads_once_ready = self._hearing is None
        if not self._reloads_once_ready:
            self.signal(signal.SIGHUP)

    async def wait(self) -> int:
        code = await self._process.wait() if self._process is not None else 0
        self.report.end()
        return code

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def announce_drain(self) -> None:
        if self._line is not None:
            self._line.write(DRAIN)

    async def stop(self, patience_seconds: float) -> None:
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), patience_seconds)
        except TimeoutError:
            _log.error("process_killed", process=self.name)
            self.signal(signal.SIGKILL)
            await self.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
        if self._line is not None:
            self._line.close()
        self._line = self._hearing = None

    async def _hear(self, line: asyncio.StreamReader) -> None:
        while (said := await line.readline()).endswith(b"\n"):
            self.report.hear(json.loads(said))

    async def _become_ready(self, line: asyncio.StreamReader) -> None:
        try:
            message = await asyncio.wait_for(line.readline(), START_TIMEOUT_SECONDS)
        except TimeoutError:
            self.signal(signal.SIGKILL)  # nobody would hear that it is ready, and it could not be restarted
            raise ChildFailed(f"{self.name} was not ready within {START_TIMEOUT_SECONDS:.0f} s") from None
        except ConnectionError:  # it has ended, and has not read that the gateway drains
            message = b""
        if message != READY:
            raise ChildFailed(f"{self.name} stopped while starting")
