"""`gateway serve` as a process of its own, in front of an upstream of the test's, with one account to call it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from redis.asyncio import Redis
from sqlalchemy import text

from gateway.clock import now
from gateway.config import Config, load
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle
from gateway.meter.client.client import RedisClient
from gateway.meter.journal import Journal
from gateway.workers.usage.usage_writer import UsageWriter
from policies.access.keys import ENTROPY_BYTES, compose

START_SECONDS = 60.0
PATIENCE_SECONDS = 60.0  # only a failure waits so long
GRANTED = 1_000_000
SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
PLAN = "{id: open, name: Open, price: 0}"

# Databases of the shared server, each for one test: a `serve` has workers of its own, which take whatever is journaled.
_databases = iter(range(8, 16))


@dataclass(frozen=True)
class Served:
    process: asyncio.subprocess.Process
    public_url: str
    admin_url: str
    config: Config
    log: Path
    key: str

    @property
    def path(self) -> Path:
        assert self.config.path is not None
        return self.config.path

    def said(self, event: str) -> int:
        """How many lines of the log say so."""
        return self.log.read_text().count(json.dumps(event))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = urlsplit(self.public_url)
        return await asyncio.open_connection(address.hostname, address.port)

    def head(self, target: str, *fields: str, method: str = "GET") -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "host: gateway.test", f"x-api-key: {self.key}", *fields, "", ""]
        return "\r\n".join(lines).encode()

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS)

    async def open_holds(self) -> int:
        async with Redis.from_url(self.config.redis.url) as redis:
            partitions = range(self.config.redis.partitions)
            return sum([int(await redis.hlen(f"gw:{{p{each:02d}}}:h")) for each in partitions])

    async def rows(self) -> list[Any]:
        """What stands in PostgreSQL once the journal is written: (client_request_id, outcome, credits_charged)."""
        database = Database(self.config.database.url)
        redis_client = RedisClient(self.config.redis.url, timeout_seconds=5, scripts=())
        await redis_client.open()
        writer = UsageWriter(database, Journal(redis_client, self.config.redis.partitions))
        while await writer.run_once():
            pass
        async with database.read() as connection:
            query = text("SELECT client_request_id, outcome, credits_charged FROM usage_tracking")
            rows = list(await connection.execute(query))
        await redis_client.close()
        await database.close()
        return rows


@asynccontextmanager
async def serving(folder: Path, document: str, *, database_url: str, redis_url: str) -> AsyncIterator[Served]:
    """Serves the configuration `document` on free ports until the end of the block."""
    path, log = folder / "gateway.yaml", folder / "serve.log"
    path.write_text(document)
    own_redis_url = re.sub(r"(:\d+)(/\d*)?$", rf"\1/{next(_databases)}", redis_url)
    async with Redis.from_url(own_redis_url) as redis:
        await redis.flushdb()  # epochs of other tests' PostgreSQL would be noticed, and calls refused meanwhile
    places = {
        **SECRETS,
        "GATEWAY_DATABASE__URL": database_url,
        "GATEWAY_REDIS__URL": own_redis_url,
        "GATEWAY_SERVER__PUBLIC": "127.0.0.1:0",
        "GATEWAY_SERVER__ADMIN": "127.0.0.1:0",
        "GATEWAY_DATA_DIR": str(folder / "data"),
    }
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(path), "--json"]
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=lines
        )
    try:
        assert process.stdout is not None
        said = json.loads(await asyncio.wait_for(process.stdout.readline(), START_SECONDS) or b"{}")
        assert said, log.read_text()
        config = load(path, places)
        yield Served(process, said["public_url"], said["admin_url"], config, log, await create_account(config))
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


async def create_account(config: Config) -> str:
    """The key of an account with credits and no limits."""
    database = Database(config.database.url)
    new = compose(config.keys.prefix, token_bytes(ENTROPY_BYTES))
    async with database.transaction() as connection:
        user = await users.create(connection, f"{uuid4().hex}@example.com")
        await lifecycle.start(connection, user.id, plan_id="open", now=now())
        await api_keys.create(connection, user.id, fingerprint=api_keys.fingerprint(new, config.secrets.peppers))
        await grants.grant(connection, user.id, amount=GRANTED, source="purchase", reason="test", actor="test")
    await database.close()
    return new.secret
