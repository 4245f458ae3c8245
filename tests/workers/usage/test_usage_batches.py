"""How much is written at once: as much as waits, shared by lanes, less where PostgreSQL is slow or refuses some."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from gateway import metrics
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.usage import poison
from gateway.workers.usage import usage_writer as module
from gateway.workers.usage.usage_writer import BatchSize, GatheringWriter, UsageWriter, _partitions_for
from tests.workers.conftest import Backend, a_prefix, a_suffix

NOWHERE = "postgresql://gateway:x@127.0.0.1:1/gateway"


async def _calls(backend: Backend, count: int) -> set[UUID]:
    users = [await backend.a_user() for _ in range(8)]
    for user_id in users:
        await backend.load(user_id)
    return {UUID(await backend.call(users[number % 8])) for number in range(count)}


async def _written(backend: Backend) -> set[UUID]:
    async with backend.database.read() as connection:
        rows = (await connection.execute(text("SELECT request_id FROM usage_tracking"))).scalars().all()
    assert len(rows) == len(set(rows))
    return set(rows)


async def test_usage_writer_lanes_share_a_backlog(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ENTRIES", 20)
    calls = await _calls(backend, 100)
    writer = UsageWriter(backend.database, backend.journal)
    assert await writer.run_once() > 20
    while await writer.run_once():
        pass
    assert await _written(backend) == calls


async def test_usage_batch_is_bounded_in_bytes(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    monkeypatch.setattr(module, "ENTRIES_PER_READ", 1)  # the journal gives its least: 20 of a partition
    user_id = await backend.a_user()
    for _ in range(50):
        record = f"{a_prefix(user_id, str(uuid4()))}\t{a_suffix(0)}"
        await backend.spoil(user_id, record.encode())
    writer = UsageWriter(backend.database, backend.journal)
    assert await writer.run_once() == 20
    assert writer.remaining == 30


async def test_poison_entries_among_many_are_quarantined_alone(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_BATCH_ENTRIES", 10)
    calls = await _calls(backend, 60)
    for number in range(3):
        await backend.spoil(backend.users[number], b"nonsense %d" % number)
        calls |= {UUID(await backend.call(backend.users[number])) for _ in range(20)}
    writer = UsageWriter(backend.database, backend.journal)
    while await writer.run_once():
        pass
    assert await _written(backend) == calls
    async with backend.database.read() as connection:
        refused = (await poison.list_poison(connection)).data
    assert {each.line for each in refused} == {b"nonsense %d\n" % number for number in range(3)}
    assert await backend.journal.length() == 0


async def test_usage_writer_without_postgresql_reads_nothing_and_reports_the_backlog(backend: Backend) -> None:
    await _calls(backend, 7)
    database = Database(NOWHERE)
    with pytest.raises(DatabaseUnavailable):
        await UsageWriter(database, backend.journal).run_once()
    await database.close()
    assert await backend.journal.length() == 7
    assert metrics.JOURNAL_ENTRIES._value.get() == 7
    assert metrics.JOURNAL_LAG._value.get() > 0


async def test_gathering_writer_pauses_unless_entries_remain(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW_ENTRIES", 10)
    writer = GatheringWriter(UsageWriter(backend.database, backend.journal))
    await _calls(backend, 9)
    assert (await writer.run_once(), writer.idle_seconds) == (0, module.GATHER_FEW_SECONDS)
    await _calls(backend, 11)
    assert (await writer.run_once(), writer.idle_seconds) == (0, module.GATHER_SECONDS)
    monkeypatch.setattr(module, "BATCH_ENTRIES", 1)
    await _calls(backend, 200)
    writer = GatheringWriter(UsageWriter(backend.database, backend.journal))
    assert await writer.run_once() > 0


@given(st.lists(st.sampled_from(["slow", "fast", "refused", "away"])))
def test_batch_size_stays_within_its_bounds_and_recovers(course: list[str]) -> None:
    size = BatchSize()
    for step in course:
        if step == "away":
            size.halve()
        elif step == "refused":
            size.reset()
        else:
            size.adapt(module.SLOW_SECONDS * (2 if step == "slow" else 0.5))
        assert module.MIN_BATCH_ENTRIES <= size.entries <= module.BATCH_ENTRIES
    for _ in range(6):
        size.adapt(0)
    assert size.entries == module.BATCH_ENTRIES


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=64), st.integers(1, 30_000))
def test_partitions_for_a_batch_suffice_whichever_they_are(lengths: list[int], entries: int) -> None:
    count = _partitions_for(entries, lengths)
    assert 1 <= count <= len(lengths)
    fewest = sum(sorted(lengths)[:count])
    assert fewest >= min(entries, sum(lengths))
