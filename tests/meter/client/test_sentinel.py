"""The client follows the primary that sentinels name, also after a failover."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.embedded.binaries import find_valkey
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable, UnsupportedServer
from gateway.meter.client.sentinel import SentinelUrl
from gateway.meter.client.topology import Address
from tests.support.ports import free_ports

PASSWORD, SENTINEL_PASSWORD = "pass/word", "watch#er"
DATABASE = 3
PATIENCE_SECONDS = 30.0  # only a failure waits so long
SERVER = """
bind 127.0.0.1
port {port}
requirepass "{password}"
primaryauth "{password}"
repl-diskless-sync-delay 0
repl-diskless-load on-empty-db
appendonly no
save ""
"""
SENTINEL = """
bind 127.0.0.1
port {port}
requirepass "{sentinel_password}"
sentinel monitor main 127.0.0.1 {primary} 1
sentinel auth-pass main "{password}"
sentinel down-after-milliseconds main 300
sentinel failover-timeout main 1000
"""


@dataclass
class Site:
    """A primary, its replica, and a sentinel that watches both."""

    folder: Path
    primary: int
    replica: int
    sentinel: int
    closed: int  # a port on which nothing listens
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)

    @property
    def url(self) -> str:
        hosts = f"127.0.0.1:{self.closed},127.0.0.1:{self.sentinel}"
        return f"redis+sentinel://:pass%2Fword@{hosts}/main/{DATABASE}?sentinel_password=watch%23er"

    def start(self, port: int, configuration: str, *arguments: str) -> None:
        path = self.folder / f"{port}.conf"
        path.write_text(configuration)
        with (self.folder / f"{port}.log").open("wb") as log:
            command = [str(find_valkey()), str(path), *arguments]
            self.processes[port] = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def kill(self, port: int) -> None:
        process = self.processes.pop(port)
        process.kill()
        process.wait()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path, *free_ports(4))
    passwords = {"password": PASSWORD, "sentinel_password": SENTINEL_PASSWORD}
    found.start(found.primary, SERVER.format(port=found.primary, **passwords))
    follows = f"replicaof 127.0.0.1 {found.primary}\n"
    found.start(found.replica, SERVER.format(port=found.replica, **passwords) + follows)
    await _until(found.primary, PASSWORD, _has_replica)
    watches = SENTINEL.format(port=found.sentinel, primary=found.primary, **passwords)
    found.start(found.sentinel, watches, "--sentinel")
    await _until(found.sentinel, SENTINEL_PASSWORD, _knows_replica)
    yield found
    for port in list(found.processes):
        found.kill(port)


async def test_client_follows_a_failover_of_sentinels(site: Site) -> None:
    client = RedisClient(site.url, timeout_seconds=5)
    await client.open()
    try:
        await client.call((b"SET", b"key", b"value"))
        before = client.connection(b"key")
        site.kill(site.primary)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await _is_served(client):  # noqa: ASYNC110 - of processes
                await asyncio.sleep(0.02)
        assert client.connection(b"key") is not before
        async with Redis(port=site.replica, password=PASSWORD, db=DATABASE) as promoted:
            assert await promoted.get("key") == b"again"
    finally:
        await client.close()


async def test_client_of_sentinels_says_what_is_wrong(site: Site) -> None:
    for url, error, message in (
        (site.url.replace("/main/", "/other/"), UnsupportedServer, "no primary is known as other"),
        (site.url.replace("watch%23er", "wrong"), MeterUnavailable, "cannot connect to Redis"),
        (
            f"redis://:watch%23er@127.0.0.1:{site.sentinel}",
            UnsupportedServer,
            "is a sentinel: name it as redis.sentinel",
        ),
        (f"redis+sentinel://127.0.0.1:{site.closed}/main", MeterUnavailable, "cannot connect to Redis"),
    ):
        with pytest.raises(error, match=message):
            await RedisClient(url, timeout_seconds=1).open()


def test_url_of_sentinels_names_them_their_primary_and_both_logins() -> None:
    url = SentinelUrl.parse(
        "rediss+sentinel://u:p%2Fw@a,[::1]:7/main/2?ssl_ca_certs=f&sentinel_username=s&sentinel_password=x"
    )
    assert url is not None
    assert (url.sentinels, url.primary, url.database) == ((Address("a", 26379), Address("::1", 7)), "main", "2")
    assert (url.scheme, url.login, url.query, url.sentinel_login) == ("rediss", "u:p%2Fw@", "?ssl_ca_certs=f", "s:x@")
    assert SentinelUrl.parse("redis://a/0") is None


async def _is_served(client: RedisClient) -> bool:
    try:
        return bool(await client.call((b"SET", b"key", b"again")) == b"OK")
    except MeterUnavailable:
        return False


async def _until(port: int, password: str, condition: Callable[[Redis], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), Redis(port=port, password=password) as client:
        while True:
            with suppress(RedisError, OSError):
                if await condition(client):
                    return
            await asyncio.sleep(0.02)


async def _has_replica(client: Redis) -> bool:
    return bool((await client.info("replication")).get("slave0", {}).get("state") == "online")


async def _knows_replica(client: Redis) -> bool:
    known = await client.sentinel_master("main")
    return isinstance(known, dict) and known["num-slaves"] == 1
