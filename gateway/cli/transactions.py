"""One database transaction for one command, beside a gateway that serves or alone; then the publication to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.arguments import is_text
from gateway.cli.installation import REDIS_TIMEOUT_SECONDS, open_database
from gateway.config import Config
from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher

ACTOR = "cli"
Result = TypeVar("Result")


def run_in_transaction(config: Config, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
    """Runs `work` in a transaction, which commits when it returns, and publishes the changes."""

    async def run() -> Result:
        async with open_database(config) as (stores, database):
            async with database.transaction() as connection:
                result = await work(connection)
            await publish(config, stores.redis_url, database)
        return result

    return asyncio.run(run())


def dry_run(config: Config, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
    """Runs `work` in a transaction and rolls it back."""

    async def run() -> Result:
        async with open_database(config) as (_, database), database.transaction() as connection:
            result = await work(connection)
            await connection.rollback()
        return result

    return asyncio.run(run())


async def find_user(connection: AsyncConnection, id_or_email: str) -> User:
    """Raises NotFound."""
    if not is_text(id_or_email):
        raise NotFound("user", id_or_email)
    user_id = _parse_uuid(id_or_email)
    user = await (users.get(connection, user_id) if user_id else users.get_by_email(connection, id_or_email))
    if user is None:
        raise NotFound("user", id_or_email)
    return user


async def find_plan(connection: AsyncConnection, id_or_name: str) -> StoredPlan:
    """Raises NotFound, with the ids of the plans that exist."""
    plan = await plans.find(connection, id_or_name) if is_text(id_or_name) else None
    if plan is None:
        known = ", ".join(each.id for each in await plans.list_plans(connection))
        raise NotFound("plan", f"{id_or_name!r}; there are: {known}")
    return plan


async def publish(config: Config, redis_url: str, database: Database) -> None:
    """Publishes at once. Where Redis is away, the outbox worker publishes later: the change itself is committed."""
    redis_client = RedisClient(redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS, scripts=SCRIPTS)
    with suppress(MeterUnavailable):
        await redis_client.open()
        try:
            meter = Meter(redis_client, partitions=config.redis.partitions, owner=ACTOR)
            await OutboxPublisher(database, meter).publish_all()
        finally:
            await redis_client.close()


def _parse_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
