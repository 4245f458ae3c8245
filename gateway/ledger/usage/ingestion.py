"""Turns journal lines into usage rows and charges their accounts, exactly once.

A line whose row is there already has no effect, so a batch may be replayed after any crash. Every statement is
set-based; Python looks at no line. One transaction holds all of it and the new offset of the journal.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg
from sqlalchemy import TextClause, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits import thresholds
from gateway.ledger.credits.movements import burn_down_sql
from gateway.ledger.db.session import outages_typed
from gateway.ledger.db.tables import usage_tracking
from policies.usage.records import BALANCE_AFTER, COLUMNS, SUFFIX_COLUMNS


@dataclass(frozen=True, slots=True)
class IngestResult:
    """How many rows were new, and how many accounts were charged."""

    rows: int
    accounts: int


class MalformedLines(ValueError):  # noqa: N818 - named for the condition
    """PostgreSQL refused the batch; the message names the line and the column. The transaction is lost."""


async def ingest(
    connection: AsyncConnection, lines: Iterable[bytes], *, columns: Sequence[str] = COLUMNS
) -> IngestResult:
    """Writes usage rows from lines of these columns (`policies/usage/records.py`), and charges their accounts.

    Columns that the lines lack are NULL. Rows of unknown users charge nobody. A balance may go below zero. Raises
    MalformedLines.
    """
    return await _write_lines(connection, lines, _INSERT, columns=columns)


async def record(connection: AsyncConnection, lines: Iterable[bytes], *, columns: Sequence[str] = COLUMNS) -> int:
    """Writes usage rows whose credits another system has charged already; gives how many were new.

    They charge nobody. Raises MalformedLines.
    """
    await _prepare(connection)
    with _refusals_typed():
        await _copy(connection, lines, columns)
        rows: int = (await connection.execute(_INSERT)).scalar_one()
    return rows


async def correct(
    connection: AsyncConnection, lines: Iterable[bytes], *, columns: Sequence[str] = COLUMNS
) -> IngestResult:
    """Gives calls whose rows say abandoned at no charge the outcome and the charge of their lines.

    A line whose row is missing becomes the row; the line of its abandonment then has no effect. So the two may arrive
    in any order. Raises MalformedLines.
    """
    return await _write_lines(connection, lines, _CORRECT, columns=columns)


async def _write_lines(
    connection: AsyncConnection, lines: Iterable[bytes], statement: TextClause, *, columns: Sequence[str]
) -> IngestResult:
    await _prepare(connection)
    with _refusals_typed():
        await _copy(connection, lines, columns)
        rows: int = (await connection.execute(statement)).scalar_one()
    return IngestResult(rows, await _charge(connection) if rows else 0)


# What the lines have beyond usage_tracking is for analysis_history; the balance after the call is metadata.
_NO_ROW_COLUMNS = frozenset(("file_name", "file_sha256", "content_type", BALANCE_AFTER))
_ROW_COLUMNS = [name for name in COLUMNS if name not in _NO_ROW_COLUMNS]


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy leaves it bare


def _line_type(name: str) -> str:
    """The type of a column of usage_tracking; `created_at` comes as microseconds since the epoch."""
    if name in ("created_at", BALANCE_AFTER):
        return "bigint"
    return "text" if name in _NO_ROW_COLUMNS else usage_tracking.c[name].type.compile(_DIALECT)


_LINES = ", ".join(f"{name} {_line_type(name)}" for name in COLUMNS)
_CREATE_LINES = text(f"CREATE TEMP TABLE IF NOT EXISTS usage_lines ({_LINES}) ON COMMIT DELETE ROWS")
_CREATE_CHARGES = text("""
    CREATE TEMP TABLE IF NOT EXISTS usage_charges (user_id uuid, requests bigint, credits bigint) ON COMMIT DELETE ROWS
