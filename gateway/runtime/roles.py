"""One process of the gateway: the roles it was given, served until it is told to stop."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvicorn

from gateway import logs
from gateway.config import Config
from gateway.listener.server import ListenerLimits, configure
from gateway.runtime.control_plane import control_plane
from gateway.runtime.data_plane import data_plane, reload
from gateway.runtime.process import Server, serve
from gateway.runtime.public_listener import Public, account_api
from gateway.runtime.serving import Role
from policies.model import Route

# nginx's keepalive_timeout: uvicorn's own 5 s would close idle connections under a client that is about to use them.
KEEP_ALIVE_SECONDS = 75


async def run_child(
    config: Config, roles: Sequence[Role], *, line: int | None, listen: Sequence[int], read_again: Callable[[], Config]
) -> None:
    """One process: opens its roles on the inherited sockets, serves until told to stop, closes them."""
    logs.configure(role="-".join(roles))
    sockets = [socket.socket(fileno=fd) for fd in listen]
    servers: list[tuple[Server, list[socket.socket]]] = []
    on_reload: Callable[[], None] | None = None
    async with AsyncExitStack() as stack:
        if Role.PROXY in roles:
            handler = await stack.enter_async_context(data_plane(config))
            routes = {route.name: route for route in config.routes}
            account = await stack.enter_async_context(account_api(config, routes))
            public = Public(handler, account, trusted_proxies=config.server.trusted_proxies)
            servers.append((public_server(public, config), [sockets.pop(0)]))

            def on_reload() -> None:
                reload(handler, lambda: _noted(read_again(), routes))

        if Role.ADMIN in roles:
            admin = await stack.enter_async_context(control_plane(config))
            servers.append((_server(admin, config), [sockets.pop(0)]))
        if Role.WORKER in roles:
            from gateway.runtime.background import background  # 7 MiB that a public worker need not hold

            await stack.enter_async_context(background(config))
        if Role.UPSTREAM in roles:
            from gateway.demo.app import build as build_demo_upstream

            servers.append((_server(build_demo_upstream(), config), [sockets.pop(0)]))
        tune_garbage_collection()
        await serve(servers, line=line, reload=on_reload)


def _noted(config: Config, routes: dict[str, Route]) -> Config:
    """The same; the account API quotes by its routes from now on."""
    routes.clear()
    routes.update((route.name, route) for route in config.routes)
    return config


def tune_garbage_collection() -> None:
    """Reference counts free what a request made; cycles are rare, so looking for them can wait.

    What start-up made stays for good and is looked at no more. With Python's own thresholds, a look every 700 objects
    and a full one every 70,000, forwarding cost 5 to 8 µs of CPU more per request (`benchmarks/forwarding_cost.py`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def public_server(app: Any, config: Config) -> Server:
    server = config.server
    limits = ListenerLimits(
        max_header_bytes=server.max_header_bytes,
        header_timeout_seconds=server.header_timeout_seconds,
        body_idle_timeout_seconds=server.body_idle_timeout_seconds,
    )
    return Server(configure(app, limits, drain_timeout_seconds=server.drain_timeout_seconds))


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
