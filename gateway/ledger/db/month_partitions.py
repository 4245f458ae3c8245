"""Month partitions of the growing tables: created ahead, filled from the default partition, dropped when old."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.bulk_copy import Write, copy_query
from gateway.ledger.db.session import lift_timeouts

PARTITIONED = ("usage_tracking", "analysis_history")

_NAME = re.compile(rf"({'|'.join(PARTITIONED)})_(\d{{4}})_(\d{{2}})")

_TIE = {"usage_tracking": "request_id", "analysis_history": "id"}

# Longer than any month takes; the connections of the workers end other statements after seconds.
_EXPORT_SECONDS = 86_400.0

# Fixed numbers, "months" and "freeze" in ASCII. Without the lock, two nodes that create the same month would conflict.
_ADVISORY_LOCK = int.from_bytes(b"months", "big")
_FREEZE_LOCK = int.from_bytes(b"freeze", "big")


@dataclass(frozen=True, slots=True, order=True)
class MonthPartition:
    """A month of a table; `begins` is its start, in UTC."""

    table: str
    begins: datetime

    @property
    def name(self) -> str:
        return f"{self.table}_{self.begins:%Y_%m}"

    @property
    def ends(self) -> datetime:
        return _next_month(self.begins)


def is_partition(table_name: str) -> bool:
    """Whether the name is that of a month partition or a default partition."""
    return _NAME.fullmatch(table_name) is not None or table_name in {f"{table}_default" for table in PARTITIONED}


async def list_partitions(connection: AsyncConnection) -> tuple[MonthPartition, ...]:
    """The existing month partitions, oldest first within each table."""
    rows = await connection.execute(_CHILDREN, {"parents": list(PARTITIONED)})
    found = (parse(row.name) for row in rows)
    return tuple(sorted(partition for partition in found if partition is not None))


async def create_missing(
    connection: AsyncConnection, *, now: datetime, months_ahead: int = 3
) -> tuple[MonthPartition, ...]:
    """Creates the missing partitions of this month and the next ones; gives them.

    It moves rows of a created month out of the default partition.
    """
    await _lock(connection)
    existing = set(await list_partitions(connection))
    missing = [
        MonthPartition(table, begins)
        for begins in _months(now, months_ahead + 1)
        for table in PARTITIONED
        if MonthPartition(table, begins) not in existing
    ]
    for partition in missing:
        await _create(connection, partition)
    return tuple(missing)


def parse(name: str) -> MonthPartition | None:
    """The partition of this name; None if it is no name of one."""
    match = _NAME.fullmatch(name)
    return None if match is None else MonthPartition(match[1], datetime(int(match[2]), int(match[3]), 1, tzinfo=UTC))


async def create(connection: AsyncConnection, partitions: Iterable[MonthPartition]) -> None:
    """Creates those of these partitions that are missing."""
    await _lock(connection)
    existing = set(await list_partitions(connection))
    for partition in partitions:
        if partition not in existing:
            await _create(connection, partition)


async def list_ended(connection: AsyncConnection, instant: datetime) -> tuple[MonthPartition, ...]:
    """The partitions that ended by `instant`, oldest first within each table."""
    return tuple(partition for partition in await list_partitions(connection) if partition.ends <= instant)


async def drop(connection: AsyncConnection, partitions: Iterable[MonthPartition]) -> None:
    """Drops these partitions with their rows.

    The journal must have no entry of these months: without its row, an entry would be charged once more.
    """
    await _lock(connection)
    for partition in partitions:
        await connection.execute(text(f"DROP TABLE {partition.name}"))


async def freeze(connection: AsyncConnection, partition: MonthPartition) -> bool:
    """Keeps the rows as they are until the end of the transaction, however long that is, for one process at a time.

    False if another process has frozen a partition, or this one is gone. Readers go on.
    """
    if not (
        await connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _FREEZE_LOCK})
    ).scalar_one():
        return False
    if partition not in await list_partitions(connection):
        return False
    await lift_timeouts(connection)
    await connection.execute(text(f"LOCK TABLE {partition.name} IN SHARE MODE"))
    return True


async def export_csv(connection: AsyncConnection, partition: MonthPartition, write: Write) -> int:
    """Writes all rows as CSV with a header, oldest first, so that the same rows give the same bytes; gives how many."""
    query = f"SELECT * FROM {partition.name} ORDER BY created_at, {_TIE[partition.table]}"  # noqa: S608 - made of constants
    return await copy_query(connection, query, write, format="csv", header=True, timeout=_EXPORT_SECONDS)


def month_before(instant: datetime, months: int) -> datetime:
    """The start, in UTC, of the month `months` before that of `instant`."""
    utc = instant.astimezone(UTC)
    years, month = divmod(utc.year * 12 + utc.month - 1 - months, 12)
    return datetime(years, month + 1, 1, tzinfo=UTC)


_CHILDREN = text("""
    SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent IN (SELECT CAST(CAST(p AS text) AS regclass) FROM unnest(CAST(:parents AS text[])) p)
""")

# Continues `WITH moved AS (…)`. A sink that is not registered copies every hour when it registers itself.
_MARKS = """
    , marked AS (
        INSERT INTO usage_sink_changes (hour) SELECT DISTINCT date_trunc('hour', created_at, 'UTC') FROM moved
         WHERE EXISTS (SELECT FROM usage_sinks WHERE expires_at > now()))
"""


async def _lock(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


async def _knows_sinks(connection: AsyncConnection) -> bool:
    """False in a schema of an older version, to which a backup is restored before it is migrated."""
    found = await connection.execute(text("SELECT to_regclass('usage_sink_changes') IS NOT NULL"))
    return bool(found.scalar_one())


async def _create(connection: AsyncConnection, partition: MonthPartition) -> None:
    """Creates a separate table, moves the rows of the default partition to it, and attaches it.

    Marks the hours of moved usage for the sink, since no trigger sees them. DDL takes no parameters, so names and
    bounds are in the text; all of them come from dates.
    """
    default, name = f"{partition.table}_default", partition.name
    bounds = f"FROM ('{partition.begins.isoformat()}') TO ('{partition.ends.isoformat()}')"
    within = f"created_at >= '{partition.begins.isoformat()}' AND created_at < '{partition.ends.isoformat()}'"
    moved = f"WITH moved AS (DELETE FROM {default} WHERE {within} RETURNING *)"  # noqa: S608 - see above
    marks = _MARKS if partition.table == "usage_tracking" and await _knows_sinks(connection) else ""
    # Locks the parent first, as writers do; rows that arrive meanwhile wait and then go to the new partition.
    for statement in (
        f"LOCK TABLE {partition.table} IN SHARE ROW EXCLUSIVE MODE",
        f"CREATE TABLE {name} (LIKE {partition.table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        f"{moved} {marks} INSERT INTO {name} SELECT * FROM moved",  # noqa: S608 - see above
        f"ALTER TABLE {partition.table} ATTACH PARTITION {name} FOR VALUES {bounds}",
    ):
        await connection.exec_driver_sql(statement)


def _months(now: datetime, count: int) -> Iterator[datetime]:
    begins = month_before(now, 0)
    for _ in range(count):
        yield begins
        begins = _next_month(begins)


def _next_month(begins: datetime) -> datetime:
    return begins.replace(year=begins.year + begins.month // 12, month=begins.month % 12 + 1)
