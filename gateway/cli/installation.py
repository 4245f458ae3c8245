"""The database of an installation: opened for a command, at the schema of this version, with configured plans."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import logs
from gateway.config import Config, PlanSpec
from gateway.config.secrets import COMMAND
from gateway.ledger.accounts import peppers
from gateway.ledger.audit import audit_chain
from gateway.ledger.catalogue import configured_plans
from gateway.ledger.catalogue.configured_plans import ConfiguredPlan
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db import schema
from gateway.ledger.db.errors import AlreadyExists, InvalidValue
from gateway.ledger.db.pooler import check_pooler
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.meter.client.client import RedisClient
from gateway.meter.scripts import SCRIPTS
from gateway.runtime.stores import EMBEDDED, StoreUrls, open_store_servers
from policies.billing.providers import provider_ids

REDIS_TIMEOUT_SECONDS = 2.0
STATEMENT_TIMEOUT_SECONDS = 10.0
log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_database(
    config: Config, *, statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS
) -> AsyncIterator[tuple[StoreUrls, Database]]:
    """Reaches or starts the stores, prepares the database and connects to it; closes both at the end.

    A timeout of 0 bounds no statement. Raises SchemaUnfit, DatabaseUnavailable.
    """
    log_warnings()
    async with open_store_servers(config) as stores:
        await prepare(config, stores)
        async with connect(config, stores, statement_timeout_seconds=statement_timeout_seconds) as database:
            yield stores, database


def log_warnings() -> None:
    """Has the lines of a command that logs nothing otherwise on stderr; by default they are among its output."""
    if not structlog.is_configured():
        logs.configure(role=COMMAND, level=logging.WARNING)


@asynccontextmanager
async def connect(
    config: Config, stores: StoreUrls, *, statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS
) -> AsyncIterator[Database]:
    """One connection to a database that is prepared."""
    database = Database(
        stores.database_url,
        pool_size=1,
        statement_timeout_seconds=statement_timeout_seconds,
        audit_keys=audit_chain.keys_of(config.secrets.peppers),
    )
    try:
        yield database
    finally:
        await database.close()


async def prepare_stores(config: Config, stores: StoreUrls) -> None:
    """Checks both stores before processes are started, and prepares the database.

    Raises what `check_postgresql`, `prepare` and `check_redis` do, in this order.
    """
    await check_postgresql(config, stores)
    await prepare(config, stores)
    await check_redis(stores.redis_url)


async def prepare(config: Config, stores: StoreUrls) -> None:
    """Migrates an embedded database and creates missing plans and permissions.

    Raises SchemaUnfit for a schema of another version that does not serve this one, and WrongPepper for a pepper under
    which the database has no digests.
    """
    await _check_schema(stores.database_url, migrates=config.database.url == EMBEDDED)
    async with connect(config, stores) as database:
        await database.check_writable()
        async with database.transaction() as connection:
            await seed(connection, config)
            await peppers.check(connection, config.secrets.peppers)
            if missing := await peppers.list_missing(connection, config.secrets.peppers):
                log.warning("pepper_missing", versions=missing)


async def apply_reload(stores: StoreUrls, config: Config) -> None:
    """Creates the plans and permissions that a reloaded configuration adds, or logs why not.

    Without PostgreSQL, the next start creates them.
    """
    try:
        async with connect(config, stores) as database, database.transaction() as connection:
            await seed(connection, config)
    except (AlreadyExists, DatabaseUnavailable, InvalidValue) as error:
        log.error("plans_not_created", reason=str(error))


async def seed(connection: AsyncConnection, config: Config) -> tuple[str, ...]:
    """Creates the plans and the permissions that are missing, so that subscribers may call what routes ask for.

    Gives the ids of the plans that it created. `configured_plans.seed` says which plan gets which permission.
    """
    configured = [configured_plan(spec) for spec in config.plans]
    return await configured_plans.seed(connection, configured, route_permissions=route_permissions(config))


def route_permissions(config: Config) -> frozenset[str]:
    return frozenset(route.permission for route in config.routes if route.permission is not None)


def configured_plan(spec: PlanSpec) -> ConfiguredPlan:
    """A plan as the configuration writes it, as the ledger takes it."""
    shared = {item.name for item in fields(PlanTerms)} & {item.name for item in fields(PlanSpec)} - {"tiers"}
    tiers = tuple(Tier(up_to=tier.up_to, unit_price=tier.unit_price, flat_price=tier.flat_price) for tier in spec.tiers)
    values = {name: getattr(spec, name) for name in shared}
    if spec.overage is not None:
        values |= {f"overage_{name}": getattr(spec.overage, name) for name in ("credits", "price", "stripe_price_id")}
    terms = PlanTerms(**values, tiers=tiers, provider_ids=provider_ids(spec))
    return ConfiguredPlan(spec.id, terms, spec.permissions)


async def _check_schema(database_url: str, *, migrates: bool) -> None:
    if migrates and ((at := await schema.current(database_url)) is None or schema.is_known(at)):
        await schema.upgrade(database_url)
    fit = await schema.check(database_url)
    if fit.is_newer:
        log.warning("schema_newer", database=fit.at, gateway=fit.newest)
    elif fit.at != fit.newest:
        log.warning("schema_older", database=fit.at, gateway=fit.newest)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[RedisClient]:
    """A client that runs scripts. Raises MeterUnavailable, UnsupportedServer."""
    redis_client = RedisClient(url, timeout_seconds=REDIS_TIMEOUT_SECONDS, scripts=SCRIPTS)
    try:
        await redis_client.open()
        yield redis_client
    finally:
        await redis_client.close()


async def check_postgresql(config: Config, stores: StoreUrls) -> None:
    """Warns of a pooler that drops timeouts: those of the client remain. Raises UnfitPooler, DatabaseUnavailable."""
    if config.database.url != EMBEDDED and (dropped := await check_pooler(stores.database_url)):
        log.warning("pooler_drops_parameters", dropped=dropped, setting="track_extra_parameters")


async def check_redis(redis_url: str) -> None:
    """Raises MeterUnavailable or UnsupportedServer once, before each process that is started raises it.

    Warns of a server that writes no append-only file: what it loses when it is restarted, gateways must replay.
    """
    redis_client = RedisClient(redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS)
    try:
        await redis_client.open()
        if b"aof_enabled:0" in await redis_client.call((b"INFO", b"persistence")):
            log.warning("redis_not_durable", setting="appendonly", found="no", wanted="yes")
    finally:
        await redis_client.close()
