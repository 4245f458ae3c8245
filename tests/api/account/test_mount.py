"""The account API on the public listener, beside the proxied routes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gateway.app.child import public_server
from gateway.app.data_plane import data_plane
from gateway.app.public import Public, account_api
from gateway.config import load

SECRETS = {"GATEWAY_ADMIN_TOKEN": "admin", "GATEWAY_KEY_PEPPER": "pepper", "GATEWAY_JWT_SECRET": "jwt"}
CONFIG = """
upstreams: {main: {targets: [http://127.0.0.1:1]}}
routes: [{name: all, upstream: main, match: {path: /**, methods: [GET, POST, HEAD]}, price: {credits: 1}}]
"""


@pytest.fixture
async def public(migrated_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A public listener whose proxy has a route for everything."""
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    places: dict[str, object] = {"database.url": migrated_url, "redis.url": redis_url, "data_dir": str(tmp_path)}
    async with _served(tmp_path / "gateway.yaml", places) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


@asynccontextmanager
async def _served(path: Path, places: dict[str, object]) -> AsyncIterator[str]:
    config = load(path, SECRETS, overrides=places)
    async with data_plane(config) as handler, account_api(config, {}) as account:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = public_server(Public(handler, account), config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving
        await server.drained()


async def test_a_route_for_everything_leaves_the_account_api_its_paths(public: httpx.AsyncClient) -> None:
    assert (await public.get("/openapi.json")).json()["info"]["title"] == "Gateway account API"
    assert (await public.get("/docs")).headers["content-type"].startswith("text/html")
    assert (await public.get("/me/nothing")).json()["code"] == "not_found"


async def test_all_other_paths_are_the_proxys(public: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/me", "/men", "/openapi.json5"):
        assert (await public.get(path)).json()["code"] == "missing_key"
