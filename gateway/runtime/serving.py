"""The processes of the roles: their listeners, their supervisor, and the signals that reach them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import structlog

from gateway import logs, metrics
from gateway.config import Config, ConfigError, plans_to_apply, settings_for_restart
from gateway.config.loading import child_environment
from gateway.config.quantities import Address
from gateway.config.secrets import withheld_from
from gateway.http.known_hosts import KnownHosts
from gateway.runtime.health.group import GroupHealth
from gateway.runtime.health.listener import bind_health, serving_health
from gateway.runtime.health.metrics_folder import metrics_folder
from gateway.runtime.sockets import bind, url_of
from gateway.runtime.stores import StoreUrls
from gateway.runtime.supervisor import ChildSpec, Supervisor

_log = structlog.get_logger()


class Role(StrEnum):
    """What a process serves."""

    PROXY = "proxy"
    ADMIN = "admin"
    WORKER = "worker"
    PORTAL = "portal"
    UPSTREAM = "upstream"


class CoresUnusable(Exception):  # noqa: N818 - reads as the sentence it is
    """`server.worker_cores` cannot be kept here; the message says why."""


HEALTH = "health"
EVERYTHING = (Role.PROXY, Role.ADMIN, Role.WORKER)


@asynccontextmanager
async def serving(
    config: Config,
    roles: Sequence[Role],
    *,
    store_urls: StoreUrls,
    reload_config: Callable[[], Config],
    apply: Callable[[Config], Awaitable[None]],
    settings: Mapping[str, str] | None = None,
    upstream: socket.socket | None = None,
) -> AsyncIterator[dict[str, str]]:
    """Runs the processes of the roles and yields the URL of each listener once all are ready: by role, and `HEALTH`.

    Raises AddressUnusable or ChildFailed. At the end of the block the gateway stops being ready, and its responses
    close their connections; after `shutdown_delay` the processes drain, the listeners first. SIGHUP reloads the
    configuration: first `apply`, then the processes, and what needs a restart is logged. An invalid one is logged and
    the old one stays. `upstream` is the socket of the bundled upstream.
    """
    watching: asyncio.Task[None] | None = None
    async with AsyncExitStack() as stack:
        listeners = stack.enter_context(_listening(config, roles))
        portal = stack.enter_context(_portal_socket()) if Role.PROXY in roles and config.portal.enabled else None
        probed = stack.enter_context(bind_health(config.server.health))
        metrics_dir = stack.enter_context(metrics_folder())
        inherited = child_environment(
            config,
            database_url=store_urls.database_url,
            redis_url=store_urls.redis_url,
            health=str(Address(*probed.getsockname()[:2])),
            metrics_dir=metrics_dir,
            settings=settings,
        )
        drain_seconds = config.server.drain_timeout_seconds
        files = _ConfigFiles(Path(metrics_dir), config.text)
        supervisor = Supervisor(
            inherited, metrics_dir=metrics_dir, drain_timeout_seconds=drain_seconds, before_start=files.ensure
        )
        reloading = _Reloading(config, reload_config, apply, files=files, supervisor=supervisor)
        health = GroupHealth(supervisor.reports)
        hosts = KnownHosts((config.server.health.host, *config.server.admin_hosts))
        await stack.enter_async_context(serving_health(probed, health, metrics_dir, hosts=hosts))
        specs = _children(files.arguments, roles, listeners, portal)
        if upstream is not None:
            specs.append(_bundled_upstream(files.arguments, upstream))
        try:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloading.start)
            await supervisor.start(specs)
            watching = asyncio.create_task(supervisor.watch())
            yield {**{role: url_of(bound[0]) for role, bound in listeners.items()}, HEALTH: url_of(probed)}
            health.is_draining = True
            supervisor.announce_drain()
            await asyncio.sleep(config.server.shutdown_delay_seconds)
        finally:
            health.is_draining = True
            _close(listeners)  # before the children drain: a socket that is open here would go on accepting connections
            await supervisor.stop()
            if watching is not None:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching


def keep_off(worker_cores: Collection[int]) -> None:
    """Keeps this process, and all that it starts, off the cores that are for calls. Raises CoresUnusable."""
    if not worker_cores:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise CoresUnusable("server.worker_cores: only Linux keeps processes to cores; leave it out")
    usable, wanted = os.sched_getaffinity(0), set(worker_cores)
    if not wanted < usable:
        raise CoresUnusable(
            f"server.worker_cores: this gateway may use the cores {_listed(usable)}; name some of them, and leave one "
            f"for the rest, got {_listed(wanted)}"
        )
    os.sched_setaffinity(0, usable - wanted)


def _listed(cores: Collection[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def catch_stop_signals() -> asyncio.Event:
    """What SIGTERM and SIGINT set from here on. One that comes while processes start stops them once they have."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextmanager
