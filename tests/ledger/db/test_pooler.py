"""Poolers between the gateway and PostgreSQL are refused by name where they break sessions."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.ledger.db.pooler import TIMEOUTS, UnfitPooler, check_pooler
from tests.support.polling import listening

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
PATIENCE_SECONDS = 10.0
IGNORED = f"ignore_startup_parameters = {','.join(TIMEOUTS)}"

needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


async def test_server_without_a_pooler_keeps_everything(migrated_url: str) -> None:
    assert await check_pooler(migrated_url) == []


@needs_pgbouncer
async def test_pooler_that_takes_no_timeouts_is_refused(migrated_url: str, tmp_path: Path) -> None:
    async with _pooled(migrated_url, tmp_path, "pool_mode = session") as url:
        with pytest.raises(UnfitPooler, match="track_extra_parameters"):
            await check_pooler(url)


@needs_pgbouncer
async def test_pooler_by_transaction_without_prepared_statements_is_refused(migrated_url: str, tmp_path: Path) -> None:
    async with _pooled(migrated_url, tmp_path, f"pool_mode = transaction\n{IGNORED}") as url:
        with pytest.raises(UnfitPooler, match="max_prepared_statements"):
            await check_pooler(url)


@needs_pgbouncer
async def test_pooler_by_session_is_used_and_what_it_drops_is_named(migrated_url: str, tmp_path: Path) -> None:
    async with _pooled(migrated_url, tmp_path, f"pool_mode = session\n{IGNORED}") as url:
        assert await check_pooler(url) == list(TIMEOUTS)


@asynccontextmanager
async def _pooled(url: str, folder: Path, settings: str) -> AsyncIterator[str]:
    """The URL of the database through PgBouncer."""
    assert PGBOUNCER is not None
    server = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = folder / "pgbouncer.ini"
    path.write_text(f"""
[databases]
* = host=127.0.0.1 port={server.port} user={server.username} password={server.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
{settings}
""")
    _readable(path)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it does not run as root
    process = await asyncio.create_subprocess_exec(PGBOUNCER, *user, str(path), stderr=subprocess.DEVNULL)
    try:
        await listening(port, PATIENCE_SECONDS)
        yield f"postgresql://anybody@127.0.0.1:{port}{server.path}"
    finally:
        process.kill()
        await process.wait()


def _readable(path: Path) -> None:
    """For the user as whom PgBouncer runs where the tests run as root."""
    for each in (path, *list(path.parents)[:-1]):
        if each.is_relative_to(path.parent.parent.parent):
            each.chmod(each.stat().st_mode | 0o055)
