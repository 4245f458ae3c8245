"""Every planted difference is found, none is made up while calls are made and written, and a repair ends them all."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway import metrics
from gateway.ledger.audit import audit_log as audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.credits import grants
from gateway.meter.account_snapshots import Audit, Snapshot
from gateway.meter.journal import MAX_ENTRIES_PER_READ
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage import reconciliation
from gateway.workers.usage.reconciliation import Finding, NightlyReconciliation, Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from policies.usage.reconciliation import Book
from tests.workers.conftest import House

Found = set[tuple[UUID, Book, int]]


def a_reconciler(house: House, *, repair_as: str | None = None) -> Reconciler:
    return Reconciler(house.database, Audit(house.link, house.meter), repair_as=repair_as)


async def findings(house: House, *, repair_as: str | None = None) -> list[Finding]:
    return [each async for page in a_reconciler(house, repair_as=repair_as).pages() for each in page.findings]


def shown(found: list[Finding]) -> Found:
    return {(each.user_id, each.difference.book, each.difference.credits) for each in found}


async def execute(house: House, statement: str, **parameters: object) -> None:
    async with house.database.transaction() as connection:
        await connection.execute(text(statement), parameters)


# What goes wrong, each by `amount` credits, and the books that then disagree with the balance row.


async def plant_in_redis(house: House, user_id: UUID, amount: int) -> Found:
    key = house.meter.keys(user_id).account
    state = await house.redis.hget(key, "s")
    assert isinstance(state, bytes)
    moment, balance = struct.unpack_from("<qq", state)
    await house.redis.hset(key, "s", struct.pack("<qq", moment, balance + amount) + state[16:])
    return {(user_id, Book.REDIS, amount)}


async def plant_a_lost_hold(house: House, user_id: UUID, amount: int) -> Found:
    request_id = await house.admit(user_id, amount=abs(amount))
    await house.redis.hdel(house.meter.keys(user_id).holds, request_id)
    return {(user_id, Book.REDIS, -abs(amount))}


async def plant_a_lost_entry(house: House, user_id: UUID, amount: int) -> Found:
    keys = house.meter.keys(user_id)
    await house.call(user_id, charge=abs(amount))
    newest = (await Audit(house.link, house.meter).read(keys.partition, [])).newest_entry
    assert newest is not None
    assert await house.redis.xdel(keys.journal, newest) == 1
    return {(user_id, Book.REDIS, -abs(amount))}


async def plant_a_lost_grant(house: House, user_id: UUID, amount: int) -> Found:
    await house.give(user_id, abs(amount))
    await execute(house, "DELETE FROM outbox WHERE user_id = :user_id", user_id=user_id)
    return {(user_id, Book.REDIS, -abs(amount)), (user_id, Book.CHANGES, 0)}


async def plant_in_the_ledger(house: House, user_id: UUID, amount: int) -> Found:
    await execute(
        house,
        "INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor)"
        " VALUES (:user_id, 'adjustment', :amount, 0, 'stray')",
        user_id=user_id,
        amount=amount,
    )
    return {(user_id, Book.LEDGER, amount)}


async def plant_in_the_grants(house: House, user_id: UUID, amount: int) -> Found:
    less = abs(amount)
    await execute(
        house,
        "UPDATE credit_grants SET remaining = remaining - :less WHERE id ="
        " (SELECT id FROM credit_grants WHERE user_id = :user_id AND remaining >= :less LIMIT 1)",
        user_id=user_id,
        less=less,
    )
    return {(user_id, Book.GRANTS, -less)}


async def plant_a_stray_grant(house: House, user_id: UUID, amount: int) -> Found:
    await execute(
        house,
        "INSERT INTO credit_grants (id, user_id, source, amount, remaining, effective_at)"
        " VALUES (gen_random_uuid(), :user_id, 'promo', :more, :more, now())",
        user_id=user_id,
        more=abs(amount),
    )
    return {(user_id, Book.GRANTS, abs(amount))}


async def plant_in_the_balance(house: House, user_id: UUID, amount: int) -> Found:
    await execute(
        house,
        "UPDATE user_credits SET current_credits = current_credits + :amount WHERE user_id = :user_id",
        user_id=user_id,
        amount=amount,
    )
    return {(user_id, book, -amount) for book in (Book.REDIS, Book.LEDGER, Book.GRANTS)}


Plant = Callable[[House, UUID, int], Awaitable[Found]]
PLANTS: tuple[Plant, ...] = (
    plant_in_redis,
    plant_a_lost_hold,
    plant_a_lost_entry,
    plant_a_lost_grant,
    plant_in_the_ledger,
    plant_in_the_grants,
    plant_a_stray_grant,
    plant_in_the_balance,
)


async def in_every_state(house: House, count: int) -> list[UUID]:
    """Accounts with holds, settled calls, written calls, grants told and untold; a third of them cold, some in debt."""
    users = [await house.a_user(credits_given=1_000) for _ in range(count)]
    for number, user_id in enumerate(users):
        if number % 3:
            await house.load(user_id)
            await house.call(user_id, charge=number % 7)
            await house.admit(user_id, amount=3)
            if number % 10 == 1:
                request_id = await house.admit(user_id, amount=1)
                await house.settle(user_id, request_id, charge=2_000)
    await UsageWriter(house.database, house.journal).run_once()
    for number, user_id in enumerate(users):
        await house.give(user_id, 5)
        if number % 2:
            await OutboxPublisher(house.database, house.meter).publish(user_id)
        if number % 3 == 2 and number % 10 != 1:
            await house.call(user_id, charge=2)
    return users


async def test_books_that_agree_are_not_complained_of(house: House) -> None:
    await in_every_state(house, 30)
    assert await findings(house) == []


async def test_accounts_that_redis_does_not_know_are_compared_within_postgresql(house: House) -> None:
    user_id = await house.a_user()
    checked = await a_reconciler(house).check((user_id,))
    assert (checked.accounts, checked.hot, checked.findings) == (1, 0, ())
    expected = await plant_in_the_ledger(house, user_id, 4)
    assert shown(await findings(house)) == expected


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
async def test_a_difference_is_found_and_a_repair_ends_it(house: House, plant: Plant) -> None:
    sound, user_id = await house.a_user(), await house.a_user()
    for each in (sound, user_id):
        await house.load(each)
        await house.call(each, charge=2)
    expected = await plant(house, user_id, 7)
    assert shown(await findings(house)) == expected
    repaired = await findings(house, repair_as="test")
    # A balance row put right within PostgreSQL is right for Redis to follow.
    assert (shown(repaired), all(each.is_repaired for each in repaired)) == (expected, True)
    assert await findings(house) == await findings(house, repair_as="test") == []
    async with house.database.read() as connection:
        entries = (await audit_log.list_entries(connection, AuditFilter(entity="user", entity_id=user_id))).data
    actions = [entry.action for entry in entries if entry.actor == "test"]
    assert sorted(actions) == sorted(f"reconcile.{book}" for _, book, _ in expected)


async def test_a_hundred_differences_among_sound_accounts_are_all_found_and_nothing_else(house: House) -> None:
    chance = random.Random(4)  # noqa: S311 - a seed, not a secret
    users = [await house.a_user(credits_given=1_000) for _ in range(130)]
    for user_id in users:
        await house.load(user_id)
        await house.call(user_id, charge=1)
    expected: Found = set()
    for number, user_id in enumerate(chance.sample(users, 100)):
        amount = chance.choice((-1, 1)) * chance.randint(1, 90)
        expected |= await PLANTS[number % len(PLANTS)](house, user_id, amount)
    assert shown(await findings(house)) == expected
    assert shown(await findings(house, repair_as="test")) == expected
    assert await findings(house) == []


async def test_traffic_makes_up_no_difference_and_hides_none(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "PAGE_ACCOUNTS", 7)
    users = [await house.a_user(credits_given=100_000) for _ in range(20)]
    for user_id in users:
        await house.load(user_id)
    async with traffic(house, users) as calls:
        for _ in range(6):
            assert await findings(house) == []
        expected: Found = set()
        for user_id in users[::3]:
            expected |= await plant_between_calls(house, user_id)
        for _ in range(4):
            assert shown(await findings(house)) == expected
        assert shown(await findings(house, repair_as="test")) == expected
        for _ in range(3):
            assert await findings(house) == []
    assert calls.made > 100
    while await UsageWriter(house.database, house.journal).run_once():
        pass
    assert await findings(house) == []


async def test_an_account_is_corrected_once_however_late_and_often_it_is_sent(house: House) -> None:
    user_id = await house.a_user(credits_given=10)
    await house.load(user_id)
    audit, partition = Audit(house.link, house.meter), house.meter.keys(user_id).partition
    before = (await audit.read(partition, [user_id])).accounts[user_id]
    assert await audit.correct(user_id, before, add=5, credit_seq=1)
    assert not await audit.correct(user_id, before, add=5, credit_seq=1)
    after = (await audit.read(partition, [user_id])).accounts[user_id]
    assert (after.balance, after.credit_seq) == (before.balance + 5, 1)
    await house.give(user_id, 1)
    await OutboxPublisher(house.database, house.meter).publish(user_id)
    assert not await audit.correct(user_id, after, add=5, credit_seq=1)
    await house.redis.delete(house.meter.keys(user_id).account)
    assert not await audit.correct(user_id, after, add=5, credit_seq=1)


async def test_a_journal_of_many_pages_and_entries_that_are_no_records_is_read_to_its_end(house: House) -> None:
    user_id = await house.a_user(credits_given=5_000)
    await house.load(user_id)
    await house.spoil(user_id, b"nonsense")
    for _ in range(MAX_ENTRIES_PER_READ + 20):
        await house.call(user_id, charge=2)
    assert await findings(house) == []


async def test_entries_that_are_written_and_not_yet_trimmed_count_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_arguments: object) -> None:
        return

    user_id = await house.a_user()
    await house.load(user_id)
    await house.call(user_id, charge=3)
    with monkeypatch.context() as patched:
        patched.setattr(house.journal, "trim", die)
        await UsageWriter(house.database, house.journal).run_once()
    await house.call(user_id, charge=4)
    assert await house.journal.length() == 2
    assert await findings(house) == []


class Overtaken(Audit):
    """Before its first reading another process gives credits, and tells Redis at once."""

    house: House

    async def read(self, partition: int, account_ids: Sequence[UUID]) -> Snapshot:
        if self.house.users:
            await self.house.give(user_id := self.house.users.pop(), 5)
            await OutboxPublisher(self.house.database, self.house.meter).publish(user_id)
        return await super().read(partition, account_ids)


async def test_credits_given_between_the_two_readings_make_up_no_difference(house: House) -> None:
    user_id = await house.a_user()
    await house.load(user_id)
    audit = Overtaken(house.link, house.meter)
    audit.house = house
    checked = await Reconciler(house.database, audit).check((user_id,))
    assert (checked.hot, checked.findings) == (1, ())


async def test_every_night_all_accounts_are_compared_page_by_page_and_the_sum_is_a_metric(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PAGE_ACCOUNTS", 2)
    instant = [datetime(2026, 3, 15, 12, tzinfo=UTC)]
    nightly = NightlyReconciliation(a_reconciler(house), now=lambda: instant[0])
    users = [await house.a_user() for _ in range(5)]
    await plant_in_the_ledger(house, users[0], 7)
    await plant_in_the_ledger(house, users[4], -5)
    assert [await nightly.run_once() for _ in range(6)] == [2, 2, 1, 0, 0, 0]
    assert metrics.RECONCILE_DIFFERENCE._value.get() == 12
    assert len(await findings(house, repair_as="test")) == 2
    instant[0] += timedelta(hours=14)
    assert await nightly.run_once() == 0
    instant[0] += timedelta(hours=1)
    assert [await nightly.run_once() for _ in range(4)] == [2, 2, 1, 0]
    assert metrics.RECONCILE_DIFFERENCE._value.get() == 0


async def plant_between_calls(house: House, user_id: UUID) -> Found:
    """As large as a usual charge, so that a race could hide it."""
    audit, keys = Audit(house.link, house.meter), house.meter.keys(user_id)
    while True:
        account = (await audit.read(keys.partition, [user_id])).accounts[user_id]
        if await audit.correct(user_id, account, add=1, credit_seq=account.credit_seq):
            return {(user_id, Book.REDIS, 1)}


class traffic:  # noqa: N801 - reads as what it brings about
    """Callers, two writers, grants and their publisher, all at once."""

    def __init__(self, house: House, users: list[UUID]) -> None:
        self._house, self._users = house, users
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False
        self.made = 0

    async def __aenter__(self) -> traffic:
        house = self._house
        loops = [self._call, self._call, self._call, self._grant]
        workers = [UsageWriter(house.database, house.journal) for _ in range(2)]
        self._tasks = [asyncio.create_task(self._repeat(each)) for each in loops]
        self._tasks += [asyncio.create_task(self._repeat(writer.run_once)) for writer in workers]
        publisher = OutboxPublisher(house.database, house.meter)
        self._tasks.append(asyncio.create_task(self._repeat(publisher.run_once)))
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _repeat(self, step: Callable[[], Awaitable[object]]) -> None:
        while not self._over:
            await step()
            await asyncio.sleep(0)

    async def _call(self) -> None:
        user_id = random.choice(self._users)  # noqa: S311 - chance, not a secret
        request_id = await self._house.admit(user_id, amount=2)
        await asyncio.sleep(0)
        await self._house.settle(user_id, request_id, charge=random.randint(0, 3))  # noqa: S311 - chance, not a secret
        self.made += 1

    async def _grant(self) -> None:
        user_id = random.choice(self._users)  # noqa: S311 - chance, not a secret
        async with self._house.database.transaction() as connection:
            await grants.adjust(connection, user_id, amount=random.choice((-1, 1)), reason="test", actor="test")  # noqa: S311
