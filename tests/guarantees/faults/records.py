"""Four independent records of the same calls, and the invariants between them whatever was killed.

What clients sent and heard, what the upstream saw, what PostgreSQL wrote and what Redis is left with. None is taken
from another, so a call that is lost, doubled or charged wrongly shows as a disagreement.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
from redis.asyncio import Redis

from gateway.meter.layout import AccountState

PRICE = 1  # of each call

# A row is dated by the gateway's clock right before its admission, which Redis may do a little later.
LATENESS = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Call:
    """What a client knows of its call: the account, the status if any, whether the response was complete."""

    user_id: UUID
    status: int | None
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Of usage_tracking."""

    client_request_id: str
    user_id: UUID
    created_at: datetime
    outcome: str
    credits: int


@dataclass(frozen=True, slots=True)
class Book:
    """An account's credits in every book. `hot` and `in_flight` are those of Redis."""

    granted: int
    booked: int
    used: int
    current: int
    remaining: int
    hot: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Records:
    """`reached` counts by request id, `limits` are calls per minute by account."""

    calls: Mapping[str, Call]
    reached: Counter[str]
    rows: Sequence[Row]
    books: Mapping[UUID, Book]
    open_holds: int
    journaled: int
    limits: Mapping[UUID, int]


def violations(records: Records) -> list[str]:
    """Every invariant that does not hold, in words; empty when all do."""
    return [
        *_of_rows(records),
        *_of_answers(records),
        *_of_windows(records),
        *(said for user_id, book in records.books.items() for said in _of_book(user_id, book, records.rows)),
        *([f"{records.open_holds} holds are left"] if records.open_holds else []),
        *([f"{records.journaled} entries are left in the journal"] if records.journaled else []),
    ]


def _of_rows(records: Records) -> Iterator[str]:
    counts = Counter(row.client_request_id for row in records.rows)
    for request_id, count in counts.items():
        if count > 1:
            yield f"{request_id} has {count} rows"
        if request_id not in records.calls:
            yield f"{request_id} has a row, and nobody sent it"
    for request_id, times in records.reached.items():
        if times > 1:
            yield f"{request_id} reached the upstream {times} times"
        if not counts[request_id]:
            yield f"{request_id} reached the upstream and has no row"
    for row in records.rows:
        if row.credits != (PRICE if row.outcome == "succeeded" else row.credits and PRICE):
            yield f"{row.client_request_id} {row.outcome} was charged {row.credits}"
        if row.credits and not records.reached[row.client_request_id]:
            yield f"{row.client_request_id} was charged and never reached the upstream"


def _of_answers(records: Records) -> Iterator[str]:
    outcomes = {row.client_request_id: row.outcome for row in records.rows}
    for request_id, call in records.calls.items():
        outcome = outcomes.get(request_id)
        if call.status == 200 and call.is_whole and outcome != "succeeded":
            yield f"{request_id} was answered whole, and its row says {outcome}"
        if call.status in (401, 402, 403, 429) and outcome is not None:
            yield f"{request_id} was refused with {call.status}, and its row says {outcome}"


def _of_windows(records: Records) -> Iterator[str]:
    admitted: dict[UUID, list[datetime]] = defaultdict(list)
    for row in records.rows:
        admitted[row.user_id].append(row.created_at)
    for user_id, limit in records.limits.items():
        moments = sorted(admitted[user_id])
        for first, beyond in zip(moments, moments[limit:], strict=False):
            if beyond - first < timedelta(minutes=1) - LATENESS:
                yield f"{user_id} had more than {limit} calls within {beyond - first}"


def _of_book(user_id: UUID, book: Book, rows: Sequence[Row]) -> Iterator[str]:
    charged = sum(row.credits for row in rows if row.user_id == user_id)
    if not book.granted - charged == book.booked == book.current == book.remaining == book.hot or charged != book.used:
        yield f"{user_id} was charged {charged}: {book}"
    if book.in_flight:
        yield f"{user_id} has {book.in_flight} calls in flight for ever"


_ROWS = "SELECT client_request_id, user_id, created_at, outcome, credits_charged FROM usage_tracking"
_BOOKS = """
    SELECT b.user_id, b.current_credits AS current, b.total_credits_used AS used,
           (SELECT sum(amount) FROM credit_grants g WHERE g.user_id = b.user_id)::bigint AS granted,
           (SELECT sum(remaining) FROM credit_grants g WHERE g.user_id = b.user_id)::bigint AS remaining,
           (SELECT sum(amount) FROM credit_ledger l WHERE l.user_id = b.user_id)::bigint AS booked
      FROM user_credits b
"""


async def rows_of(connection: asyncpg.Connection) -> list[Row]:
    return [Row(*row) for row in await connection.fetch(_ROWS)]


async def are_hot(redis: Redis, user_ids: Iterable[UUID]) -> bool:
    """Whether Redis has the state of them all, in the epochs that their partitions are in."""
    for user_id in user_ids:
        keys = await redis.keys(f"gw:*:a:{user_id}")
        if not keys:
            return False
        assert isinstance(keys[0], bytes)
        state, entered = await redis.hmget(keys[0], "s", "e")
        if state is None or entered != await redis.hget(keys[0].partition(b":a:")[0] + b":c", "e"):
            return False
    return True


async def books_of(connection: asyncpg.Connection, redis: Redis) -> dict[UUID, Book]:
    """For accounts that are hot."""
    books = {}
    for row in await connection.fetch(_BOOKS):
        (key,) = await redis.keys(f"gw:*:a:{row['user_id']}")
        state = await redis.hget(key, "s")
        assert isinstance(state, bytes)
        _, hot, in_flight, _ = AccountState.unpack(state)
        cold = {name: row[name] for name in ("granted", "booked", "used", "current", "remaining")}
        books[row["user_id"]] = Book(hot=hot, in_flight=in_flight, **cold)
    return books


async def left_in(redis: Redis) -> tuple[int, int]:
    """Open holds, and entries in the journal."""
    holds = [int(await redis.hlen(key)) for key in await redis.keys("gw:*:h")]
    entries = [int(await redis.xlen(key)) for key in await redis.keys("gw:*:j")]
    return sum(holds), sum(entries)
