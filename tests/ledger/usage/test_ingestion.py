"""Journal lines become rows and charges exactly once, also when replayed, duplicated or of unknown users."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.users import User
from gateway.ledger.credits.grants import Grant, get_balance, grant, list_open_grants
from gateway.ledger.credits.movements import list_ledger
from gateway.ledger.db.session import Database
from gateway.ledger.usage.history import UsageFilter, UsageRow, list_analyses, list_usage, stream_usage
from gateway.ledger.usage.ingestion import IngestResult, MalformedLines, ingest
from policies.usage.records import text as escaped
from tests.ledger.make import NOON, a_line, a_user


async def _give(
    connection: AsyncConnection, user: User, amount: int, *, days: int | None = None, priority: int = 10
) -> UUID:
    entry = await grant(
        connection,
        user.id,
        amount=amount,
        source="promo",
        reason="test",
        actor="test",
        priority=priority,
        expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    assert entry.grant_id is not None
    return entry.grant_id


async def _credits(connection: AsyncConnection, user: User) -> int:
    found = await get_balance(connection, user.id)
    assert found is not None
    return found.current_credits


async def test_line_becomes_a_row_unchanged(connection: AsyncConnection) -> None:
    user, request_id, key_id, awkward = await a_user(connection), uuid4(), uuid4(), "a\tb\\N\nc\r\\"
    at = NOON + timedelta(microseconds=1)
    record = a_line(
        user.id,
        at=at,
        request_id=str(request_id),
        api_key_id=str(key_id),
        category=escaped(awkward),
        metadata=escaped('{"note": "ü\\n"}'),
        cost_usd="0.012345",
        tokens_used=7,
    )
    assert await ingest(connection, [record]) == IngestResult(rows=1, accounts=1)
    (row,) = (await list_usage(connection, UsageFilter(user_id=user.id))).data
    assert (row.request_id, row.api_key_id, row.created_at) == (request_id, key_id, at)
    assert (row.category, row.metadata, str(row.cost_usd)) == (awkward, {"note": "ü\n"}, "0.012345")
    assert (row.endpoint, row.outcome, row.status_code, row.tokens_used) == ("analyze", "succeeded", 200, 7)
    assert (row.batch_id, row.subscription_id, row.upstream_time_ms) == (None, None, None)


async def test_replayed_batch_changes_nothing(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await _give(connection, user, 10)
    lines = [a_line(user.id, credits_charged=2, usage_type="analysis") for _ in range(3)]
    assert await ingest(connection, lines) == IngestResult(rows=3, accounts=1)
    before = await _state(connection, user)
    assert await ingest(connection, lines) == IngestResult(rows=0, accounts=0)
    assert await _state(connection, user) == before


async def test_batch_half_known_charges_the_new_half(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await _give(connection, user, 100)
    old, new = a_line(user.id, credits_charged=5), a_line(user.id, credits_charged=7)
    await ingest(connection, [old])
    assert await ingest(connection, [old, new]) == IngestResult(rows=1, accounts=1)
    assert await _credits(connection, user) == 88


async def test_duplicate_line_in_a_batch_counts_once(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    repeated = a_line(user.id, credits_charged=4, usage_type="analysis")
    assert await ingest(connection, [repeated, repeated]) == IngestResult(rows=1, accounts=1)
    assert await _credits(connection, user) == -4
    assert len((await list_analyses(connection, UsageFilter(user_id=user.id))).data) == 1


async def test_batch_that_is_rolled_back_leaves_nothing_for_the_next(own_database_url: str) -> None:
    """The staging tables live as long as the connection, their rows must not."""
    database = Database(own_database_url, pool_size=1)
    async with database.transaction() as connection:
        user = await a_user(connection)
        assert await ingest(connection, [a_line(user.id)]) == IngestResult(1, 1)

    async def fail() -> None:
        async with database.transaction() as connection:
            await ingest(connection, [a_line(user.id, credits_charged=50)])
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with database.transaction() as connection:
        assert await ingest(connection, [a_line(user.id)]) == IngestResult(1, 1)
        assert await _credits(connection, user) == -2
    await database.close()


async def test_line_of_an_unknown_user_is_recorded_without_charge(connection: AsyncConnection) -> None:
    known, unknown = await a_user(connection), uuid4()
    assert await ingest(connection, [a_line(unknown), a_line(known.id)]) == IngestResult(rows=2, accounts=1)
    assert len((await list_usage(connection, UsageFilter(user_id=unknown))).data) == 1


async def test_free_call_is_recorded_without_ledger_entry(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    assert await ingest(connection, [a_line(user.id, credits_charged=0)]) == IngestResult(rows=1, accounts=0)
    assert (await list_ledger(connection, user.id)).data == ()


async def test_batch_writes_one_ledger_row_per_account(connection: AsyncConnection) -> None:
    first, second = await a_user(connection), await a_user(connection)
    await _give(connection, first, 10)
    await ingest(connection, [a_line(first.id, credits_charged=n) for n in (1, 2, 3)] + [a_line(second.id)])
    entry = (await list_ledger(connection, first.id)).data[0]
    assert (entry.kind, entry.amount, entry.balance_after) == ("usage", -6, 4)
    assert (entry.actor, entry.metadata) == ("worker:usage_writer", {"requests": 3})
    (only,) = (await list_ledger(connection, second.id)).data
    assert (only.amount, only.balance_after) == (-1, -1)


async def test_totals_count_usage(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await ingest(connection, [a_line(user.id, credits_charged=3)])
    found = await get_balance(connection, user.id)
    assert found is not None
    assert (found.total_credits_used, found.credits_used_this_period, found.credit_seq) == (3, 3, 0)


async def test_grants_burn_down_by_priority_then_by_expiry(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    lasting = await _give(connection, user, 10)
    paid = await _give(connection, user, 10, days=1, priority=50)
    late = await _give(connection, user, 10, days=9)
    soon = await _give(connection, user, 10, days=2)
    assert [one.id for one in await list_open_grants(connection, user.id)] == [soon, late, lasting, paid]
    await ingest(connection, [a_line(user.id, credits_charged=13)])
    left = {one.id: one.remaining for one in await list_open_grants(connection, user.id)}
    assert left == {late: 7, lasting: 10, paid: 10}
    await ingest(connection, [a_line(user.id, credits_charged=20)])
    assert {one.id: one.remaining for one in await list_open_grants(connection, user.id)} == {paid: 7}


async def test_charge_above_the_balance_is_debt_that_the_next_grant_pays(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await _give(connection, user, 5)
    await ingest(connection, [a_line(user.id, credits_charged=8)])
    assert (await _credits(connection, user), await list_open_grants(connection, user.id)) == (-3, ())
    await _give(connection, user, 10)
    assert await _credits(connection, user) == 7
    assert [one.remaining for one in await list_open_grants(connection, user.id)] == [7]


async def test_analyses_have_a_history(connection: AsyncConnection) -> None:
    user, request_id = await a_user(connection), uuid4()
    digest = "ab" * 32
    line = a_line(
        user.id,
        request_id=str(request_id),
        usage_type="analysis",
        file_name="products.csv",
        file_sha256=digest,
        file_size_bytes=99,
        content_type="text/csv",
        response_time_ms=40,
    )
    await ingest(connection, [line, a_line(user.id)])
    (analysis,) = (await list_analyses(connection, UsageFilter(user_id=user.id))).data
    assert (analysis.id, analysis.request_id, analysis.analysis_type) == (request_id, request_id, "analyze")
    assert (analysis.file_name, analysis.file_sha256, analysis.file_size_bytes) == ("products.csv", digest, 99)
    assert (analysis.content_type, analysis.status, analysis.response_time_ms) == ("text/csv", "succeeded", 40)
    assert analysis.result_summary == {"status_code": 200, "response_bytes": 512}


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"api_key_id": "nothing"}, "usage_lines, line 1, column api_key_id"),
        ({"outcome": "fine"}, "ck_usage_tracking_outcome"),
    ],
)
async def test_malformed_line_is_named(connection: AsyncConnection, columns: dict[str, str], complaint: str) -> None:
    with pytest.raises(MalformedLines, match=complaint):
        await ingest(connection, [a_line(uuid4(), **columns)])  # type: ignore[arg-type]  # by parameter


async def test_line_with_a_missing_column_is_malformed(connection: AsyncConnection) -> None:
    with pytest.raises(MalformedLines, match="line 2"):
        await ingest(connection, [a_line(uuid4()), b"half\ta line\n"])


async def test_empty_batch_writes_nothing(connection: AsyncConnection) -> None:
    assert await ingest(connection, []) == IngestResult(0, 0)


async def test_concurrent_batches_and_grants_neither_deadlock_nor_lose_credits(own_database_url: str) -> None:
    database = Database(own_database_url, pool_size=4)
    async with database.transaction() as connection:
        users = [await a_user(connection) for _ in range(8)]

    async def write() -> None:
        async with database.transaction() as connection:
            await ingest(connection, [a_line(user.id, credits_charged=3) for user in reversed(users)])

    async def give(user: User) -> None:
        async with database.transaction() as connection:
            await _give(connection, user, 5)

    await asyncio.gather(*(write() for _ in range(6)), *(give(user) for user in users for _ in range(3)))
    async with database.read() as connection:
        for user in users:
            assert await _credits(connection, user) == 15 - 18
            await _assert_books_balance(connection, user)
    await database.close()


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(0, 3)), max_size=12))
@settings(max_examples=15, deadline=None)
async def test_books_always_balance(pristine_database: Database, steps: list[tuple[bool, int, int]]) -> None:
    async with pristine_database.transaction() as connection:
        user = await a_user(connection)
        for is_grant, amount, spread in steps:
            if is_grant:
                await _give(connection, user, amount, days=spread or None, priority=spread)
            else:
                await ingest(connection, [a_line(user.id, credits_charged=amount) for _ in range(spread)])
            await _assert_books_balance(connection, user)
        await connection.rollback()


async def test_usage_is_listed_newest_first_by_cursor_without_a_gap(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    # Equal instants: the request id breaks the tie.
    await ingest(connection, [a_line(user.id, at=NOON + timedelta(seconds=n // 3)) for n in range(10)])
    wanted, cursor = UsageFilter(user_id=user.id), None
    seen: list[UsageRow] = []
    while True:
        page = await list_usage(connection, wanted, cursor=cursor, limit=4)
        seen.extend(page.data)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len({row.request_id for row in seen}) == len(seen) == 10
    assert [row.created_at for row in seen] == sorted((row.created_at for row in seen), reverse=True)


async def test_export_streams_every_row_oldest_first(connection: AsyncConnection) -> None:
    user, other = await a_user(connection), await a_user(connection)
    times = [NOON + timedelta(seconds=n) for n in range(120)]
    await ingest(connection, [a_line(user.id, at=at) for at in reversed(times)] + [a_line(other.id)])
    assert [row.created_at async for row in stream_usage(connection, UsageFilter(user_id=user.id))] == times


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"endpoint": "chat"}, 1),
        ({"outcome": "abandoned"}, 2),
        ({"since": NOON + timedelta(hours=1)}, 1),
        ({"until": NOON + timedelta(hours=1)}, 3),
        ({"endpoint": "chat", "outcome": "abandoned"}, 0),
    ],
)
async def test_usage_is_filtered(connection: AsyncConnection, wanted: dict[str, object], count: int) -> None:
    user = await a_user(connection)
    lines = [
        a_line(user.id, endpoint="chat"),
        a_line(user.id, outcome="abandoned"),
        a_line(user.id, outcome="abandoned"),
        a_line(user.id, at=NOON + timedelta(hours=1)),
    ]
    await ingest(connection, lines)
    found = await list_usage(connection, UsageFilter(user_id=user.id, **wanted))  # type: ignore[arg-type]  # by parameter
    assert len(found.data) == count


async def _state(connection: AsyncConnection, user: User) -> tuple[object, ...]:
    wanted = UsageFilter(user_id=user.id)
    return (
        await get_balance(connection, user.id),
        await list_open_grants(connection, user.id),
        await list_ledger(connection, user.id),
        await list_usage(connection, wanted),
        await list_analyses(connection, wanted),
    )


async def _assert_books_balance(connection: AsyncConnection, user: User) -> None:
    current = await _credits(connection, user)
    booked = await connection.scalar(
        text("SELECT coalesce(sum(amount), 0) FROM credit_ledger WHERE user_id = :id"), {"id": user.id}
    )
    grants: tuple[Grant, ...] = await list_open_grants(connection, user.id)
    assert current == booked
    assert sum(one.remaining for one in grants) == max(0, current)
