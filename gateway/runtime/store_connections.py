"""The connections to both stores that one role shares."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Config
from gateway.ledger.audit import audit_chain
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.scripts import SCRIPTS

# No call waits for the control plane or the workers, so they may be patient.
BACKGROUND_TIMEOUT_SECONDS = 5.0


@asynccontextmanager
async def open_stores(config: Config, *, timeout_seconds: float) -> AsyncIterator[tuple[Database, RedisClient]]:
    database = Database(
        config.database.url,
        pool_size=config.database.pool_size,
        audit_keys=audit_chain.keys_of(config.secrets.peppers),
    )
    redis_client = RedisClient(config.redis.url, timeout_seconds=timeout_seconds, scripts=SCRIPTS)
    try:
        await redis_client.open()
        yield database, redis_client
    finally:
        await redis_client.close()
        await database.close()


async def missing(database: Database, redis_client: RedisClient) -> dict[str, str]:
    """The stores that keep requests from being admitted, each with the reason; empty when none does."""
    missing = {}
    try:
        await database.ping()
    except DatabaseUnavailable as error:
        missing["database"] = str(error)
    try:
        await redis_client.call((b"PING",))
    except MeterUnavailable as error:
        missing["redis"] = str(error)
    return missing
