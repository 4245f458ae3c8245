"""The account API on the public listener, beside the proxied routes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from gateway.config import load
from gateway.runtime.data_plane import data_plane
from gateway.runtime.public_listener import PublicListener, account_api
from gateway.runtime.roles import public_server

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
CONFIG = """
credits: {shown_as: {currency: JPY, per_unit: 2}}
upstreams: {main: {targets: [http://127.0.0.1:1]}}
routes: [{name: all, upstream: main, match: {path: /**, methods: [GET, POST, HEAD]}, price: {credits: 1}}]
"""


@pytest.fixture
async def public(migrated_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A public listener whose proxy has a route for everything."""
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    places: dict[str, object] = {"database.url": migrated_url, "redis.url": redis_url, "data_dir": str(tmp_path)}
    async with _served(tmp_path / "gateway.yaml", places) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client


@asynccontextmanager
async def _served(path: Path, places: dict[str, object]) -> AsyncIterator[str]:
    config = load(path, SECRETS, overrides=places)
    async with data_plane(config) as handler, account_api(config, {}) as account:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = public_server(PublicListener(handler, account, cors=config.server.cors), config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving
        await server.drained()


async def test_catch_all_route_leaves_reserved_paths_to_the_account_api(public: httpx.AsyncClient) -> None:
    assert (await public.get("/openapi.json")).json()["info"]["title"] == "Gateway account API"
    assert (await public.get("/docs")).headers["content-type"].startswith("text/html")
    refused = (await public.get("/me/nothing")).json()
    assert refused["code"] == "not_found"
    assert (await public.get(refused["type"])).json()["code"] == "not_found"


async def test_paths_not_reserved_are_the_proxys(public: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/me", "/men", "/openapi.json5"):
        assert (await public.get(path)).json()["code"] == "missing_key"


async def test_page_of_a_configured_origin_uses_the_account_api(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Preflights need no login; a page can read refusals; no other origin is named."""
    (tmp_path / "gateway.yaml").write_text(CONFIG + "server: {cors: {origins: [https://app.example.com]}}")
    places: dict[str, object] = {"database.url": migrated_url, "redis.url": redis_url, "data_dir": str(tmp_path)}
    page, asks = {"origin": "https://app.example.com"}, {"access-control-request-method": "DELETE"}
    async with _served(tmp_path / "gateway.yaml", places) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("/me", "/auth/login", "/plans", "/subscriptions/1", "/me/keys/1"):
            names = {"access-control-request-headers": "authorization,content-type"}
            preflight = await client.request("OPTIONS", path, headers=page | asks | names)
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
            assert "DELETE" in preflight.headers["access-control-allow-methods"]
            assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
        refused, listed = await client.get("/me", headers=page), await client.get("/plans", headers=page)
        assert (refused.status_code, listed.status_code) == (401, 200)
        assert [each.headers["access-control-allow-origin"] for each in (refused, listed)] == [page["origin"]] * 2
        stranger = await client.get("/plans", headers={"origin": "https://evil.test"})
        assert (stranger.headers["vary"], "access-control-allow-origin" in stranger.headers) == ("origin", False)


async def test_body_is_read_and_answered_through_the_listener(public: httpx.AsyncClient) -> None:
    given = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
    registered = await public.post("/auth/register", json=given, headers={"x-request-id": "mine"})
    assert (registered.status_code, registered.headers["x-request-id"]) == (201, "mine")
    body, kind = _in_pieces(json.dumps(given).encode()), {"content-type": "application/json"}
    tokens = (await public.post("/auth/login", content=body, headers=kind)).json()
    me = await public.get("/me", headers={"authorization": f"Bearer {tokens['access_token']}"})
    assert me.json()["email"] == given["email"]
    assert me.headers["cache-control"] == "no-store"


async def test_credits_are_shown_as_the_money_of_the_configuration(public: httpx.AsyncClient) -> None:
    given = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
    await public.post("/auth/register", json=given)
    tokens = (await public.post("/auth/login", json=given)).json()
    left = await public.get("/me/limits", headers={"authorization": f"Bearer {tokens['access_token']}"})
    assert left.json()["credits"]["shown_as"] == {"currency": "JPY", "amount": "0"}


async def test_body_too_large_is_not_read_to_its_end(public: httpx.AsyncClient) -> None:
    refused = await public.post("/auth/login", content=_in_pieces(b" " * (2 * 1024 * 1024)))
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")


async def test_method_that_is_not_served_is_named(public: httpx.AsyncClient) -> None:
    refused = await public.put("/me", json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, GET, HEAD, PATCH")
    head = await public.head("/me")  # as GET, of nobody
    assert (head.status_code, head.content) == (401, b"")


async def test_client_that_expects_100_continue_gets_it(public: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection(public.base_url.host, public.base_url.port)
    head = "POST /auth/logout HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n"
    writer.write(f"{head}content-type: application/json\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(b"{}")
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_disconnect_in_mid_request_affects_no_other_client(public: httpx.AsyncClient) -> None:
    _, writer = await asyncio.open_connection(public.base_url.host, public.base_url.port)
    writer.write(b"POST /auth/login HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()
    assert (await public.get("/openapi.json")).status_code == 200


async def test_calls_are_answered_while_passwords_are_hashed(public: httpx.AsyncClient) -> None:
    """Refused ones, which show the loop's delay as well as any: the logins hash one after the other beside it."""
    body = {"email": "nobody@example.com", "password": "a guess"}
    logins = asyncio.gather(*(public.post("/auth/login", json=body) for _ in range(50)))
    calls = 0
    while not logins.done():
        assert (await public.get("/v1/nothing")).status_code == 401
        calls += 1
    statuses = Counter(login.status_code for login in await logins)
    assert statuses.keys() <= {401, 429, 503}
    assert calls > 10 * statuses[401], "a loop that waits for hashes answers few calls beside each"


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 4096):
        yield body[start : start + 4096]
