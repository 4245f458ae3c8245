"""What must stand in PostgreSQL before anything is served: the schema of this version, the plans, the permissions."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.config import Config, PlanSpec
from gateway.ledger.audit import audit_chain
from gateway.ledger.catalogue import configured_plans
from gateway.ledger.catalogue.configured_plans import ConfiguredPlan
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db import schema
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.runtime.stores import EMBEDDED, Reached

REDIS_TIMEOUT_SECONDS = 2.0


class SchemaBehind(Exception):  # noqa: N818 - reads as the sentence it is
    """The database is of an older version, and is not ours to migrate unasked."""


async def prepare(config: Config, reached: Reached) -> None:
    """Migrates an embedded database, or asks for the migration of any other; creates what it lacks."""
    if config.database.url == EMBEDDED:
        await schema.upgrade(reached.database_url)
    else:
        await _check_schema(reached.database_url)
    database = Database(reached.database_url, pool_size=1, audit_keys=audit_chain.keys_of(config.secrets.peppers))
    try:
        async with database.transaction() as connection:
            await seed(connection, config)
    finally:
        await database.close()


async def seed(connection: AsyncConnection, config: Config) -> tuple[str, ...]:
    """Creates the plans and the permissions that are missing, so that subscribers may call what routes ask for.

    See `configured_plans.seed` for who gets which permission; gives the ids of the plans that it created.
    """
    written = [configured_plan(spec) for spec in config.plans]
    return await configured_plans.seed(connection, written, route_permissions=route_permissions(config))


def route_permissions(config: Config) -> frozenset[str]:
    return frozenset(route.permission for route in config.routes if route.permission is not None)


def configured_plan(spec: PlanSpec) -> ConfiguredPlan:
    """A plan as the configuration writes it, as the ledger takes it."""
    shared = {item.name for item in fields(PlanTerms)} & {item.name for item in fields(PlanSpec)} - {"tiers"}
    tiers = tuple(Tier(up_to=tier.up_to, unit_price=tier.unit_price, flat_price=tier.flat_price) for tier in spec.tiers)
    terms = PlanTerms(**{name: getattr(spec, name) for name in shared}, tiers=tiers)
    return ConfiguredPlan(spec.id, terms, spec.permissions)


async def _check_schema(database_url: str) -> None:
    current, head = await schema.current(database_url), schema.head()
    if current != head:
        at = f"at revision {current}" if current else "empty"
        raise SchemaBehind(f"the database is {at}, this version needs {head}: run `gateway migrate up`")


async def check_redis(reached: Reached) -> None:
    """Raises MeterUnavailable or UnsupportedServer here, in one line, rather than in every process to be started."""
    redis_client = RedisClient(reached.redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS)
    try:
        await redis_client.open()
    finally:
        await redis_client.close()
