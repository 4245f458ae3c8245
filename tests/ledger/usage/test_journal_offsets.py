"""A partition's journal has one writer at a time, and its offset moves with the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.ledger.db.session import Database
from gateway.ledger.usage import journal_offsets


@pytest.fixture
async def writers(own_database_url: str) -> AsyncIterator[Database]:
    opened = Database(own_database_url, pool_size=2)
    yield opened
    await opened.close()


async def test_offset_of_a_new_partition_is_the_start(writers: Database) -> None:
    async with writers.transaction() as connection:
        assert await journal_offsets.claim(connection, [3, 1, 3]) == {1: "0-0", 3: "0-0"}


async def test_advanced_offset_is_where_the_next_writer_starts(writers: Database) -> None:
    async with writers.transaction() as connection:
        await journal_offsets.claim(connection, range(4))
        await journal_offsets.advance(connection, {1: "17-0", 3: "18-2"})
    async with writers.transaction() as connection:
        assert await journal_offsets.claim(connection, range(4)) == {0: "0-0", 1: "17-0", 2: "0-0", 3: "18-2"}


async def test_locked_offset_is_skipped_by_other_writers(writers: Database) -> None:
    async with writers.transaction() as connection:
        await journal_offsets.claim(connection, range(4))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(writers.transaction())
        second = await stack.enter_async_context(writers.transaction())
        assert set(await journal_offsets.claim(first, [0, 1])) == {0, 1}
        assert set(await journal_offsets.claim(second, range(4))) == {2, 3}


async def test_failed_writer_leaves_its_offset(writers: Database) -> None:
    async def fail() -> None:
        async with writers.transaction() as connection:
            await journal_offsets.claim(connection, [0])
            await journal_offsets.advance(connection, {0: "99-0"})
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with writers.transaction() as connection:
        assert await journal_offsets.claim(connection, [0]) == {0: "0-0"}


async def test_offset_limit_takes_the_longest_waiting_partitions(writers: Database) -> None:
    async with writers.transaction() as connection:
        await journal_offsets.claim(connection, range(4))
    async with writers.transaction() as connection:
        await journal_offsets.claim(connection, [0, 2])
        await journal_offsets.advance(connection, {0: "1-0", 2: "1-0"})
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(writers.transaction())
        second = await stack.enter_async_context(writers.transaction())
        assert set(await journal_offsets.claim(first, range(4), limit=2)) == {1, 3}
        assert set(await journal_offsets.claim(second, range(4), limit=3)) == {0, 2}


async def test_offset_limit_applies_to_new_partitions(writers: Database) -> None:
    async with writers.transaction() as connection:
        assert set(await journal_offsets.claim(connection, range(10, 20), limit=3)) == {10, 11, 12}
