"""What must stand in PostgreSQL before anything is served: the schema of this version, the plans, the permissions."""

from __future__ import annotations

from dataclasses import asdict

from gateway.config import Config, PlanSpec
from gateway.ledger import plans, schema
from gateway.ledger.plans import PlanTerms
from gateway.ledger.session import Database
from gateway.processes.stores import EMBEDDED, Reached


class SchemaBehind(Exception):  # noqa: N818 - reads as the sentence it is
    """The database is of an older version, and is not ours to migrate unasked."""


async def prepare(config: Config, reached: Reached) -> None:
    """Migrates an embedded database, or asks for the migration of any other; creates plans that are missing."""
    if config.database.url == EMBEDDED:
        await schema.upgrade(reached.database_url)
    else:
        await _check_schema(reached.database_url)
    database = Database(reached.database_url, pool_size=1)
    try:
        async with database.transaction() as connection:
            await plans.seed(connection, [terms_of(spec) for spec in config.plans])
    finally:
        await database.close()


def terms_of(spec: PlanSpec) -> PlanTerms:
    """A plan as the configuration writes it, as the ledger keeps it."""
    written = asdict(spec)
    return PlanTerms(**{name: written[name] for name in PlanTerms.__dataclass_fields__ if name in written})


async def _check_schema(database_url: str) -> None:
    current, head = await schema.current(database_url), schema.head()
    if current != head:
        at = f"at revision {current}" if current else "empty"
        raise SchemaBehind(f"the database is {at}, this version needs {head}: run `gateway migrate up`")
