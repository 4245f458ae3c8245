"""Which hours of usage the sink lacks, and the rows of an hour.

A trigger marks the hours of each statement that writes to `usage_tracking`, in its transaction. Whoever deletes the
marks of an hour and then reads its rows has therefore all rows that the marks stand for. The trigger marks only while
a sink has renewed its registration: nobody else pays for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import month_partitions
from gateway.ledger.db.bulk_copy import Write, copy_query
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.db.session import lift_timeouts

HOUR = timedelta(hours=1)
SETTLED = timedelta(minutes=5)  # after the end of an hour: the calls that it admitted have mostly ended
EXPIRY = timedelta(days=2)
# A renewal must not commit after the expiry, which could have left changes unmarked.
MARGIN = timedelta(hours=1)

DROP_ACTION = "usage.drop"  # of the audit log, for each month that is dropped

_EXPORT_SECONDS = 86_400.0
_LOCK = int.from_bytes(b"sink", "big")


async def renew(connection: AsyncConnection) -> bool:
    """Registers the sink for EXPIRY from now. True if it was not registered: then every hour is marked."""
    renewed = await connection.execute(_RENEW, {"expiry": EXPIRY, "margin": MARGIN})
    if renewed.rowcount:
        return False
    # Writers whose transactions began before would not mark what they write. They lock the parent, as do drops.
    await connection.execute(text("LOCK TABLE ONLY usage_tracking IN SHARE ROW EXCLUSIVE MODE"))
    await forget(connection)
    await connection.execute(_REGISTER, {"expiry": EXPIRY})
    await connection.execute(_MARK_ALL)
    return True


async def forget(connection: AsyncConnection) -> None:
    """The sink registers itself once more, and copies every hour."""
    await connection.execute(text("DELETE FROM usage_sinks"))
    await connection.execute(text("DELETE FROM usage_sink_changes"))


async def list_dropped(connection: AsyncConnection) -> list[date]:
    """The months that were dropped, once or more."""
    return list((await connection.execute(_DROPPED, {"action": DROP_ACTION})).scalars())


async def mark_months(connection: AsyncConnection, months: Iterable[date], *, user_ids: Iterable[UUID]) -> None:
    """Marks all hours of those of the months in which one of the users called."""
    await connection.execute(_MARK_MONTHS, {"months": list(months), "user_ids": list(user_ids)})


async def list_due(connection: AsyncConnection, *, limit: int, without: Iterable[datetime] = ()) -> list[datetime]:
    """Hours with changes that ended SETTLED ago or before, oldest first."""
    found = await connection.execute(_DUE, {"due": HOUR + SETTLED, "limit": limit, "without": list(without)})
    return [row.hour for row in found]


async def lag_seconds(connection: AsyncConnection) -> float:
    """Since the end of the oldest hour that is due; 0 if none is."""
    seconds: float = (await connection.execute(_LAG, {"hour": HOUR, "due": HOUR + SETTLED})).scalar_one()
    return seconds


async def is_behind(connection: AsyncConnection, instant: datetime) -> bool:
    """Whether the sink may lack rows from before `instant`."""
    behind: bool = (await connection.execute(_BEHIND, {"instant": instant})).scalar_one()
    return behind


async def claim(connection: AsyncConnection, hour: datetime) -> bool:
    """Takes the marks of the hour. False if another process writes to the sink, or has taken them."""
    lock = await connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})
    if not lock.scalar_one():
        return False
    await lift_timeouts(connection)
    # So that no month is dropped until the end of the transaction.
    await connection.execute(text("LOCK TABLE ONLY usage_tracking IN ACCESS SHARE MODE"))
    taken = await connection.execute(text("DELETE FROM usage_sink_changes WHERE hour = :hour"), {"hour": hour})
    return taken.rowcount > 0


async def has_partition(connection: AsyncConnection, hour: datetime) -> bool:
    """Whether the month of the hour has a partition; else one is to come, or was dropped with its rows."""
    return _month_of(hour) in await month_partitions.list_partitions(connection)


async def count_drops(connection: AsyncConnection, hour: datetime) -> int:
    """How often the month of the hour was dropped. The rows that are there came after the last time."""
    month = {"partition": _month_of(hour).name, "action": DROP_ACTION}
    drops: int = (await connection.execute(_DROPS, month)).scalar_one()
    return drops


async def export_csv(connection: AsyncConnection, hour: datetime, write: Write) -> int:
    """Writes the rows of the hour as CSV with a header, oldest first; gives how many."""
    # COPY takes no parameters; both are moments.
    query = f"""
        SELECT * FROM usage_tracking
         WHERE created_at >= '{hour.isoformat()}' AND created_at < '{(hour + HOUR).isoformat()}'
         ORDER BY created_at, request_id
    """  # noqa: S608 - see above
    return await copy_query(connection, query, write, format="csv", header=True, timeout=_EXPORT_SECONDS)


def _month_of(hour: datetime) -> MonthPartition:
    return MonthPartition("usage_tracking", month_partitions.month_before(hour, 0))


_RENEW = text("UPDATE usage_sinks SET expires_at = now() + :expiry WHERE expires_at > now() + :margin")
_REGISTER = text("INSERT INTO usage_sinks (name, expires_at) VALUES ('parquet', now() + :expiry)")
# Writers wait meanwhile, so each hour is one look-up of the index: a scan of all sums may take seconds.
_MARK_ALL = text("""
    INSERT INTO usage_sink_changes (hour)
    WITH RECURSIVE hours AS (
         SELECT min(hour) AS hour FROM usage_hours
         UNION ALL
         SELECT (SELECT min(u.hour) FROM usage_hours u WHERE u.hour > h.hour) FROM hours h WHERE h.hour IS NOT NULL)
    SELECT hour FROM hours WHERE hour IS NOT NULL