""")

_AS_ROW = {
    "created_at": "timestamptz 'epoch' + l.created_at * interval '1 microsecond'",
    "product_count": "coalesce(l.product_count, 1)",
    "credits_charged": "coalesce(l.credits_charged, 0)",
    "metadata": f"""CASE WHEN l.{BALANCE_AFTER} IS NULL THEN coalesce(l.metadata, '{{}}')
                         WHEN l.metadata IS NULL THEN jsonb_build_object('{BALANCE_AFTER}', l.{BALANCE_AFTER})
                         ELSE l.metadata || jsonb_build_object('{BALANCE_AFTER}', l.{BALANCE_AFTER}) END""",
}

_HISTORY_UPDATES = (
    *("file_name", "file_size_bytes", "file_sha256", "content_type"),
    *("status", "response_time_ms", "credits_charged", "result_summary"),
)


def _write(lines: str, *, row_exists: str, history_exists: str) -> TextClause:
    """One statement writes a row, its history and its charge from the same RETURNING, so only new rows are charged.

    `lines` names usage_lines or a part of them; the other two say what happens if a row is there already.
    """
    return text(f"""
    WITH recorded AS (
         INSERT INTO usage_tracking AS t ({", ".join(_ROW_COLUMNS)})
         SELECT {", ".join(_AS_ROW.get(name, f"l.{name}") for name in _ROW_COLUMNS)} FROM {lines} l
         ON CONFLICT {row_exists}
         RETURNING t.request_id, t.created_at, t.user_id, t.usage_type, t.credits_charged),
    history AS (
         INSERT INTO analysis_history (
                id, request_id, created_at, user_id, api_key_id, subscription_id, analysis_type, file_name,
                file_size_bytes, file_sha256, content_type, status, response_time_ms, credits_charged, result_summary)
         SELECT r.request_id, r.request_id, r.created_at, l.user_id, l.api_key_id, l.subscription_id, l.endpoint,
                l.file_name, l.file_size_bytes, l.file_sha256, l.content_type, l.outcome, l.response_time_ms,
                r.credits_charged,
                jsonb_build_object('status_code', l.status_code, 'response_bytes', l.response_bytes)
           FROM recorded r JOIN {lines} l USING (request_id)
          WHERE r.usage_type = 'analysis'
         ON CONFLICT {history_exists}),
    charges AS (
         INSERT INTO usage_charges
         SELECT user_id, count(*), sum(credits_charged) FROM recorded GROUP BY user_id HAVING sum(credits_charged) > 0)
    SELECT count(*) FROM recorded
    """)  # noqa: S608 - made of constants


def _set(columns: Iterable[str]) -> str:
    return "DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in columns)


_INSERT = _write("usage_lines", row_exists="DO NOTHING", history_exists="DO NOTHING")
_CORRECT = _write(
    "(SELECT DISTINCT ON (request_id) * FROM usage_lines)",  # an upsert refuses to touch a row twice
    row_exists=f"(request_id, created_at) {_set(name for name in SUFFIX_COLUMNS if name in _ROW_COLUMNS)}"
    " WHERE t.outcome = 'abandoned' AND t.credits_charged = 0",
    history_exists=f"(id, created_at) {_set(_HISTORY_UPDATES)}",
)

# Every transaction that changes grants takes this lock first, in the order of users, so none can deadlock. It is a
# separate statement, so that the following ones see the grants as they are under the lock.
_LOCK = text("""
    SELECT count(*) FROM (
        SELECT FROM user_credits WHERE user_id IN (SELECT user_id FROM usage_charges)
         ORDER BY user_id FOR UPDATE) locked
""")

_BURN = text(burn_down_sql("usage_charges"))

_BALANCE = text("""
    WITH charged AS (
         UPDATE user_credits b
            SET current_credits = b.current_credits - c.credits,
                total_credits_used = b.total_credits_used + c.credits,
                credits_used_this_period = b.credits_used_this_period + c.credits,
                updated_at = now()
           FROM usage_charges c WHERE c.user_id = b.user_id
         RETURNING b.user_id, b.current_credits, c.credits, c.requests)
    INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, metadata)
    SELECT user_id, 'usage', -credits, current_credits, 'worker:usage_writer', jsonb_build_object('requests', requests)
      FROM charged
""")


async def _prepare(connection: AsyncConnection) -> None:
    await connection.execute(_CREATE_LINES)
    await connection.execute(_CREATE_CHARGES)
    # They are empty unless this transaction has ingested before.
    await connection.execute(text("DELETE FROM usage_lines"))
    await connection.execute(text("DELETE FROM usage_charges"))


async def _copy(connection: AsyncConnection, lines: Iterable[bytes], columns: Sequence[str]) -> None:
    raw = (await connection.get_raw_connection()).driver_connection
    if raw is None:
        raise asyncpg.InterfaceError("the connection is closed")
    with outages_typed():
        await raw.copy_to_table("usage_lines", source=io.BytesIO(b"".join(lines)), columns=columns)


@contextmanager
def _refusals_typed() -> Iterator[None]:
    try:
        yield
    except asyncpg.DataError as error:
        raise MalformedLines(f"{error}: {getattr(error, 'context', '')}") from error
    except IntegrityError as error:
        raise MalformedLines(str(error.orig)) from error


async def _charge(connection: AsyncConnection) -> int:
    locked: int = (await connection.execute(_LOCK)).scalar_one()
    if locked:
        await connection.execute(_BURN)
        await connection.execute(_BALANCE)
        await thresholds.notify_charged(connection)
    return locked
