"""Committed changes reach Redis in order and once, also across crashes."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.credits import grants
from gateway.ledger.db.outbox import bump_account, bump_catalogue
from gateway.meter.client.client import MeterUnavailable
from gateway.meter.keys import AccountKeys
from gateway.meter.meter import Applied, Meter, Verdict, Versions
from gateway.workers.outbox import OutboxPublisher
from tests.workers.conftest import PARTITIONS, House


class Crashed(BaseException):
    """The process died here: nobody catches it."""


class CrashingMeter(Meter):
    """Dies right after Redis has taken a change of credits."""

    async def apply_credits(self, keys: AccountKeys, *, credit_seq: int, amount: int) -> Applied:
        await super().apply_credits(keys, credit_seq=credit_seq, amount=amount)
        raise Crashed


class PartlyAway(Meter):
    """A cluster that lacks the master of one account."""

    away: UUID | None = None

    async def apply_credits(self, keys: AccountKeys, *, credit_seq: int, amount: int) -> Applied:
        if keys.account_id == self.away:
            raise MeterUnavailable("away")
        return await super().apply_credits(keys, credit_seq=credit_seq, amount=amount)


async def _loaded(house: House) -> UUID:
    """A loaded account of 100 credits with an empty outbox."""
    user_id = await house.a_user()
    await house.load(user_id)
    await OutboxPublisher(house.database, house.meter).run_once()
    return user_id


async def _balance(house: House, user_id: UUID) -> int:
    """By an admission that asks for more than anyone has."""
    admission = await house.try_admit(user_id, str(uuid4()), amount=2**40)
    assert admission.verdict is Verdict.INSUFFICIENT_CREDITS
    return admission.balance


async def _unpublished(house: House) -> int:
    async with house.database.read() as connection:
        count: int = (await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one()
    return count


async def test_grant_reaches_the_balance_in_redis(house: House) -> None:
    user_id = await _loaded(house)
    await house.give(user_id, 11)
    assert await OutboxPublisher(house.database, house.meter).run_once() == 1
    assert await _balance(house, user_id) == 111
    assert await _unpublished(house) == 0


async def test_account_that_is_not_loaded_gets_grants_by_its_load(house: House) -> None:
    user_id = await house.a_user(credits_given=5)
    await house.give(user_id, 6)
    publisher = OutboxPublisher(house.database, house.meter)
    assert await publisher.run_once() == 2
    await house.load(user_id)
    assert await _balance(house, user_id) == 11


async def test_load_read_before_a_grant_is_refused(house: House) -> None:
    user_id = await house.a_user(credits_given=5)
    await house.give(user_id, 6)
    await OutboxPublisher(house.database, house.meter).run_once()
    keys = house.meter.keys(user_id)
    assert not await house.meter.load(keys, account_version=1, credit_seq=1, balance=5, catalogue_version=1)
    await house.load(user_id)
    assert await _balance(house, user_id) == 11


async def test_load_that_overtook_the_outbox_counts_the_grant_once(house: House) -> None:
    user_id = await house.a_user(credits_given=5)
    await house.load(user_id)
    await OutboxPublisher(house.database, house.meter).run_once()
    assert await _balance(house, user_id) == 5


async def test_account_version_makes_older_decisions_stale(house: House) -> None:
    user_id = await _loaded(house)
    async with house.database.transaction() as connection:
        moved = await bump_account(connection, user_id)
    assert (await house.try_admit(user_id, str(uuid4()))).verdict is Verdict.ADMITTED  # not published yet
    await OutboxPublisher(house.database, house.meter).run_once()
    assert (await house.try_admit(user_id, str(uuid4()))).verdict is Verdict.STALE
    assert await house.meter.versions(house.meter.keys(user_id)) == Versions(moved or 0, 1)


async def test_catalogue_version_makes_older_decisions_stale_in_every_partition(house: House) -> None:
    users = [await _loaded(house)]
    while {house.meter.keys(user_id).partition for user_id in users} != set(range(PARTITIONS)):
        users.append(await _loaded(house))
        assert len(users) < 200, "accounts must spread over the partitions"
    async with house.database.transaction() as connection:
        await bump_catalogue(connection)
    await OutboxPublisher(house.database, house.meter).run_once()
    verdicts = {(await house.try_admit(user_id, str(uuid4()))).verdict for user_id in users}
    assert verdicts == {Verdict.STALE}


async def test_crash_after_redis_applied_repeats_nothing(house: House) -> None:
    user_id = await _loaded(house)
    await house.give(user_id, 7)
    await house.give(user_id, 9)
    crashing = CrashingMeter(house.link, partitions=PARTITIONS, owner="any")
    with pytest.raises(Crashed):
        await OutboxPublisher(house.database, crashing).run_once()
    assert await _unpublished(house) == 2
    assert await OutboxPublisher(house.database, house.meter).run_once() == 2
    assert await _balance(house, user_id) == 116


async def test_publish_covers_one_account(house: House) -> None:
    first, second = await _loaded(house), await _loaded(house)
    await house.give(first, 1)
    await house.give(second, 2)
    publisher = OutboxPublisher(house.database, house.meter)
    assert await publisher.publish(first) == 1
    assert (await _balance(house, first), await _balance(house, second)) == (101, 100)
    assert await publisher.run_once() == 1
    assert await _balance(house, second) == 102


async def test_unreachable_account_blocks_no_other(house: House) -> None:
    away, others = await _loaded(house), [await _loaded(house) for _ in range(3)]
    for user_id in (away, *others):
        await house.give(user_id, 5)
    meter = PartlyAway(house.link, partitions=PARTITIONS, owner="test")
    meter.away = away
    with pytest.raises(MeterUnavailable):
        await OutboxPublisher(house.database, meter).run_once()
    assert [await _balance(house, user_id) for user_id in others] == [105] * 3
    assert await _unpublished(house) == 1
    assert await OutboxPublisher(house.database, house.meter).run_once() == 1
    assert await _balance(house, away) == 105


async def test_concurrent_publishers_publish_everything_once(house: House) -> None:
    users = [await _loaded(house) for _ in range(4)]
    for amount in range(1, 11):
        for user_id in users:
            await house.give(user_id, amount)
    publishers = [OutboxPublisher(house.database, house.meter) for _ in range(4)]
    await asyncio.gather(*(publisher.run_once() for publisher in publishers), publishers[0].publish(users[0]))
    while await publishers[0].run_once():
        pass
    assert [await _balance(house, user_id) for user_id in users] == [155] * 4
    assert await _unpublished(house) == 0


async def test_account_that_lost_a_change_in_redis_is_loaded_again(house: House) -> None:
    """Redis crashed and came back as it was before its last flush."""
    user_id = await _loaded(house)
    publisher, account = OutboxPublisher(house.database, house.meter), house.meter.keys(user_id).account
    before = await house.redis.dump(account)
    assert before is not None
    await house.give(user_id, 7)
    await publisher.run_once()
    await house.redis.restore(account, 0, before, replace=True)
    await house.give(user_id, 9)
    assert await publisher.run_once() == 1
    assert (await house.try_admit(user_id, str(uuid4()))).verdict is Verdict.COLD
    await house.load(user_id)
    assert await _balance(house, user_id) == 116
    assert await _unpublished(house) == 0


async def test_debit_reaches_redis(house: House) -> None:
    user_id = await _loaded(house)
    async with house.database.transaction() as connection:
        await grants.adjust(connection, user_id, amount=-150, reason="test", actor="test")
    await OutboxPublisher(house.database, house.meter).publish(user_id)
    assert await _balance(house, user_id) == -50
