"""A call that was swept and settled after all has one row, its real end and its real charge, in every book."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.ledger.usage import poison
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.journal import Journal
from gateway.meter.keys import swept_key
from gateway.meter.recovery import SWEPT_SECONDS
from gateway.workers.usage.reconciliation import Finding, Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from policies.usage import records
from tests.workers.conftest import RECORD_FIELD, Backend, a_prefix, a_suffix

SWEPT = records.abandoned_suffix()


class Untrimmed(Journal):
    """Its writer dies before it trims, each time: everything is read again."""

    async def trim(self, upto: Mapping[int, str]) -> None: ...


async def a_hot_user(backend: Backend, *, credits_given: int = 100) -> UUID:
    user_id = await backend.a_user(credits_given=credits_given)
    await backend.load(user_id)
    return user_id


async def sweep(backend: Backend, user_id: UUID, request_id: str) -> bool:
    return await backend.meter.abandon(backend.meter.keys(user_id), request_id, suffix=SWEPT)


async def write(backend: Backend) -> None:
    while await UsageWriter(backend.database, backend.journal).run_once():
        pass


async def rows(backend: Backend, table: str = "usage_tracking") -> list[Mapping[str, Any]]:
    async with backend.database.read() as connection:
        return [dict(row) for row in (await connection.execute(text(f"SELECT * FROM {table}"))).mappings()]  # noqa: S608 - ours


async def findings(backend: Backend) -> list[Finding]:
    reconciler = Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter))
    return [each async for page in reconciler.pages() for each in page.findings]


async def hot_balance(backend: Backend, user_id: UUID) -> int:
    return (await backend.try_admit(user_id, "none", amount=2**40)).balance


async def assert_charged_once(backend: Backend, user_id: UUID, charge: int) -> None:
    await write(backend)
    (row,) = await rows(backend)
    assert (row["outcome"], row["status_code"], row["credits_charged"]) == ("succeeded", 200, charge)
    balance = await backend.balance(user_id)
    assert (balance.current_credits, balance.total_credits_used) == (100 - charge, charge)
    assert await hot_balance(backend, user_id) == 100 - charge
    assert await findings(backend) == []


@pytest.mark.parametrize("charge", [0, 7, 20, 130])
async def test_late_settlement_corrects_a_swept_call(backend: Backend, charge: int) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    assert await sweep(backend, user_id, request_id)
    assert await hot_balance(backend, user_id) == 100
    assert await backend.settle(user_id, request_id, charge=charge) == 100 - charge
    await assert_charged_once(backend, user_id, charge)


async def test_late_settlement_corrects_a_row_recorded_as_abandoned(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await sweep(backend, user_id, request_id)
    await write(backend)
    (row,) = await rows(backend)
    assert (row["outcome"], row["credits_charged"]) == ("abandoned", 0)
    await backend.settle(user_id, request_id, charge=5)
    assert await findings(backend) == [], "a correction on its way is no difference"
    await assert_charged_once(backend, user_id, 5)


async def test_late_settlement_is_idempotent(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await sweep(backend, user_id, request_id)
    assert await backend.settle(user_id, request_id, charge=5) == 95
    for charge in (5, 9):
        assert await backend.settle(user_id, request_id, charge=charge) is None
        assert not await sweep(backend, user_id, request_id)
    await assert_charged_once(backend, user_id, 5)


async def test_call_settled_in_time_is_never_corrected(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await backend.settle(user_id, request_id, charge=5)
    assert not await sweep(backend, user_id, request_id)
    assert await backend.settle(user_id, request_id, charge=6) is None
    await assert_charged_once(backend, user_id, 5)


async def test_correction_of_an_unloaded_account_is_charged_by_its_record(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await sweep(backend, user_id, request_id)
    await backend.redis.delete(backend.meter.keys(user_id).account)
    assert await backend.settle(user_id, request_id, charge=5) is None
    await write(backend)
    await backend.load(user_id)
    await assert_charged_once(backend, user_id, 5)


async def test_swept_prefix_expires(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await sweep(backend, user_id, request_id)
    key = swept_key(backend.meter.keys(user_id).partition, request_id)
    assert 0 < await backend.redis.ttl(key) <= SWEPT_SECONDS
    await backend.settle(user_id, request_id, charge=5)
    assert not await backend.redis.exists(key)


@pytest.mark.parametrize("written_between", [True, False])
async def test_correction_read_repeatedly_charges_once(backend: Backend, written_between: bool) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    writer = UsageWriter(backend.database, Untrimmed(backend.redis_client, backend.journal.partitions))
    await sweep(backend, user_id, request_id)
    if written_between:
        await writer.run_once()
    await backend.settle(user_id, request_id, charge=5)
    for _ in range(3):
        await writer.run_once()
        assert await findings(backend) == []
    await assert_charged_once(backend, user_id, 5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_correction_is_exact_in_any_order_of_entries(backend: Backend, order: tuple[int, ...]) -> None:
    """After a fail-over a journal may hold an entry twice, or have lost one."""
    user_id = await a_hot_user(backend)
    request_id = "0190c1a2-0000-7000-8000-000000000001"
    prefix = a_prefix(user_id, request_id)
    ended, corrected = records.join(prefix, SWEPT), records.join(prefix, a_suffix(5))
    entries: list[dict[str, str]] = [
        {RECORD_FIELD: ended},
        {RECORD_FIELD: corrected, "k": "c"},
        {RECORD_FIELD: corrected, "k": "c"},
    ]
    for number in order:
        await backend.redis.xadd(backend.meter.keys(user_id).journal, entries[number])  # type: ignore[arg-type] # str will do
    await write(backend)
    (row,) = await rows(backend)
    assert (row["outcome"], row["credits_charged"]) == ("succeeded", 5)
    assert (await backend.balance(user_id)).current_credits == 95


async def test_correction_without_a_row_becomes_the_row(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await sweep(backend, user_id, request_id)
    await backend.redis.delete(backend.meter.keys(user_id).journal)
    await backend.settle(user_id, request_id, charge=5)
    assert await findings(backend) == []
    await assert_charged_once(backend, user_id, 5)


async def test_correction_never_changes_a_row_that_was_settled(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.call(user_id, charge=5)
    line = records.join(a_prefix(user_id, request_id), a_suffix(9, "upstream_error"))
    await backend.redis.xadd(backend.meter.keys(user_id).journal, {RECORD_FIELD: line, "k": "c"})
    await assert_charged_once(backend, user_id, 5)


async def test_correction_that_postgresql_refuses_is_quarantined_alone(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = await backend.admit(user_id, amount=7)
    await sweep(backend, user_id, request_id)
    await backend.redis.xadd(backend.meter.keys(user_id).journal, {RECORD_FIELD: "nonsense", "k": "c"})
    await backend.settle(user_id, request_id, charge=5)
    await assert_charged_once(backend, user_id, 5)
    async with backend.database.read() as connection:
        (remaining,) = (await poison.list_poison(connection)).data
    assert remaining.line == b"nonsense\n"
    assert remaining.reason.startswith("as a correction: ")


async def test_correction_changes_the_history_of_an_analysis_too(backend: Backend) -> None:
    user_id = await a_hot_user(backend)
    request_id = "0190c1a2-0000-7000-8000-000000000002"
    prefix = a_prefix(user_id, request_id).replace("ai_generation", "analysis")
    known = {"outcome": "succeeded", "status_code": 201, "credits_charged": 3, "response_bytes": 9}
    known |= {"file_name": "a.csv", "file_sha256": "ff", "content_type": "text/csv", "file_size_bytes": 5}
    suffix = records.suffix_of(known)
    for written in (
        {RECORD_FIELD: records.join(prefix, SWEPT)},
        {RECORD_FIELD: records.join(prefix, suffix), "k": "c"},
    ):
        await backend.redis.xadd(backend.meter.keys(user_id).journal, written)  # type: ignore[arg-type] # str will do
        await write(backend)
    (history,) = await rows(backend, "analysis_history")
    assert (history["status"], history["credits_charged"], history["file_name"]) == ("succeeded", 3, "a.csv")
    assert (history["file_sha256"], history["content_type"], history["file_size_bytes"]) == ("ff", "text/csv", 5)
    assert history["result_summary"] == {"status_code": 201, "response_bytes": 9}
    (row,) = await rows(backend)
    assert (row["outcome"], row["status_code"], row["response_bytes"]) == ("succeeded", 201, 9)