""")
# By ix_audit_log_entity_entity_id_id.
_DROPPED = text("""
    SELECT DISTINCT to_date(right(entity_id, 7), 'YYYY_MM') FROM audit_log
     WHERE entity = 'partition' AND entity_id LIKE 'usage\\_tracking%' AND action = :action
""")
# A registration that has expired marks every hour once it is renewed.
_MARK_MONTHS = text("""
    INSERT INTO usage_sink_changes (hour)
    SELECT hours.hour
      FROM (SELECT DISTINCT month FROM usage_months
             WHERE month = ANY (CAST(:months AS date[])) AND user_id = ANY (CAST(:user_ids AS uuid[]))) called
     CROSS JOIN LATERAL (
           SELECT at AT TIME ZONE 'UTC' AS hour
             FROM generate_series(CAST(called.month AS timestamp), called.month + interval '1 month - 1 hour', '1 hour')
               AS series (at)
           ) hours
     WHERE EXISTS (SELECT FROM usage_hours WHERE usage_hours.hour = hours.hour)
       AND EXISTS (SELECT FROM usage_sinks WHERE expires_at > now())
""")
_DUE = text("""
    SELECT DISTINCT hour FROM usage_sink_changes
     WHERE hour <= now() - CAST(:due AS interval) AND hour <> ALL (CAST(:without AS timestamptz[]))
     ORDER BY hour LIMIT :limit
""")
# By ix_audit_log_entity_entity_id_id.
_DROPS = text("""
    SELECT count(*) FROM audit_log WHERE entity = 'partition' AND entity_id = :partition AND action = :action
""")
_LAG = text("""
    SELECT CAST(coalesce(extract(epoch FROM now() - min(hour) - CAST(:hour AS interval)), 0) AS double precision)
      FROM usage_sink_changes WHERE hour <= now() - CAST(:due AS interval)
""")
_BEHIND = text("""
    SELECT NOT EXISTS (SELECT FROM usage_sinks WHERE expires_at > now())
        OR EXISTS (SELECT FROM usage_sink_changes WHERE hour < :instant)
""")
