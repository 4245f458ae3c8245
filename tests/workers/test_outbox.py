"""Committed changes reach Redis in order and once, also across crashes."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.credits import grants
from gateway.ledger.db.outbox import bump_account, bump_catalogue
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.meter import Meter, Versions
from gateway.meter.publications import Publication
from gateway.meter.replies import CreditChangeResult, Verdict
from gateway.workers.outbox import OutboxPublisher
from tests.workers.conftest import PARTITIONS, Backend


class Crashed(BaseException):
    """The process dies here: nothing catches it."""


class CrashingMeter(Meter):
    """Dies right after Redis has applied a movement of credits."""

    async def publication(self) -> Publication:
        publication = await super().publication()
        apply_credits = publication.apply_credits

        async def crash(account_id: UUID, *, credit_seq: int, amount: int) -> CreditChangeResult:
            await apply_credits(account_id, credit_seq=credit_seq, amount=amount)
            raise Crashed

        publication.apply_credits = crash  # type: ignore[method-assign]
        return publication


class PartlyAway(Meter):
    """A cluster without the master of one account."""

    away: UUID | None = None

    async def publication(self) -> Publication:
        publication = await super().publication()
        apply_credits = publication.apply_credits

        async def apply(account_id: UUID, *, credit_seq: int, amount: int) -> CreditChangeResult:
            if account_id == self.away:
                raise MeterUnavailable("away")
            return await apply_credits(account_id, credit_seq=credit_seq, amount=amount)

        publication.apply_credits = apply  # type: ignore[method-assign]
        return publication


async def _loaded(backend: Backend) -> UUID:
    """A loaded account of 100 credits with an empty outbox."""
    user_id = await backend.a_user()
    await backend.load(user_id)
    await OutboxPublisher(backend.database, backend.meter).run_once()
    return user_id


async def _balance(backend: Backend, user_id: UUID) -> int:
    """The balance by an admission that asks for more than any account has."""
    admission = await backend.try_admit(user_id, str(uuid4()), amount=2**40)
    assert admission.verdict is Verdict.INSUFFICIENT_CREDITS
    return admission.balance


async def _unpublished(backend: Backend) -> int:
    async with backend.database.read() as connection:
        count: int = (await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one()
    return count


async def test_grant_reaches_the_balance_in_redis(backend: Backend) -> None:
    user_id = await _loaded(backend)
    await backend.give(user_id, 11)
    assert await OutboxPublisher(backend.database, backend.meter).run_once() == 1
    assert await _balance(backend, user_id) == 111
    assert await _unpublished(backend) == 0


async def test_account_that_is_not_loaded_gets_grants_by_its_load(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=5)
    await backend.give(user_id, 6)
    publisher = OutboxPublisher(backend.database, backend.meter)
    assert await publisher.run_once() == 2
    await backend.load(user_id)
    assert await _balance(backend, user_id) == 11


async def test_load_read_before_a_grant_is_refused(backend: Backend) -> None:
    await backend.meter.enter_epochs()
    user_id = await backend.a_user(credits_given=5)
    await backend.give(user_id, 6)
    await OutboxPublisher(backend.database, backend.meter).run_once()
    keys = backend.meter.keys(user_id)
    assert not await backend.meter.load(keys, account_version=1, credit_seq=1, balance=5, catalogue_version=1)
    await backend.load(user_id)
    assert await _balance(backend, user_id) == 11


async def test_load_that_overtook_the_outbox_counts_the_grant_once(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=5)
    await backend.load(user_id)
    await OutboxPublisher(backend.database, backend.meter).run_once()
    assert await _balance(backend, user_id) == 5


async def test_account_version_makes_older_decisions_stale(backend: Backend) -> None:
    user_id = await _loaded(backend)
    async with backend.database.transaction() as connection:
        moved = await bump_account(connection, user_id)
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.ADMITTED  # not published yet
    await OutboxPublisher(backend.database, backend.meter).run_once()
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.STALE
    assert await backend.meter.versions(backend.meter.keys(user_id)) == Versions(moved or 0, 1, 1)


async def test_catalogue_version_makes_older_decisions_stale_in_every_partition(backend: Backend) -> None:
    users = [await _loaded(backend)]
    while {backend.meter.keys(user_id).partition for user_id in users} != set(range(PARTITIONS)):
        users.append(await _loaded(backend))
        assert len(users) < 200, "accounts must spread over the partitions"
    async with backend.database.transaction() as connection:
        await bump_catalogue(connection)
    await OutboxPublisher(backend.database, backend.meter).run_once()
    verdicts = {(await backend.try_admit(user_id, str(uuid4()))).verdict for user_id in users}
    assert verdicts == {Verdict.STALE}


async def test_crash_after_redis_applied_repeats_nothing(backend: Backend) -> None:
    user_id = await _loaded(backend)
    await backend.give(user_id, 7)
    await backend.give(user_id, 9)
    crashing = CrashingMeter(backend.redis_client, partitions=PARTITIONS, owner="any")
    with pytest.raises(Crashed):
        await OutboxPublisher(backend.database, crashing).run_once()
    assert await _unpublished(backend) == 2
    assert await OutboxPublisher(backend.database, backend.meter).run_once() == 2
    await backend.load(user_id)  # it is not told what the repetition was
    assert await _balance(backend, user_id) == 116


async def test_publish_covers_one_account(backend: Backend) -> None:
    first, second = await _loaded(backend), await _loaded(backend)
    await backend.give(first, 1)
    await backend.give(second, 2)
    publisher = OutboxPublisher(backend.database, backend.meter)
    assert await publisher.publish(first) == 1
    assert (await _balance(backend, first), await _balance(backend, second)) == (101, 100)
    assert await publisher.run_once() == 1
    assert await _balance(backend, second) == 102


async def test_unreachable_account_blocks_no_other(backend: Backend) -> None:
    away, others = await _loaded(backend), [await _loaded(backend) for _ in range(3)]
    for user_id in (away, *others):
        await backend.give(user_id, 5)
    meter = PartlyAway(backend.redis_client, partitions=PARTITIONS, owner="test")
    meter.away = away
    with pytest.raises(MeterUnavailable):
        await OutboxPublisher(backend.database, meter).run_once()
    assert [await _balance(backend, user_id) for user_id in others] == [105] * 3
    assert await _unpublished(backend) == 1
    assert await OutboxPublisher(backend.database, backend.meter).run_once() == 1
    assert await _balance(backend, away) == 105


async def test_concurrent_publishers_publish_everything_once(backend: Backend) -> None:
    users = [await _loaded(backend) for _ in range(4)]
    for amount in range(1, 11):
        for user_id in users:
            await backend.give(user_id, amount)
    publishers = [OutboxPublisher(backend.database, backend.meter) for _ in range(4)]
    await asyncio.gather(*(publisher.run_once() for publisher in publishers), publishers[0].publish(users[0]))
    while await publishers[0].run_once():
        pass
    assert [await _balance(backend, user_id) for user_id in users] == [155] * 4
    assert await _unpublished(backend) == 0


async def test_account_that_lost_a_change_in_redis_is_loaded_again(backend: Backend) -> None:
    """Redis restarts with its state before the last flush."""
    user_id = await _loaded(backend)
    publisher, account = OutboxPublisher(backend.database, backend.meter), backend.meter.keys(user_id).account
    before = await backend.redis.dump(account)
    assert before is not None
    await backend.give(user_id, 7)
    await publisher.run_once()
    await backend.redis.restore(account, 0, before, replace=True)
    await backend.give(user_id, 9)
    assert await publisher.run_once() == 1
    assert (await backend.try_admit(user_id, str(uuid4()))).verdict is Verdict.NOT_LOADED
    await backend.load(user_id)
    assert await _balance(backend, user_id) == 116
    assert await _unpublished(backend) == 0


async def test_debit_reaches_redis(backend: Backend) -> None:
    user_id = await _loaded(backend)
    async with backend.database.transaction() as connection:
        await grants.adjust(connection, user_id, amount=-150, reason="test", actor="test")
    await OutboxPublisher(backend.database, backend.meter).publish(user_id)
    assert await _balance(backend, user_id) == -50
