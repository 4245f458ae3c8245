"""Usage: journal lines become rows, and what they cost is taken from the accounts, exactly once.

A line that is here already has no effect whatever, so a batch may be replayed after any crash. Everything is set-based:
no line is looked at in Python. One transaction, with the offset of the journal moved in it, makes the whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg
from sqlalchemy import TextClause, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits import thresholds
from gateway.ledger.credits.movements import burn_down_sql
from gateway.ledger.db.session import outages_typed
from policies.usage.records import BALANCE_AFTER, COLUMNS, TAIL_COLUMNS


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was new: rows written, and accounts that were charged."""

    rows: int
    accounts: int


class MalformedLines(ValueError):  # noqa: N818 - named for the condition
    """PostgreSQL refused the batch; the message names the line and the column. The transaction is lost."""


async def ingest(connection: AsyncConnection, lines: Iterable[bytes]) -> Ingested:
    """Writes usage rows from lines of `policies.records`, and charges their accounts.

    Rows of unknown users are kept and charge nobody. A balance may go below zero. Raises MalformedLines.
    """
    return await _take(connection, lines, _INSERT)


async def correct(connection: AsyncConnection, lines: Iterable[bytes]) -> Ingested:
    """Gives calls that stand written as abandoned, at no charge, the end and the charge that their lines say.

    A line whose row is missing becomes the row, and the line of its abandonment then has no effect, so the order in
    which the two arrive does not matter. Raises MalformedLines.
    """
    return await _take(connection, lines, _CORRECT)


async def _take(connection: AsyncConnection, lines: Iterable[bytes], statement: TextClause) -> Ingested:
    await _prepare(connection)
    with _refusals_typed():
        await _copy(connection, lines)
        rows: int = (await connection.execute(statement)).scalar_one()
    return Ingested(rows, await _charge(connection) if rows else 0)


# Types that do not match those of usage_tracking: created_at comes as microseconds since the epoch.
_TYPES = {
    **dict.fromkeys(("request_id", "user_id", "api_key_id", "subscription_id"), "uuid"),
    **dict.fromkeys(("created_at", "credits_charged", "tokens_used", BALANCE_AFTER), "bigint"),
    **dict.fromkeys(("request_bytes", "response_bytes", "file_size_bytes"), "bigint"),
    **dict.fromkeys(("product_count", "response_time_ms", "upstream_time_ms"), "integer"),
    "status_code": "smallint",
    "cost_usd": "numeric(12, 6)",
    "metadata": "jsonb",
}
_LINES = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in COLUMNS)
_CREATE_LINES = text(f"CREATE TEMP TABLE IF NOT EXISTS usage_lines ({_LINES}) ON COMMIT DELETE ROWS")
_CREATE_CHARGES = text("""
    CREATE TEMP TABLE IF NOT EXISTS usage_charges (user_id uuid, requests bigint, credits bigint) ON COMMIT DELETE ROWS
""")

# What the lines have beyond usage_tracking is for analysis_history; the balance after is metadata.
_KEPT = [name for name in COLUMNS if name not in ("file_name", "file_sha256", "content_type", BALANCE_AFTER)]
_AS_ROW = {
    "created_at": "timestamptz 'epoch' + l.created_at * interval '1 microsecond'",
    "product_count": "coalesce(l.product_count, 1)",
    "credits_charged": "coalesce(l.credits_charged, 0)",
    "metadata": f"""CASE WHEN l.{BALANCE_AFTER} IS NULL THEN coalesce(l.metadata, '{{}}')
                         WHEN l.metadata IS NULL THEN jsonb_build_object('{BALANCE_AFTER}', l.{BALANCE_AFTER})
                         ELSE l.metadata || jsonb_build_object('{BALANCE_AFTER}', l.{BALANCE_AFTER}) END""",
}

_HISTORY_TAIL = (
    *("file_name", "file_size_bytes", "file_sha256", "content_type"),
    *("status", "response_time_ms", "credits_charged", "result_summary"),
)


def _write(lines: str, *, row_exists: str, history_exists: str) -> TextClause:
    """One statement: a row, its history and its share of the charge come of the same RETURNING, hence of new ones only.

    `lines` names usage_lines or a part of them; the other two say what is done where a row is there already.
    """
    return text(f"""
    WITH written AS (
         INSERT INTO usage_tracking AS t ({", ".join(_KEPT)})
         SELECT {", ".join(_AS_ROW.get(name, f"l.{name}") for name in _KEPT)} FROM {lines} l
         ON CONFLICT {row_exists}
         RETURNING t.request_id, t.created_at, t.user_id, t.usage_type, t.credits_charged),
    history AS (
         INSERT INTO analysis_history (
                id, request_id, created_at, user_id, api_key_id, subscription_id, analysis_type, file_name,
                file_size_bytes, file_sha256, content_type, status, response_time_ms, credits_charged, result_summary)
         SELECT w.request_id, w.request_id, w.created_at, l.user_id, l.api_key_id, l.subscription_id, l.endpoint,
                l.file_name, l.file_size_bytes, l.file_sha256, l.content_type, l.outcome, l.response_time_ms,
                w.credits_charged,
                jsonb_build_object('status_code', l.status_code, 'response_bytes', l.response_bytes)
           FROM written w JOIN {lines} l USING (request_id)
          WHERE w.usage_type = 'analysis'
         ON CONFLICT {history_exists}),
    charges AS (
         INSERT INTO usage_charges
         SELECT user_id, count(*), sum(credits_charged) FROM written GROUP BY user_id HAVING sum(credits_charged) > 0)
    SELECT count(*) FROM written
    """)  # noqa: S608 - made of constants


def _set(columns: Iterable[str]) -> str:
    return "DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in columns)


_INSERT = _write("usage_lines", row_exists="DO NOTHING", history_exists="DO NOTHING")
_CORRECT = _write(
    "(SELECT DISTINCT ON (request_id) * FROM usage_lines)",  # an upsert refuses to touch a row twice
    row_exists=f"(request_id, created_at) {_set(name for name in TAIL_COLUMNS if name in _KEPT)}"
    " WHERE t.outcome = 'abandoned' AND t.credits_charged = 0",
    history_exists=f"(id, created_at) {_set(_HISTORY_TAIL)}",
)

# Always in order of user, and whoever changes grants takes this lock first: no two can wait for each other in a circle.
# A statement of its own, so that the next ones see the grants as they are once the locks are held.
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
    # Empty unless this transaction has ingested before.
    await connection.execute(text("DELETE FROM usage_lines"))
    await connection.execute(text("DELETE FROM usage_charges"))


async def _copy(connection: AsyncConnection, lines: Iterable[bytes]) -> None:
    raw = (await connection.get_raw_connection()).driver_connection
    if raw is None:
        raise asyncpg.InterfaceError("the connection is closed")
    with outages_typed():
        await raw.copy_to_table("usage_lines", source=io.BytesIO(b"".join(lines)), columns=COLUMNS)


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
