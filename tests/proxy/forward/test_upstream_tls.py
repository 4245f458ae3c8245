"""https targets of a private CA from the configuration: calls, WebSockets and probes trust it."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from gateway.config import Config
from gateway.proxy.router import Router
from gateway.runtime.upstreams import destinations
from gateway.workers.upstream_watch import UpstreamWatch
from tests.proxy.conftest import Configure
from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem
from tests.proxy.sockets import client, echo, server
from tests.support.polling import eventually
from tests.upstream.scripted import scripted
from tests.upstream.test_tls import Authority

MIB = 2**20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl binary to make certificates with")
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.create()
    return made


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    return authority.server_context("IP:127.0.0.1")


def serve_by(data_plane: DataPlane, config: Config) -> None:
    data_plane.handler.swap(Router(config.routes), destinations(config))


@asynccontextmanager
async def secure_sockets(
    data_plane: DataPlane, configure: Configure, authority: Authority, tls: ssl.SSLContext, handler: Any = echo
) -> AsyncIterator[None]:
    async with server(handler, ssl=tls, compression=None) as url:
        targets = url.replace("http:", "https:")
        ca_file = {"upstreams.main.ca_file": authority.certificate}
        serve_by(data_plane, configure(upstreams__main__targets=targets, **ca_file))
        yield


async def test_upstream_target_is_trusted_by_its_ca_file_only(
    data_plane: DataPlane, configure: Configure, authority: Authority, tls: ssl.SSLContext
) -> None:
    account = await data_plane.create_account()
    async with scripted(tls=tls) as upstream:
        serve_by(data_plane, configure(upstreams__main__targets=upstream.url))
        assert_problem(await data_plane.get(account), 502, "upstream_unreachable")
        assert upstream.requests == []
        ca_file = {"upstreams.main.ca_file": authority.certificate}
        serve_by(data_plane, configure(upstreams__main__targets=upstream.url, **ca_file))
        assert (await data_plane.get(account)).text == "ok"


async def test_websocket_over_tls_serves(
    data_plane: DataPlane, configure: Configure, authority: Authority, tls: ssl.SSLContext
) -> None:
    account = await data_plane.create_account()
    async with secure_sockets(data_plane, configure, authority, tls):
        async with client(data_plane, account, compression=None) as socket:
            await socket.send("x" * 4 * MIB)
            assert await socket.recv() == "x" * 4 * MIB
        await data_plane.settled_state(account)
        await eventually(lambda: "0 leased, 0 idle, 0 queued, 0 open" in repr(data_plane.handler.upstreams[0]))
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"]) == ("succeeded", 2)
    assert row["response_bytes"] > 4 * MIB


async def test_bytes_before_a_close_arrive_over_tls(
    data_plane: DataPlane, configure: Configure, authority: Authority, tls: ssl.SSLContext
) -> None:
    account = await data_plane.create_account()
    arrived: list[str | bytes] = []

    async def keep(socket: ServerConnection) -> None:
        arrived.extend([message async for message in socket])

    async with secure_sockets(data_plane, configure, authority, tls, keep):
        async with client(data_plane, account, compression=None) as socket:
            await socket.send("x" * MIB)
        await eventually(lambda: arrived)
    assert arrived == ["x" * MIB]


async def test_health_probes_use_the_ca_file_and_eject_an_unhealthy_target(
    data_plane: DataPlane, configure: Configure, authority: Authority, tls: ssl.SSLContext
) -> None:
    """The upstream cannot be verified at first; with its CA the next probe returns it to service."""
    account = await data_plane.create_account()
    health = {"upstreams.main.health.path": "/healthz", "upstreams.main.health.interval": "1ms"}
    async with scripted(tls=tls) as upstream:
        serve_by(data_plane, configure(upstreams__main__targets=upstream.url, **health))
        watch = UpstreamWatch(lambda: data_plane.handler.upstreams)
        while data_plane.handler.upstreams[0].targets_in_service:
            await watch.run_once()
        assert_problem(await data_plane.get(account), 503, "upstream_overloaded")
        health["upstreams.main.ca_file"] = authority.certificate
        serve_by(data_plane, configure(upstreams__main__targets=upstream.url, **health))
        await watch.run_once()
        assert upstream.requests[0].startswith(b"GET /healthz ")
        assert (await data_plane.get(account)).status_code == 200


async def test_data_plane_probes_its_upstreams(data_plane: DataPlane, configure: Configure) -> None:
    async with scripted() as upstream:
        health = {"upstreams.main.health.path": "/healthz", "upstreams.main.health.interval": "100ms"}
        serve_by(data_plane, configure(upstreams__main__targets=upstream.url, **health))
        await eventually(lambda: len(upstream.requests) > 1)
        assert {request.partition(b" HTTP")[0] for request in upstream.requests} == {b"GET /healthz"}
