"""One call's way through both stores: admitted, settled, written, and every book agreeing in the end."""

from __future__ import annotations

from uuid import UUID, uuid4

from sqlalchemy import text

from gateway.ledger.credits import movements
from gateway.ledger.usage.history import UsageFilter, list_usage
from gateway.meter.replies import Verdict
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.usage_writer import UsageWriter
from tests.workers.conftest import Backend


async def test_call_is_charged_the_same_in_every_book(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=50)
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.NOT_LOADED
    await backend.load(user_id)
    request_id = await backend.admit(user_id, amount=20)
    assert await backend.settle(user_id, request_id, charge=7) == 43
    assert await backend.settle(user_id, request_id, charge=7) is None
    assert await UsageWriter(backend.database, backend.journal).run_once() == 1
    async with backend.database.read() as connection:
        (row,) = (await list_usage(connection, UsageFilter(user_id=user_id))).data
        newest, *_ = (await movements.list_ledger(connection, user_id)).data
    assert (row.request_id, row.credits_charged, row.outcome) == (UUID(request_id), 7, "succeeded")
    assert row.metadata == {"balance_after": 43}
    assert (newest.kind, newest.amount, newest.balance_after) == ("usage", -7, 43)
    assert (await backend.balance(user_id)).current_credits == 43
    assert await _hot_balance(backend, user_id) == 43


async def test_grant_is_spendable_once_it_is_published(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=0)
    publisher = OutboxPublisher(backend.database, backend.meter)
    await backend.load(user_id)
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.INSUFFICIENT_CREDITS
    await backend.give(user_id, 5)
    assert await publisher.publish(user_id) == 1
    assert (await backend.try_admit(user_id, str(uuid4()), amount=5)).verdict is Verdict.ADMITTED


async def test_charge_above_the_hold_is_debt_in_both_stores_until_a_grant(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=5)
    await backend.load(user_id)
    request_id = await backend.admit(user_id, amount=5)
    assert await backend.settle(user_id, request_id, charge=12) == -7
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.INSUFFICIENT_CREDITS
    await UsageWriter(backend.database, backend.journal).run_once()
    await backend.give(user_id, 10)
    await OutboxPublisher(backend.database, backend.meter).run_once()
    assert (await backend.balance(user_id)).current_credits == await _hot_balance(backend, user_id) == 3


async def test_emptied_redis_is_loaded_from_postgresql(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=50)
    await backend.load(user_id)
    await backend.call(user_id, charge=8)
    await UsageWriter(backend.database, backend.journal).run_once()
    await backend.redis.flushdb()
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.WRONG_EPOCH
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.NOT_LOADED
    await backend.load(user_id)
    assert await _hot_balance(backend, user_id) == 42
    await backend.call(user_id, charge=2)
    await UsageWriter(backend.database, backend.journal).run_once()
    async with backend.database.read() as connection:
        total = (await connection.execute(text("SELECT sum(credits_charged) FROM usage_tracking"))).scalar_one()
    assert total == 10
    assert (await backend.balance(user_id)).current_credits == 40


async def _hot_balance(backend: Backend, user_id: UUID) -> int:
    """By an admission that asks for more than anyone has."""
    admission = await backend.try_admit(user_id, str(uuid4()), amount=2**40)
    assert admission.verdict is Verdict.INSUFFICIENT_CREDITS
    return admission.balance