def _listening(config: Config, roles: Sequence[Role]) -> Iterator[dict[Role, list[socket.socket]]]:
    server = config.server
    bound: dict[Role, list[socket.socket]] = {}
    try:
        if Role.PROXY in roles:
            bound[Role.PROXY] = bind("server.public", server.public.host, server.public.port, count=server.workers)
        if Role.ADMIN in roles:
            bound[Role.ADMIN] = bind("server.admin", server.admin.host, server.admin.port)
        yield bound
    finally:
        _close(bound)


@contextmanager
def _portal_socket() -> Iterator[socket.socket]:
    """Where the portal answers the public listeners of this group: on the loopback, at any port."""
    with bind("the portal", "127.0.0.1", 0)[0] as listening:
        yield listening


def _close(bound: Mapping[Role, Sequence[socket.socket]]) -> None:
    for listening in (each for sockets in bound.values() for each in sockets):
        listening.close()


def _children(
    config: Sequence[str],
    roles: Sequence[Role],
    listeners: Mapping[Role, Sequence[socket.socket]],
    portal: socket.socket | None,
) -> list[ChildSpec]:
    """A process for each public worker; one for the admin listener and the workers, which share it where both run.

    The portal joins that one, or has its own where there is none.
    """
    where = tuple(config)
    if portal is not None:
        where += ("--portal", str(Address(*portal.getsockname())), "--public", url_of(listeners[Role.PROXY][0]))
    children = [
        ChildSpec(
            f"proxy-{number}",
            ("child", Role.PROXY, *where),
            (listening,),
            stage="listeners",
            serves_calls=True,
            withheld=withheld_from(Role.PROXY),
        )
        for number, listening in enumerate(listeners.get(Role.PROXY, ()))
    ]
    control = [role for role in (Role.ADMIN, Role.WORKER) if role in roles]
    if control or portal is not None:
        sockets = (*listeners.get(Role.ADMIN, ()), *(() if portal is None else (portal,)))
        served = control if portal is None else [*control, Role.PORTAL]
        arguments, withheld = ("child", *served, *where), withheld_from(*served)
        children.append(ChildSpec("-".join(control or served), arguments, sockets, stage="control", withheld=withheld))
    return children


def _bundled_upstream(config: Sequence[str], listening: socket.socket) -> ChildSpec:
    arguments, withheld = ("child", Role.UPSTREAM, *config), withheld_from(Role.UPSTREAM)
    return ChildSpec("upstream", arguments, (listening,), stage="upstream", withheld=withheld)


class _ConfigFiles:
    """What processes read whenever they start or reload: the configuration of the start, and the one accepted last.

    The operator's file may have changed since, and may be invalid. `folder` is of this gateway alone.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self._accepted, self._started = folder / "gateway.yaml", folder / "started.yaml"
        self._texts = {self._accepted: text, self._started: text}
        self.arguments = ("--config", str(self._accepted), "--started", str(self._started))

    def ensure(self) -> None:
        """Writes those that are not there: machines clear folders for temporary files. Raises OSError."""
        for path, text in self._texts.items():
            if not path.exists():
                _replace(path, text)

    def accept(self, text: str) -> None:
        """Raises OSError; then all stays as it is."""
        _replace(self._accepted, text)
        self._texts[self._accepted] = text


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text, "utf-8")
    draft.replace(path)


class _Reloading:
    """Reloads the configuration for a signal, one signal after the other."""

    def __init__(
        self,
        running: Config,
        read: Callable[[], Config],
        apply: Callable[[Config], Awaitable[None]],
        *,
        files: _ConfigFiles,
        supervisor: Supervisor,
    ) -> None:
        self._running = running
        self._read = read
        self._apply = apply
        self._files = files
        self._supervisor = supervisor
        self._lock = asyncio.Lock()
        for result in ("applied", "refused"):
            metrics.CONFIG_RELOADS.labels(result)  # shown before the first, so that it is an increase
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        async with self._lock:
            try:
                config = self._read()
                self._files.accept(config.text)
            except (ConfigError, OSError) as error:
                metrics.CONFIG_RELOADS.labels("refused").inc()
                _log.error("configuration_refused", problems=str(error))
                return
            logs.change(level=config.log.level_number, form=config.log.format)
            await self._apply(config)
            self._supervisor.reload()
            metrics.CONFIG_RELOADS.labels("applied").inc()
            if later := settings_for_restart(self._running, config):
                _log.warning("restart_needed", settings=later)
            if plans := plans_to_apply(self._running, config):
                _log.warning("plans_not_applied", plans=plans, command="gateway plans apply")
