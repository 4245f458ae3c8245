"""PostgreSQL under the data directory: made once by initdb, then run as a direct child."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import asyncpg

from gateway.embedded.binaries import PostgresBinaries, find_postgres
from gateway.embedded.child import Child, Program, give_to_servers, stop_leftover
from gateway.embedded.endpoints import Endpoint
from gateway.embedded.errors import DataDirUnusableError

_INITDB_SECONDS = 60.0
_READY_SECONDS = 120.0  # a crash is followed by recovery from the log
_STOP_SECONDS = 20.0

# Committed data still survives the death of every process; only a power cut may take it.
_NOT_DURABLE = ("fsync=off", "full_page_writes=off")


class Postgres:
    """The server of one data directory. `durable` False gives up safety against power loss for speed, for tests."""

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        self._durable = durable
        self._cluster = data_dir / "postgres"
        self._log = data_dir / "postgres.log"
        self._lock = data_dir / "postgres.lock"
        self._child: Child | None = None

    async def take_over(self) -> None:
        """End a server that an earlier owner left behind."""
        await stop_leftover(self._program(self._cluster), _STOP_SECONDS)

    async def start(self, endpoint: Endpoint) -> None:
        """Create the cluster if there is none, run its server, and return once it answers."""
        binaries = find_postgres(_cluster_major(self._cluster))
        if not self._cluster.exists():
            await self._create_cluster(binaries, endpoint.password)
        _check_owner(self._cluster)
        command = [str(binaries.postgres), *_arguments(self._cluster, endpoint.port, durable=self._durable)]
        self._child = Child(self._program(self._cluster), command)
        await self._child.wait_ready(lambda: _accepts(endpoint, "postgres"), _READY_SECONDS)
        await _create_database_once(endpoint)

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(_STOP_SECONDS)

    def has_died(self) -> bool:
        return self._child is not None and not self._child.is_running()

    async def _create_cluster(self, binaries: PostgresBinaries, password: str) -> None:
        """Build beside the final place and move it there whole, so that a crash never leaves half a cluster."""
        draft = self._cluster.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        give_to_servers(draft)
        # initdb gives its descriptor 0 to the servers it runs, so the password comes by a file.
        password_file = self._cluster.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        options = [
            "--username=gateway",
            "--auth=scram-sha-256",
            "--locale=C",
            "--encoding=UTF8",
            f"--pwfile={password_file}",
        ]
        if not self._durable:
            options.append("--no-sync")
        try:
            initdb = Child(self._program(draft), [str(binaries.initdb), "-D", str(draft), *options])
            await initdb.wait_done(_INITDB_SECONDS)
        finally:
            password_file.unlink()
        draft.rename(self._cluster)

    def _program(self, folder: Path) -> Program:
        # SIGINT is a fast shutdown, SIGQUIT an immediate one (PostgreSQL manual, 18.5).
        return Program("PostgreSQL", folder, self._lock, self._log, signal.SIGINT, signal.SIGQUIT)


async def is_ready(endpoint: Endpoint) -> bool:
    """Whether a real login to the gateway's database works; it does not before the owner has made that database."""
    return await _accepts(endpoint, "gateway")


async def _accepts(endpoint: Endpoint, database: str) -> bool:
    try:
        connection = await _connect(endpoint, database)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


async def _create_database_once(endpoint: Endpoint) -> None:
    connection = await _connect(endpoint, "postgres")
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = 'gateway'"):
            await connection.execute("CREATE DATABASE gateway")
    finally:
        await connection.close()


async def _connect(endpoint: Endpoint, database: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1",
        port=endpoint.port,
        user="gateway",
        password=endpoint.password,
        database=database,
        timeout=5,
        ssl=False,
    )


def _arguments(cluster: Path, port: int, *, durable: bool) -> list[str]:
    settings = [
        f"port={port}",
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "shared_buffers=64MB",
        "max_connections=100",
        "timezone=UTC",
        *(() if durable else _NOT_DURABLE),
    ]
    return ["-D", str(cluster), *(word for setting in settings for word in ("-c", setting))]


def _cluster_major(cluster: Path) -> int | None:
    version = cluster / "PG_VERSION"
    try:
        return int(version.read_text())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _foreign(cluster) from error


def _check_owner(cluster: Path) -> None:
    if os.geteuid() not in (0, cluster.stat().st_uid):
        raise _foreign(cluster)


def _foreign(cluster: Path) -> DataDirUnusableError:
    return DataDirUnusableError(f"{cluster} belongs to user {cluster.stat().st_uid}; run as that user")
