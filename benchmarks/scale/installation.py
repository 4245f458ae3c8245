"""An installation on one machine: so many `gateway proxy`, a `gateway worker`, a cluster and a database."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg

from benchmarks.accounts import add_accounts
from benchmarks.machine import Family, need
from benchmarks.scale.cluster import Cluster, cluster
from gateway.ledger.db import schema

PEPPER = "p" * 32
SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": PEPPER, "GATEWAY_JWT_SECRET": "j" * 32}
CONNECTIONS = 32  # of each gateway
_CONFIG = """
server: {{public: "127.0.0.1:0", health: "127.0.0.1:0"}}
upstreams: {{static: {{targets: ["http://127.0.0.1:{upstream}"], max_connections: 1024}}}}
routes:
  - {{name: call, match: {{path: /call, methods: [GET]}}, upstream: static, usage_type: call, price: {{credits: 1}}}}
plans: [{{id: ok, name: ok, price: 0, credits_per_period: 1000000000000}}]
"""
# The keys of the file call in turn, and each connection waits so long before a call on average.
_LOAD = """
local requests, turn = {{}}, {first}
for key in io.lines("{path}") do requests[#requests + 1] = key end
function request()
  turn = turn % #requests + 1
  return wrk.format("GET", "/call", {{["X-API-Key"] = requests[turn]}})
end
"""
_PAUSE = "function delay() return math.floor(0.5 - {pause_ms} * math.log(1 - math.random())) end\n"


@dataclass(frozen=True, slots=True)
class Installation:
    """`parts` are the processes of each part; `worker` those of the usage writer."""

    gateways: int
    cluster: Cluster
    urls: tuple[str, ...]
    parts: Mapping[str, Family]
    worker: Family
    database_url: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.gateways} and {len(self.cluster.masters)}"

    def add_keys(self, count: int) -> Path:
        """A file with the keys of so many more accounts."""
        file = self.folder / f"keys-{uuid4()}"
        file.write_text("\n".join(asyncio.run(_add_keys(self.database_url, count))))
        return file

    def call(self, keys: Path, *, seconds: int, calls_per_second: int | None = None, first: int = 0) -> int:
        """Calls each gateway so often a second, or as fast as it answers. Gives how many calls there were.

        The keys call in turn, beginning behind the first ones.
        """
        pause_ms = 0 if calls_per_second is None else 1000 * CONNECTIONS // calls_per_second
        with ExitStack() as stack:
            running = [
                stack.enter_context(self._wrk(number, keys, seconds=seconds, pause_ms=pause_ms, first=first))
                for number in range(self.gateways)
            ]
            return sum(_answered(process) for process in running)

    def _wrk(self, number: int, keys: Path, *, seconds: int, pause_ms: int, first: int) -> subprocess.Popen[str]:
        script = self.folder / f"load-{number}.lua"
        text = _LOAD.format(path=keys, first=first + number * 7919) + (
            _PAUSE.format(pause_ms=pause_ms) if pause_ms else ""
        )
        script.write_text(text)
        command = [need("wrk", "wrk") or sys.exit("wrk is needed (Debian: wrk)"), "-t1", f"-d{seconds}s"]
        command += [f"-c{CONNECTIONS}", "--timeout", "10s", "-s", str(script), self.urls[number]]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextmanager
def installed(
    folder: Path, *, gateways: int, masters: int, first_port: int, upstream: int, database_url: str
) -> Iterator[Installation]:
    """Serves until the end of the block, with one account on the plan `ok`. The database is made."""
    folder.mkdir()
    asyncio.run(_create_database(database_url))
    with ExitStack() as stack:
        servers = stack.enter_context(cluster(folder / "valkey", masters, first_port=first_port))
        (folder / "gateway.yaml").write_text(_CONFIG.format(upstream=upstream))
        places = {"GATEWAY_DATABASE__URL": database_url, "GATEWAY_REDIS__URL": servers.url}
        command, environment = [sys.executable, "-m", "gateway"], {**os.environ, **SECRETS, **places}
        create = [*command, "users", "create", "--email", "ok@example.com", "--plan", "ok", "--json"]
        subprocess.run(create, env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        roles = ["worker", *["proxy"] * gateways]
        started = [stack.enter_context(_role(role, number, folder, environment)) for number, role in enumerate(roles)]
        said = [_said(process) for process in started]
        families = [Family.of(process.pid) for process in started]
        yield Installation(
            gateways,
            servers,
            tuple(each["public_url"] for each in said[1:]),
            {
                "gateways": _together(families[1:]),
                "Valkey": _together(servers.processes),
                "usage writer": families[0],
            },
            families[0],
            database_url,
            folder,
        )


@contextmanager
def _role(role: str, number: int, folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gateway", role, "--data-dir", str(folder / f"data-{number}"), "--json"]
    with (
        (folder / f"log-{number}").open("w") as log,
        subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def _said(process: subprocess.Popen[str]) -> dict[str, str]:
    found: dict[str, str] = json.loads(next(iter(process.stdout or ())))
    return found


def _together(families: list[Family] | tuple[Family, ...]) -> Family:
    return Family(frozenset().union(*(family.pids for family in families)))


def _answered(process: subprocess.Popen[str]) -> int:
    output, _ = process.communicate()
    found = re.search(r"(\d+) requests in", output)
    if found is None or "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"a gateway did not answer well:\n{output}")
    return int(found[1])


async def _create_database(url: str) -> None:
    server, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    await schema.upgrade(url)


async def _add_keys(url: str, count: int) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        users = [uuid4() for _ in range(count)]
        return await add_accounts(connection, users, pepper=PEPPER.encode(), calling=count)
    finally:
        await connection.close()
