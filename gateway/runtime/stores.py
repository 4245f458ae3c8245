"""The servers of both stores: configured ones, or embedded ones for as long as they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.config import Config
from gateway.embedded.stores import Stores

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class StoreUrls:
    database_url: str
    redis_url: str


@asynccontextmanager
async def open_store_servers(config: Config, *, must_own: bool = False) -> AsyncIterator[StoreUrls]:
    """Joins embedded stores that run, else starts them. `must_own` waits until their present owner has stopped.

    Valkey has the cores of calls only for who serves them, and so was kept off these.
    """
    if EMBEDDED not in (config.database.url, config.redis.url):
        yield StoreUrls(config.database.url, config.redis.url)
        return
    cores = config.server.worker_cores if must_own else ()
    async with await Stores.open(config.data_dir, must_own=must_own, valkey_cores=cores) as stores:
        supervision = asyncio.create_task(stores.keep_running()) if must_own else None
        try:
            yield StoreUrls(
                stores.database_url if config.database.url == EMBEDDED else config.database.url,
                stores.redis_url if config.redis.url == EMBEDDED else config.redis.url,
            )
        finally:
            if supervision is not None:
                supervision.cancel()
                with suppress(asyncio.CancelledError):
                    await supervision
