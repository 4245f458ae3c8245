"""The health listener of a role: what probes and scrapers of its processes ask, answered by their supervisor.

A frozen process cannot say so itself, and a worker has no other listener.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway import metrics
from gateway.config.quantities import Address
from gateway.config.server import DEFAULT_HEALTH
from gateway.http.known_hosts import KnownHosts
from gateway.runtime.health.group import GroupHealth
from gateway.runtime.health.metrics_folder import exposition_of_group
from gateway.runtime.process import Server
from gateway.runtime.sockets import AddressUnusable, bind

# Probes and scrapers are few. More at once are a mistake, and must not use up the supervisor.
MAX_CONNECTIONS = 100
_log = structlog.get_logger()


def bind_health(address: Address) -> socket.socket:
    """The socket of the health listener. Raises AddressUnusable for an address that was chosen and is in use."""
    try:
        (bound,) = bind("server.health", address.host, address.port)
    except AddressUnusable as taken:
        if address != DEFAULT_HEALTH:
            raise
        (bound,) = bind("server.health", address.host, 0)
        host, port = bound.getsockname()[:2]
        _log.warning("health_listener_moved", reason=str(taken), address=str(Address(host, port)))
    return bound


@asynccontextmanager
async def serving_health(
    listening: socket.socket, health: GroupHealth, metrics_dir: str, *, hosts: KnownHosts
) -> AsyncIterator[None]:
    """Answers on the socket until the end of the block."""
    server = Server(
        uvicorn.Config(
            build_app(health, metrics_dir, hosts=hosts),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listening]))
    await server.is_listening.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await running


def build_app(health: GroupHealth, metrics_dir: str, *, hosts: KnownHosts) -> Starlette:
    """Probes are answered whatever host they name: they tell nothing of the business, and some go by a name."""
    said: dict[str, str] = {}

    async def livez(_: Request) -> Response:
        if frozen := health.frozen():
            return JSONResponse({"status": "failed", "frozen": frozen}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        nonlocal said
        missing = health.missing()
        if missing.keys() != said.keys():  # the reasons hold addresses, which are for the log alone
            _log.warning("not_ready", missing=missing) if missing else _log.info("ready")
        said = missing
        if missing:
            return JSONResponse({"status": "not_ready", "missing": sorted(missing)}, 503)
        return JSONResponse({"status": "ready", "missing": []})

    def exposition(request: Request) -> Response:  # not async: it reads files, so it runs in a thread
        if hosts.first_unknown(request.headers.getlist("host")) is not None:
            return PlainTextResponse("unknown host: list it in server.admin_hosts\n", 400)
        for each in health.processes:
            metrics.PROCESS_READY.labels(each.name).set(not health.is_draining and not each.now_missing())
        return Response(exposition_of_group(metrics_dir), media_type=metrics.CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/healthz", livez),
            Route("/readyz", readyz),
            Route("/metrics", exposition),
        ]
    )
