"""Backup and restore by command, on stores of one's own, under other names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.cli.arguments import replaceable_file
from gateway.cli.stores.backup import _rebuild_redis
from gateway.embedded.stores import Stores
from gateway.ledger.db import schema
from tests.cli.commands import Answer, run
from tests.support import databases

ENVIRON = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
EMAIL = "ada@example.com"
REDIS_DATABASES = (13, 14)


def installation(folder: Path, name: str, *, database_url: str, redis_url: str) -> Callable[..., Awaitable[Answer]]:
    """Commands of an installation with these stores."""
    config = folder / f"{name}.yaml"
    config.write_text(
        f"database: {{url: '{database_url}'}}\nredis: {{url: '{redis_url}'}}\nupstreams: {{}}\nroutes: []\n"
    )

    async def command(*arguments: str) -> Answer:
        place = ("--config", str(config), "--data-dir", str(folder / name))
        return await run(*arguments, *place, environ=ENVIRON)

    return command


async def redis_urls(stores: Stores) -> list[str]:
    urls = [f"{stores.redis_url.rpartition('/')[0]}/{number}" for number in REDIS_DATABASES]
    for url in urls:
        async with Redis.from_url(url) as redis:
            await redis.flushdb()
    return urls


async def test_backup_restored_by_command_under_other_names_reconciles_to_zero(
    own_database_url: str, stores: Stores, tmp_path: Path
) -> None:
    first_redis, second_redis = await redis_urls(stores)
    first = installation(tmp_path, "first", database_url=own_database_url, redis_url=first_redis)
    second = installation(
        tmp_path, "second", database_url=await databases.create(stores.database_url), redis_url=second_redis
    )
    user = (await first("users", "create", "--email", EMAIL, "--json")).value()
    assert (await first("credits", "grant", "--user", EMAIL, "--amount", "7", "--reason", "test")).code == 0
    file = str(tmp_path / "backup")
    made = (await first("backup", file, "--json")).value()
    done = (await second("restore", file, "--json")).value()
    assert (done["restored_rows"], done["journal_rows"], done["redis"]) == (made["rows"], 0, "rebuilt")
    assert (made["schema"], done["schema_now"]) == (schema.head(), schema.head())
    books, again, elsewhere, absent = await asyncio.gather(
        second("reconcile", "--json"),
        second("restore", file),
        first("backup", str(tmp_path / "none" / "backup")),
        second("restore", str(tmp_path / "none")),
    )
    assert {name: books.value()[name] for name in ("accounts", "differences")} == {"accounts": 1, "differences": 0}
    assert "--replace" in again.complaint() or "stop them first" in again.complaint()
    assert (elsewhere.code, absent.code) == (2, 2)
    granted = (
        await second("credits", "grant", "--user", user["id"], "--amount", "1", "--reason", "x", "--json")
    ).value()
    assert granted["amount"] == 1


async def test_output_replaces_no_device_pipe_or_link(tmp_path: Path) -> None:
    """`gateway backup /dev/null` as root left a file in the place of the device."""
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    refused = [
        await run(*command, environ=ENVIRON)
        for command in (("backup", str(pipe)), ("backup", ""), ("usage", "export", "--output", str(pipe)))
    ]
    assert [answer.code for answer in refused] == [2, 2, 2]
    assert all("which could be" in answer.err for answer in refused), refused
    assert pipe.is_fifo()
    link.symlink_to(file)
    assert replaceable_file(link) == file
    assert replaceable_file(file) == file


async def test_restore_says_why_redis_is_out_of_reach() -> None:
    with capture_logs() as logged:
        outcome = await _rebuild_redis(cast(Any, None), "redis://127.0.0.1:1/0", cast(Any, None))
    assert outcome == "out of reach"
    ((event, reason),) = ((each["event"], each["reason"]) for each in logged)
    assert event == "redis_out_of_reach"
    assert "127.0.0.1:1" in reason
