"""The connections to both stores that one role shares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.config import Config
from gateway.ledger.audit import audit_chain
from gateway.ledger.db.session import Database, DatabaseUnavailable, PoolBusy
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable
from gateway.meter.scripts import SCRIPTS

# No call waits for the control plane or the workers, so they may be patient.
BACKGROUND_TIMEOUT_SECONDS = 5.0
PROBE_SECONDS = 2.0  # a store that answers later does not answer calls in time either


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


def probe_of_stores(database: Database, redis_client: RedisClient) -> Callable[[], Awaitable[dict[str, str]]]:
    """Which of the stores does not answer: the admin API and the workers need both."""

    async def missing() -> dict[str, str]:
        return await failures(database=database.ping(), redis=redis_client.call((b"PING",)))

    return missing


async def failures(**asked: Awaitable[object]) -> dict[str, str]:
    """Which of the stores that are asked do not answer in time, each name with the reason."""
    reasons = await asyncio.gather(*(_failure(each) for each in asked.values()))
    return {name: reason for name, reason in zip(asked, reasons, strict=True) if reason is not None}


async def _failure(asked: Awaitable[object]) -> str | None:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await asked
    except TimeoutError:
        return f"no answer within {PROBE_SECONDS:.0f} s"
    except PoolBusy:
        return None  # it answers others
    except (DatabaseUnavailable, MeterUnavailable, MeterError) as error:
        return str(error)
    return None
