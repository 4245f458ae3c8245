"""PostgreSQL in the data directory: initdb creates the cluster once, then the server runs as a direct child."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import asyncpg

from gateway.embedded import postgres_roles
from gateway.embedded.binaries import PostgresBinaries, find_postgres
from gateway.embedded.endpoints import Endpoint
from gateway.embedded.errors import DataDirUnusableError, StoreFailedError
from gateway.embedded.server_process import ServerProcess, ServerProgram, chown_to_server_user, stop_leftover

_INITDB_SECONDS = 60.0
_READY_SECONDS = 120.0  # a crash is followed by recovery from the log
_STOP_SECONDS = 20.0

# Committed data survives the death of every process, but not a power loss.
_NOT_DURABLE = ("fsync=off", "full_page_writes=off")


class Postgres:
    """The server of one data directory. `durable` False, for tests, survives every crash but a power loss."""

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        self._durable = durable
        self._cluster = data_dir / "postgres"
        self._log = data_dir / "postgres.log"
        self._lock = data_dir / "postgres.lock"
        self._server: ServerProcess | None = None

    async def stop_leftover(self) -> None:
        """Stops a server that an earlier owner has left running."""
        await stop_leftover(self._program(self._cluster), _STOP_SECONDS)

    async def start(self, endpoint: Endpoint) -> None:
        """Creates the cluster if there is none, and runs its server; returns when it answers."""
        binaries = find_postgres(_cluster_major(self._cluster))
        if not self._cluster.exists():
            await self._create_cluster(binaries, endpoint.password)
        _check_owner(self._cluster)
        command = [str(binaries.postgres), *_arguments(self._cluster, endpoint.port, durable=self._durable)]
        self._server = ServerProcess(self._program(self._cluster), command)
        await self._server.wait_ready(lambda: postgres_roles.answers(endpoint), _READY_SECONDS)
        try:
            await postgres_roles.prepare(endpoint)
        except asyncpg.PostgresError as error:
            raise StoreFailedError(f"PostgreSQL in {self._cluster} cannot be prepared: {error}") from error

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(_STOP_SECONDS)

    def has_died(self) -> bool:
        return self._server is not None and not self._server.is_running()

    async def _create_cluster(self, binaries: PostgresBinaries, password: str) -> None:
        """Creates the cluster under another name and renames it, so that a crash never leaves half of one."""
        draft = self._cluster.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        chown_to_server_user(draft)
        # initdb gives its descriptor 0 to the servers it runs, so the password comes by a file.
        password_file = self._cluster.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        chown_to_server_user(password_file)
        options = [
            f"--username={postgres_roles.SUPERUSER}",
            "--auth=scram-sha-256",
            "--locale=C",
            "--encoding=UTF8",
            f"--pwfile={password_file}",
        ]
        if not self._durable:
            options.append("--no-sync")
        try:
            initdb = ServerProcess(self._program(draft), [str(binaries.initdb), "-D", str(draft), *options])
            await initdb.wait_done(_INITDB_SECONDS)
        finally:
            password_file.unlink()
        draft.rename(self._cluster)

    def _program(self, folder: Path) -> ServerProgram:
        # SIGINT is a fast shutdown, SIGQUIT an immediate one (PostgreSQL manual, 18.5).
        return ServerProgram("PostgreSQL", folder, self._lock, self._log, signal.SIGINT, signal.SIGQUIT)


async def is_ready(endpoint: Endpoint) -> bool:
    """Whether a login to the gateway's database works; it fails until the owner has created that database."""
    try:
        connection = await postgres_roles.connect(endpoint, "gateway")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


def _arguments(cluster: Path, port: int, *, durable: bool) -> list[str]:
    settings = [
        f"port={port}",
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "shared_buffers=64MB",
        "max_connections=120",  # what eight public workers open, with 5 in each pool (`gateway check`)
        "superuser_reserved_connections=0",
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
        raise _not_owned(cluster) from error


def _check_owner(cluster: Path) -> None:
    if os.geteuid() not in (0, cluster.stat().st_uid):
        raise _not_owned(cluster)


def _not_owned(cluster: Path) -> DataDirUnusableError:
    return DataDirUnusableError(f"{cluster} belongs to user {cluster.stat().st_uid}; run as that user")
