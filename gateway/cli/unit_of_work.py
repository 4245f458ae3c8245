"""One transaction on the database for one command, whether or not the gateway is serving; then Redis is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.installation import REDIS_TIMEOUT_SECONDS, prepare
from gateway.config import Config
from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.audit import audit_chain
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.runtime.stores import Reached, opened_stores
from gateway.workers.outbox import OutboxPublisher

ACTOR = "cli"
Answer = TypeVar("Answer")


def run_in_transaction(config: Config, work: Callable[[AsyncConnection], Awaitable[Answer]]) -> Answer:
    """Runs `work` in a transaction that commits when it returns; gives what it returned."""

    async def run() -> Answer:
        async with _transaction(config) as connection:
            return await work(connection)

    return asyncio.run(run())


def preview(config: Config, work: Callable[[AsyncConnection], Awaitable[Answer]]) -> Answer:
    """Runs `work` as `run_in_transaction` does, and undoes it; gives what it returned."""

    async def run() -> Answer:
        async with opened_stores(config) as reached:
            await prepare(config, reached)
            database = Database(
                reached.database_url, pool_size=1, audit_keys=audit_chain.keys_of(config.secrets.peppers)
            )
            try:
                async with database.transaction() as connection:
                    answer = await work(connection)
                    await connection.rollback()
                    return answer
            finally:
                await database.close()

    return asyncio.run(run())


async def find_user(connection: AsyncConnection, named: str) -> User:
    """By id or by e-mail address. Raises NotFound."""
    identity = _uuid(named)
    user = await (users.get(connection, identity) if identity else users.get_by_email(connection, named))
    if user is None:
        raise NotFound("user", named)
    return user


async def find_plan(connection: AsyncConnection, named: str) -> StoredPlan:
    """By id or by name. Raises NotFound, naming the plans there are."""
    plan = await plans.find(connection, named)
    if plan is None:
        known = ", ".join(each.id for each in await plans.list_plans(connection))
        raise NotFound("plan", f"{named!r}; there are: {known}")
    return plan


@asynccontextmanager
async def _transaction(config: Config) -> AsyncIterator[AsyncConnection]:
    async with opened_stores(config) as reached:
        await prepare(config, reached)
        database = Database(reached.database_url, pool_size=1, audit_keys=audit_chain.keys_of(config.secrets.peppers))
        try:
            async with database.transaction() as connection:
                yield connection
            await _publish(config, reached, database)
        finally:
            await database.close()


async def _publish(config: Config, reached: Reached, database: Database) -> None:
    """Tells Redis at once. Where it is away, the outbox worker will: the change itself is committed."""
    redis_client = RedisClient(reached.redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS, scripts=SCRIPTS)
    with suppress(MeterUnavailable):
        await redis_client.open()
        try:
            await OutboxPublisher(
                database, Meter(redis_client, partitions=config.redis.partitions, owner=ACTOR)
            ).publish_all()
        finally:
            await redis_client.close()


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
