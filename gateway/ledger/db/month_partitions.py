"""Monthly partitions of the tables that grow for ever: made ahead, filled from the default one, dropped when old."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

PARTITIONED = ("usage_tracking", "analysis_history")

_NAME = re.compile(rf"({'|'.join(PARTITIONED)})_(\d{{4}})_(\d{{2}})")

# Any fixed number will do; it spells "months". Two nodes that make or drop the same month would otherwise fail one.
_ADVISORY_LOCK = int.from_bytes(b"months", "big")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A month of a table; `begins` is its first instant, in UTC."""

    table: str
    begins: datetime

    @property
    def name(self) -> str:
        return f"{self.table}_{self.begins:%Y_%m}"

    @property
    def ends(self) -> datetime:
        return _next_month(self.begins)


def is_partition(table_name: str) -> bool:
    """Whether the name is one of a month's partition or of a default one."""
    return _NAME.fullmatch(table_name) is not None or table_name in {f"{table}_default" for table in PARTITIONED}


async def list_partitions(connection: AsyncConnection) -> tuple[Partition, ...]:
    """The months there are, oldest first within each table."""
    rows = await connection.execute(_CHILDREN, {"parents": list(PARTITIONED)})
    matches = (_NAME.fullmatch(row.name) for row in rows)
    return tuple(
        sorted(Partition(match[1], datetime(int(match[2]), int(match[3]), 1, tzinfo=UTC)) for match in matches if match)
    )


async def ensure(connection: AsyncConnection, *, now: datetime, months_ahead: int = 3) -> tuple[Partition, ...]:
    """Makes this month's partitions and the next ones' where missing; gives those it made.

    Rows that came before their month was made wait in the default partition and are moved.
    """
    await _one_at_a_time(connection)
    existing = set(await list_partitions(connection))
    missing = [
        Partition(table, begins)
        for begins in _months(now, months_ahead + 1)
        for table in PARTITIONED
        if Partition(table, begins) not in existing
    ]
    for partition in missing:
        await _make(connection, partition)
    return tuple(missing)


async def drop_before(connection: AsyncConnection, instant: datetime) -> tuple[Partition, ...]:
    """Drops the months that ended by `instant`, rows and all; gives them.

    A journal line of a dropped month would be taken for a new one: only for months that no journal holds any more.
    """
    await _one_at_a_time(connection)
    ended = [partition for partition in await list_partitions(connection) if partition.ends <= instant]
    for partition in ended:
        await connection.execute(text(f"DROP TABLE {partition.name}"))
    return tuple(ended)


def month_before(instant: datetime, months: int) -> datetime:
    """The first instant, in UTC, of the month that is so many months before that of `instant`; 0 is its own."""
    utc = instant.astimezone(UTC)
    years, month = divmod(utc.year * 12 + utc.month - 1 - months, 12)
    return datetime(years, month + 1, 1, tzinfo=UTC)


_CHILDREN = text("""
    SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent IN (SELECT CAST(CAST(p AS text) AS regclass) FROM unnest(CAST(:parents AS text[])) p)
""")


async def _one_at_a_time(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


async def _make(connection: AsyncConnection, partition: Partition) -> None:
    """A table of its own first, then attached: the rows of the default one must be out of it before.

    The names and bounds stand in the text because DDL takes no parameters; all are made here, of dates.
    """
    default, name = f"{partition.table}_default", partition.name
    bounds = f"FROM ('{partition.begins.isoformat()}') TO ('{partition.ends.isoformat()}')"
    within = f"created_at >= '{partition.begins.isoformat()}' AND created_at < '{partition.ends.isoformat()}'"
    # The order of locks is parent first, as a writer's; late rows wait here and then find their month.
    for statement in (
        f"LOCK TABLE {partition.table} IN SHARE ROW EXCLUSIVE MODE",
        f"CREATE TABLE {name} (LIKE {partition.table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        f"WITH moved AS (DELETE FROM {default} WHERE {within} RETURNING *) INSERT INTO {name} SELECT * FROM moved",  # noqa: S608 - see above
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
