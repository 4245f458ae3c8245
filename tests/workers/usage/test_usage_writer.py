"""Settled calls become rows and charges exactly once, wherever the writer dies and whatever stands in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.usage import journal_offsets, poison
from gateway.meter.journal import Journal, JournalBatch
from gateway.workers.usage import entry_writing
from gateway.workers.usage import usage_writer as module
from gateway.workers.usage.usage_writer import UsageWriter
from policies.usage.records import copy_line, join
from tests.workers.conftest import RECORD_FIELD, Backend, a_prefix, a_suffix


class Crashed(BaseException):
    """The process died here: nobody catches it."""


class CrashingJournal(Journal):
    """Dies before or after one of its own steps."""

    def __init__(self, backend: Backend, point: str) -> None:
        super().__init__(backend.redis_client, backend.journal.partitions)
        self._point = point

    async def read(self, after: Mapping[int, str], limit: int) -> dict[int, JournalBatch]:
        self._crash_at("before reading")
        batches = await super().read(after, limit)
        self._crash_at("after reading")
        return batches

    async def trim(self, upto: Mapping[int, str]) -> None:
        self._crash_at("before trimming")
        await super().trim(dict(list(upto.items())[:1]))
        self._crash_at("between two trims")
        await super().trim(upto)
        self._crash_at("after trimming")

    def _crash_at(self, point: str) -> None:
        if point == self._point:
            raise Crashed


async def _drain(writer: UsageWriter) -> int:
    done = 0
    while moved := await writer.run_once():
        done += moved
    return done


async def _rows(backend: Backend) -> dict[UUID, int]:
    async with backend.database.read() as connection:
        rows = await connection.execute(text("SELECT request_id, count(*) AS n FROM usage_tracking GROUP BY 1"))
        return {row.request_id: row.n for row in rows}


async def _poison(backend: Backend) -> tuple[poison.PoisonEntry, ...]:
    async with backend.database.read() as connection:
        return (await poison.list_poison(connection)).data


async def _assert_books_agree(backend: Backend) -> None:
    """Ledger = balance row = sum of charges and grants, and Redis, with nothing open, says the same."""
    async with backend.database.read() as connection:
        rows = await connection.execute(
            text("""
                SELECT b.user_id, b.current_credits,
                       (SELECT coalesce(sum(amount), 0) FROM credit_ledger l WHERE l.user_id = b.user_id) AS booked,
                       (SELECT coalesce(sum(credits_charged), 0) FROM usage_tracking u WHERE u.user_id = b.user_id)
                       AS charged,
                       b.total_credits_used AS used
                  FROM user_credits b
            """)
        )
        for row in rows:
            assert row.booked == row.current_credits
            assert row.charged == row.used
            admission = await backend.try_admit(row.user_id, str(uuid4()), amount=2**40)
            assert admission.balance == row.current_credits


async def _calls(backend: Backend, count: int) -> set[UUID]:
    users = [await backend.a_user() for _ in range(5)]
    for user_id in users:
        await backend.load(user_id)
    return {UUID(await backend.call(users[n % 5], charge=n % 4)) for n in range(count)}


async def test_usage_writer_records_and_charges_settled_calls(backend: Backend) -> None:
    calls = await _calls(backend, 40)
    assert await _drain(UsageWriter(backend.database, backend.journal)) == 40
    assert await _rows(backend) == dict.fromkeys(calls, 1)
    assert await backend.journal.length() == 0
    await _assert_books_agree(backend)


async def test_usage_writer_without_entries_does_nothing(backend: Backend) -> None:
    assert await UsageWriter(backend.database, backend.journal).run_once() == 0


async def test_usage_writer_splits_a_backlog_into_batches(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ENTRIES", 1)
    calls = await _calls(backend, 200)
    writer, runs = UsageWriter(backend.database, backend.journal), 0
    while await writer.run_once():
        runs += 1
    assert runs > 1
    assert await _rows(backend) == dict.fromkeys(calls, 1)
    await _assert_books_agree(backend)


@pytest.mark.parametrize(
    "point", ["before reading", "after reading", "before trimming", "between two trims", "after trimming"]
)
async def test_usage_writer_crash_around_the_journal_loses_and_repeats_nothing(backend: Backend, point: str) -> None:
    calls = await _calls(backend, 20)
    with pytest.raises(Crashed):
        await UsageWriter(backend.database, CrashingJournal(backend, point)).run_once()
    more = {UUID(await backend.call(backend.users[0]))}
    await _drain(UsageWriter(backend.database, backend.journal))
    assert await _rows(backend) == dict.fromkeys(calls | more, 1)
    await _assert_books_agree(backend)


@pytest.mark.parametrize("step", ["claim", "ingest", "advance"])
@pytest.mark.parametrize("side", ["before", "after"])
async def test_usage_writer_crash_inside_the_transaction_loses_and_repeats_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, step: str, side: str
) -> None:
    calls = await _calls(backend, 20)
    room = entry_writing if step == "ingest" else journal_offsets
    whole = getattr(room, step)

    async def die(*arguments: object, **named: object) -> None:
        if side == "after":
            await whole(*arguments, **named)
        raise Crashed

    with monkeypatch.context() as patched:
        patched.setattr(room, step, die)
        with pytest.raises(Crashed):
            await UsageWriter(backend.database, backend.journal).run_once()
    assert await _rows(backend) == {}
    await _drain(UsageWriter(backend.database, backend.journal))
    assert await _rows(backend) == dict.fromkeys(calls, 1)
    await _assert_books_agree(backend)


async def test_usage_writers_in_parallel_record_everything_once(backend: Backend) -> None:
    calls = await _calls(backend, 200)
    writers = [
        UsageWriter(backend.database, Journal(backend.redis_client, backend.journal.partitions)) for _ in range(4)
    ]
    await asyncio.gather(*(_drain(writer) for writer in writers))
    await _drain(writers[0])  # a partition may have been in the hands of one that had just read it
    assert await _rows(backend) == dict.fromkeys(calls, 1)
    assert await backend.journal.length() == 0
    await _assert_books_agree(backend)


async def test_usage_writer_loses_no_call_that_settles_while_it_runs(backend: Backend) -> None:
    calls = await _calls(backend, 1)
    writer, user_id = UsageWriter(backend.database, backend.journal), backend.users[0]

    async def call(count: int) -> set[UUID]:
        return {UUID(await backend.call(user_id)) for _ in range(count)}

    async def write(runs: int) -> None:
        for _ in range(runs):
            await writer.run_once()

    made, *_ = await asyncio.gather(call(90), write(10), write(10))
    await _drain(writer)
    assert await _rows(backend) == dict.fromkeys(calls | made, 1)
    await _assert_books_agree(backend)


def _record(suffix: str) -> bytes:
    return join(a_prefix(uuid4(), str(uuid4())), suffix).encode()


POISON = {
    "text that is no record": b"nonsense",
    "the end marker of COPY": b"\\.",
    "nothing": b"",
    "a column too many": _record(a_suffix(1) + "\textra"),
    "an unknown outcome": _record(a_suffix(1, outcome="fine")),
    "a charge below zero": _record(a_suffix(-1)),
    "a moment before the calendar": _record(a_suffix(1)).replace(b"1790000000000000", b"-" + b"9" * 18),
    "bytes that are no text": _record(a_suffix(1)).replace(b"v1", b"\xff"),
}


@pytest.mark.parametrize("record", POISON.values(), ids=POISON.keys())
async def test_poison_entry_is_quarantined_alone(backend: Backend, record: bytes) -> None:
    user_id = await backend.a_user()
    await backend.load(user_id)
    before = {UUID(await backend.call(user_id)) for _ in range(7)}
    await backend.spoil(user_id, record)
    after = {UUID(await backend.call(user_id)) for _ in range(6)}
    await _drain(UsageWriter(backend.database, backend.journal))
    (refused,) = await _poison(backend)
    assert (refused.partition, refused.line) == (
        backend.meter.keys(user_id).partition,
        copy_line(RECORD_FIELD.encode(), record),
    )
    assert refused.reason
    assert await _rows(backend) == dict.fromkeys(before | after, 1)
    assert await backend.journal.length() == 0
    await _assert_books_agree(backend)


async def test_charge_beyond_any_balance_is_quarantined_alone(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=0)
    for _ in range(3):
        record = join(a_prefix(user_id, str(uuid4())), a_suffix(2**63 - 1)).encode()
        await backend.spoil(user_id, record)
    await _drain(UsageWriter(backend.database, backend.journal))
    assert len(await _poison(backend)) == 2
    assert (await backend.balance(user_id)).current_credits == -(2**63 - 1)


async def test_poison_entry_is_quarantined_once_wherever_the_writer_dies(backend: Backend) -> None:
    user_id = await backend.a_user()
    await backend.spoil(user_id, b"nonsense")
    for point in ("after reading", "before trimming", "before trimming"):
        with pytest.raises(Crashed):
            await UsageWriter(backend.database, CrashingJournal(backend, point)).run_once()
    assert await _drain(UsageWriter(backend.database, backend.journal)) == 1
    assert [refused.line for refused in await _poison(backend)] == [b"nonsense\n"]


async def test_journal_whose_ids_restart_is_recorded(backend: Backend) -> None:
    """Redis was lost and replaced by one whose clock is behind: its ids are below the offset."""
    await _calls(backend, 5)
    writer = UsageWriter(backend.database, backend.journal)
    await _drain(writer)
    await backend.redis.flushdb()
    user_id = backend.users[0]
    record = join(a_prefix(user_id, str(uuid4())), a_suffix(3))
    await backend.redis.xadd(backend.meter.keys(user_id).journal, {RECORD_FIELD: record}, id="5-1")
    assert await _drain(writer) == 1
    assert len(await _rows(backend)) == 6
