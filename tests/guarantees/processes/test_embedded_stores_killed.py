"""Embedded stores outlive what happens to them: a killed owner, a frozen server, a server that dies."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.exceptions import RedisError

from gateway.embedded import valkey
from gateway.embedded.binaries import find_valkey
from gateway.embedded.errors import EmbeddedUnavailableError
from gateway.embedded.stores import Stores
from tests.embedded.test_stores import other_process, owned, read, write
from tests.support.polling import eventually


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the children of the dead")
async def test_embedded_servers_die_with_their_owner(data_dir: Path) -> None:
    async with other_process(data_dir) as (process, _):
        servers = psutil.Process(process.pid).children(recursive=True)
        assert {"postgres", "valkey-server"} <= {server.name() for server in servers}
        process.kill()
        await process.wait()
        await eventually(lambda: not any(is_running(server) for server in servers))
        assert [server for server in servers if is_running(server)] == []


async def test_embedded_data_outlives_a_killed_owner(data_dir: Path) -> None:
    async with other_process(data_dir) as (process, _):
        servers = psutil.Process(process.pid).children(recursive=True)
        assert {"postgres", "valkey-server"} <= {server.name() for server in servers}
        async with await Stores.open(data_dir, durable=False) as joined:
            await write(joined, "a")
        process.kill()
        await process.wait()
        async with await Stores.open(data_dir, durable=False) as stores:
            assert stores.is_owner
            assert await read(stores) == (["a"], ["a"])
            assert not [server for server in servers if is_running(server)]


async def test_embedded_server_left_frozen_is_replaced(data_dir: Path) -> None:
    """A stopped process cannot follow its death signal, like one on a system without death signals."""
    async with other_process(data_dir) as (process, _):
        valkey = next(child for child in psutil.Process(process.pid).children() if child.name() == "valkey-server")
        valkey.suspend()
        process.kill()
        await process.wait()
        async with await Stores.open(data_dir, durable=False):
            assert not is_running(valkey)


@pytest.mark.parametrize("name", ["postgres", "valkey-server"])
async def test_embedded_store_that_dies_restarts_at_the_same_address(data_dir: Path, name: str) -> None:
    async with await Stores.open(data_dir, durable=False) as stores:
        await write(stores, "a")
        supervising = asyncio.create_task(stores.keep_running())
        valkey = next(child for child in psutil.Process().children() if child.name() == name and owned(child, data_dir))
        valkey.send_signal(signal.SIGKILL)
        async with asyncio.timeout(30):
            while not await is_readable(stores, expected=["a"]):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.05)
        assert not is_running(valkey)
        supervising.cancel()


async def test_embedded_store_that_cannot_restart_is_retried(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await Stores.open(data_dir, durable=False) as stores:
        await write(stores, "a")
        missing = [True, True]

        def found_later() -> Path:
            if missing and missing.pop():
                raise EmbeddedUnavailableError("no server binary")
            return find_valkey()

        monkeypatch.setattr(valkey, "find_valkey", found_later)
        supervising = asyncio.create_task(stores.keep_running())
        for child in psutil.Process().children():
            if child.name() == "valkey-server" and owned(child, data_dir):
                child.send_signal(signal.SIGKILL)
        async with asyncio.timeout(30):
            while missing or not await is_readable(stores, expected=["a"]):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        assert not supervising.done()
        assert await read(stores) == (["a"], ["a"])
        supervising.cancel()


def is_running(process: psutil.Process) -> bool:
    """Whether it still runs; a container without an init leaves the dead of a killed parent as zombies."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def is_readable(stores: Stores, *, expected: list[str]) -> bool:
    try:
        return await read(stores) == (expected, expected)
    except (OSError, asyncpg.PostgresError, RedisError):
        return False
