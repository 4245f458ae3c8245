"""Proxies behind nginx are restarted one after the other under load, and no call fails."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.cli.installation import prepare
from gateway.config import load
from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from gateway.runtime.stores import StoreUrls
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation.nginx import NGINX, nginx
from tests.guarantees.simulation.served_gateway import SECRETS, Served, create_account
from tests.proxy import upstream as upstreams
from tests.support.sampling import scaled

ROLLS = scaled(suite=1, full=20)
CALLS_PER_SECOND = scaled(suite=200, full=500)
CLIENTS = scaled(suite=40, full=200)  # a quarter each: GET or POST, over connections that nginx keeps or opens
PATIENCE_SECONDS = 60.0  # only a failure waits so long
LOWEST_PORT = 20_000 + os.getpid() % 10_000  # below net.ipv4.ip_local_port_range
AFTERWARDS_SECONDS = 0.5  # of calls, once the last proxy is back
DOCUMENT = """
redis: {{timeout: 5s, partitions: 4}}
upstreams: {{main: {{targets: ["{upstream}"], max_share_per_account: 1}}}}
routes: [{{name: call, match: {{path: /v1/**}}, upstream: main, price: {{credits: 1}}}}]
plans: [{{id: open, name: Open, price: 0}}]
"""


@dataclass
class Load:
    """Clients that call at a steady rate, whatever becomes of their calls."""

    key: str
    kept: int
    new: int
    answers: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    async def run(self, number: int) -> None:
        loop, interval = asyncio.get_running_loop(), CLIENTS / CALLS_PER_SECOND
        port = self.kept if number % 2 else self.new
        body = b"x" * 100 if number % 4 < 2 else None
        due = loop.time() + interval * number / CLIENTS
        while not self.is_over:
            await asyncio.sleep(due - loop.time())
            due += interval
            self.answers[await self._call(port, body)] += 1

    async def _call(self, port: int, body: bytes | None) -> str:
        method, length = ("GET", "") if body is None else ("POST", f"content-length: {len(body)}\r\n")
        head = f"{method} /v1/x HTTP/1.1\r\nhost: x\r\nx-api-key: {self.key}\r\nconnection: close\r\n{length}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + (body or b""))
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
        writer.close()
        return f"{method} {answer[9:12].decode()}"


@dataclass
class Proxy:
    """`gateway proxy` on one port, whichever process serves there."""

    folder: Path
    places: dict[str, str]
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it is ready."""
        command = [sys.executable, "-m", "gateway", "proxy", "--config", str(self.folder / "gateway.yaml"), "--json"]
        with (self.folder / "proxies.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, **self.places}, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        is_ready = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_SECONDS)
        assert is_ready, (self.folder / "proxies.log").read_text()[-2000:]

    async def stop(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.terminate()
        assert await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS) == 0


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[str]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = Valkey(folder, durable=False)
    endpoint = choose(None).valkey
    await server.start(endpoint)
    yield f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0"
    await server.stop()


@asynccontextmanager
async def _proxies(folder: Path, places: dict[str, str], ports: list[int]) -> AsyncIterator[list[Proxy]]:
    own = [{"GATEWAY_SERVER__PUBLIC": f"127.0.0.1:{port}", "GATEWAY_SERVER__HEALTH": "127.0.0.1:0"} for port in ports]
    proxies = [Proxy(folder, {**places, **each}) for each in own]
    await asyncio.gather(*(each.start() for each in proxies))
    try:
        yield proxies
    finally:
        await asyncio.gather(*(each.stop() for each in proxies))


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_rolling_restart_behind_nginx_fails_no_call(tmp_path: Path, own_database_url: str, redis: str) -> None:
    *ports, kept, new = _free_ports(4)
    async with upstreams.running() as upstream:
        (tmp_path / "gateway.yaml").write_text(DOCUMENT.format(upstream=upstream.url))
        places = {
            **SECRETS,
            "GATEWAY_DATABASE__URL": own_database_url,
            "GATEWAY_REDIS__URL": redis,
            "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        }
        config = load(tmp_path / "gateway.yaml", places)
        await prepare(config, StoreUrls(own_database_url, redis))
        load_ = Load(await create_account(config), kept, new)
        async with (
            _proxies(tmp_path, places, ports) as proxies,
            nginx(tmp_path / "nginx", gateways=ports, kept=kept, new=new) as errors,
        ):
            began_at = asyncio.get_running_loop().time()
            clients = [asyncio.create_task(load_.run(number)) for number in range(CLIENTS)]
            for proxy in proxies * ROLLS:
                await proxy.stop()
                await proxy.start()
            await asyncio.sleep(AFTERWARDS_SECONDS)
            load_.is_over = True
            await asyncio.gather(*clients)
            said = errors.read_text()
        assert proxies[0].process is not None
        rows = await Served(proxies[0].process, "", "", config, errors, load_.key).rows()
    calls = load_.answers.total()
    rate = calls / (asyncio.get_running_loop().time() - began_at)
    measured.append(f"{ROLLS} rolling restarts of two proxies: {dict(load_.answers)}, {rate:.0f} calls/s")

    assert load_.answers.keys() == {"GET 200", "POST 200"}, said
    assert Counter((outcome, charged) for _, outcome, charged in rows) == {("succeeded", 1): calls}


def _free_ports(count: int) -> list[int]:
    """Ports that the kernel gives to no connection while a proxy is away."""
    found: list[int] = []
    for port in range(LOWEST_PORT, LOWEST_PORT + 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            break
    return found
