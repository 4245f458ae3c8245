"""Throttles of logins and e-mails, shared by all processes: one row each (`policies.access.throttling`).

A session of the console that was signed out is held like a subject without allowance, until it would have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import Database
from policies.access.throttling import Subject, take, wait_seconds


async def find(database: Database, subjects: Sequence[Subject]) -> dict[bytes, datetime]:
    """What is stored of the subjects: instants by digest, for `longest_wait`."""
    rows = await database.fetch(_FIND_APART, [each.digest for each in subjects])
    return {row["subject"]: row["free_at"] for row in rows}


async def record_attempts(connection: AsyncConnection, subjects: Sequence[Subject], now: datetime) -> int:
    """Records one attempt for every subject and gives 0; or records none and gives the seconds to wait.

    Looks before it locks: to lock a row is to write it, which the attempts that are refused are not worth.
    """
    found = await connection.execute(_FIND, {"subjects": [each.digest for each in subjects]})
    wait = longest_wait({row.subject: row.free_at for row in found}, subjects, now)
    if wait:
        return wait
    ordered = sorted(subjects, key=lambda each: each.digest)  # one order of locks, so no deadlock
    digests = [each.digest for each in ordered]
    rows = await connection.execute(_LOCK, {"subjects": digests, "now": now})
    ahead = {row.subject: (row.free_at - now).total_seconds() for row in rows}
    wait = max((_wait(ahead[each.digest], each) for each in ordered), default=0)
    if not wait:
        taken = [take(ahead[each.digest], each.pace) for each in ordered]
        instants = [now + timedelta(seconds=then or 0.0) for then in taken]
        await connection.execute(_SET, {"subjects": digests, "instants": instants})
    return wait


def longest_wait(free_at: Mapping[bytes, datetime], subjects: Sequence[Subject], now: datetime) -> int:
    """The seconds that an attempt of all the subjects has to wait, 0 where it has not; `free_at` is by digest."""
    known = [each for each in subjects if each.digest in free_at]
    return max((_wait((free_at[each.digest] - now).total_seconds(), each) for each in known), default=0)


def _wait(ahead_seconds: float, subject: Subject) -> int:
    return wait_seconds(ahead_seconds, subject.pace) if take(ahead_seconds, subject.pace) is None else 0


async def refund_attempts(connection: AsyncConnection, subjects: Sequence[Subject]) -> None:
    """Takes back an attempt of each subject, such as a login that succeeded."""
    ordered = sorted(subjects, key=lambda each: each.digest)
    steps = {"subjects": [each.digest for each in ordered], "steps": [each.pace.each for each in ordered]}
    await connection.execute(_LOCK_KNOWN, {"subjects": steps["subjects"]})
    await connection.execute(_REFUND, steps)


async def hold(connection: AsyncConnection, digest: bytes, *, until: datetime) -> None:
    """Holds a subject until then, whatever its pace: such as a session of the console that has ended."""
    await connection.execute(_HOLD, {"subject": digest, "until": until})


async def is_held(connection: AsyncConnection, digest: bytes) -> bool:
    """Whether the subject is held now."""
    return bool((await connection.execute(_IS_HELD, {"subject": digest})).scalar_one())


async def delete_expired(connection: AsyncConnection, *, limit: int) -> int:
    """Deletes at most `limit` throttles that no longer hold anybody; gives how many."""
    return (await connection.execute(_DELETE_EXPIRED, {"limit": limit})).rowcount


_FIND = text("SELECT subject, free_at FROM throttles WHERE subject = ANY(CAST(:subjects AS bytea[]))")
_FIND_APART = "SELECT subject, free_at FROM throttles WHERE subject = ANY($1)"
# The update changes nothing, but it locks and returns the row, also one that another transaction just inserted.
_LOCK = text("""
    INSERT INTO throttles AS t (subject, free_at)
    SELECT unnest(CAST(:subjects AS bytea[])), :now
    ON CONFLICT (subject) DO UPDATE SET free_at = t.free_at
    RETURNING subject, free_at
""")
_HOLD = text("""
    INSERT INTO throttles AS t (subject, free_at) VALUES (:subject, :until)
    ON CONFLICT (subject) DO UPDATE SET free_at = greatest(t.free_at, excluded.free_at)
""")
_IS_HELD = text("SELECT EXISTS (SELECT FROM throttles WHERE subject = :subject AND free_at > now())")
_LOCK_KNOWN = text("""
    SELECT count(*) FROM (
        SELECT FROM throttles WHERE subject = ANY(CAST(:subjects AS bytea[])) ORDER BY subject FOR UPDATE) locked
""")
_SET = text("""
    UPDATE throttles t SET free_at = given.free_at
      FROM unnest(CAST(:subjects AS bytea[]), CAST(:instants AS timestamptz[])) AS given (subject, free_at)
     WHERE t.subject = given.subject
""")
_REFUND = text("""
    UPDATE throttles t SET free_at = t.free_at - given.step
      FROM unnest(CAST(:subjects AS bytea[]), CAST(:steps AS interval[])) AS given (subject, step)
     WHERE t.subject = given.subject
""")
_DELETE_EXPIRED = text("""
    DELETE FROM throttles WHERE subject IN (
        SELECT subject FROM throttles WHERE free_at < now() ORDER BY free_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")
