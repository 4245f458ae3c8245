"""The roles of one process: which listeners and workers it runs, on the sockets that it inherits."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import structlog
import uvicorn

from gateway import logs, metrics
from gateway.config import Config, ConfigError
from gateway.config import Server as ServerSettings
from gateway.listener.server import ListenerLimits, build_gate, configure
from gateway.runtime.control_plane import control_plane
from gateway.runtime.data_plane import data_plane, reload
from gateway.runtime.draining import Drain
from gateway.runtime.health.readiness import Readiness
from gateway.runtime.portal import portal_forwarding, portal_pages
from gateway.runtime.process import Server, raise_descriptor_limit, serve
from gateway.runtime.public_listener import PublicListener, account_api
from gateway.runtime.serving import Role
from gateway.workers.runner import Runner

# nginx's keepalive_timeout: uvicorn's own 5 s would close idle connections under a client that is about to use them.
KEEP_ALIVE_SECONDS = 75
_log = structlog.get_logger()


class Wiring(NamedTuple):
    """What a process inherits: the line to its supervisor and the sockets of its roles, both as descriptors, and where
    the portal and the public listeners of its group are."""

    line: int | None
    listen: Sequence[int]
    portal: str | None = None
    public_url: str = ""


async def run_child(
    config: Config, roles: Sequence[Role], wiring: Wiring, *, reload_config: Callable[[], Config]
) -> None:
    """Opens the roles on the inherited sockets, serves until a signal, closes them."""
    logs.configure(role="-".join(roles), level=config.log.level_number, form=config.log.format)
    metrics.BUILD_INFO.labels(version("metering-gateway")).set(1)
    raise_descriptor_limit()
    readiness = Readiness()
    sockets = [socket.socket(fileno=fd) for fd in wiring.listen]
    servers: list[tuple[Server, list[socket.socket]]] = []
    routes = {route.name: route for route in config.routes}
    targets = _targets(config)
    applied: list[Callable[[Config], None]] = [
        lambda read: _replace(routes, {route.name: route for route in read.routes}),
        lambda read: _replace(targets, _targets(read)),
        lambda read: logs.change(level=read.log.level_number, form=read.log.format),
    ]
    async with AsyncExitStack() as stack:
        if Role.PROXY in roles:
            if config.server.worker_cores:  # which the supervisor, and so this process, was kept off
                os.sched_setaffinity(0, config.server.worker_cores)
            handler = await stack.enter_async_context(data_plane(config, readiness))
            account = await stack.enter_async_context(account_api(config, routes))
            forwarder = await stack.enter_async_context(portal_forwarding(config, wiring.portal))
            server = config.server
            public = PublicListener(
                handler, account, cors=server.cors, trusted_proxies=server.trusted_proxies, portal=forwarder
            )
            servers.append((public_server(public, config), [sockets.pop(0)]))
            applied += [partial(reload, handler), lambda read: public.allow(read.server.cors)]
        if Role.ADMIN in roles:
            admin = await stack.enter_async_context(
                control_plane(config, readiness, routes, targets=targets, public_url=wiring.public_url or None)
            )
            servers.append((_server(admin, config), [sockets.pop(0)]))
        if Role.WORKER in roles:
            from gateway.runtime.background import background  # 7 MiB that a public worker does not need

            await stack.enter_async_context(background(config, readiness))
        if Role.PORTAL in roles:
            pages = await stack.enter_async_context(portal_pages(config, routes, public_url=wiring.public_url))
            servers.append((_server(pages, config), [sockets.pop(0)]))
        if Role.UPSTREAM in roles:
            from gateway.demo.app import build as build_demo_upstream

            servers.append((_server(build_demo_upstream(), config), [sockets.pop(0)]))
        await readiness.run_once()
        await stack.enter_async_context(Runner(readiness, metrics.MetricsFlusher()))
        tune_garbage_collection()
        on_reload = partial(_reload, reload_config, applied)
        await serve(servers, line=wiring.line, missing=lambda: readiness.missing, reload=on_reload)


def _reload(reload_config: Callable[[], Config], applied: Sequence[Callable[[Config], None]]) -> None:
    try:
        config = reload_config()
    except ConfigError as error:  # the file has changed since the supervisor read it
        _log.error("configuration_refused", problems=str(error))
        return
    for apply in applied:
        apply(config)
    _log.info("configuration_reloaded", routes=len(config.routes), upstreams=len(config.upstreams))


def _targets(config: Config) -> dict[str, Sequence[str]]:
    """The origins of each upstream."""
    return {upstream.name: upstream.targets for upstream in config.upstreams}


def _replace(known: dict[str, Any], read: Mapping[str, Any]) -> None:
    known.clear()
    known.update(read)


def tune_garbage_collection() -> None:
    """Collects cycles rarely: reference counts free the objects of a request, and cycles are rare.

    Objects of start-up are never collected. With Python's own thresholds (a collection every 700 objects, a full one
    every 70,000) forwarding cost 5 to 8 µs of CPU more per request (`benchmarks/forwarding_cost.py`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


def public_server(app: Any, config: Config) -> Server:
    gate = build_gate(client_limits(config.server), trusted_proxies=config.server.trusted_proxies)
    return Server(configure(app, gate), Drain(gate, timeout_seconds=config.server.drain_timeout_seconds))


def client_limits(server: ServerSettings) -> ListenerLimits:
    """What the settings allow a client of the public listener."""
    return ListenerLimits(
        max_header_bytes=server.max_header_bytes,
        header_timeout_seconds=server.header_timeout_seconds,
        body_idle_timeout_seconds=server.body_idle_timeout_seconds,
        body_min_rate=server.body_min_rate,
        max_connections_per_address=server.max_connections_per_address or None,
    )


def _server(app: Any, config: Config) -> Server:
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            proxy_headers=False,  # uvicorn would believe X-Forwarded-For of anyone on this machine
            timeout_graceful_shutdown=max(1, round(config.server.drain_timeout_seconds)),
        )
    )
