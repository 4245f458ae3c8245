"""Every planted difference is found, none is made up while calls are made and written, and a repair ends them all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway import metrics
from gateway.ledger.audit import audit_log as audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.credits import grants
from gateway.meter.account_snapshots import AccountSnapshotReader, PartitionSnapshot
from gateway.meter.journal import MAX_ENTRIES_PER_READ
from gateway.meter.layout import AccountState
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage import reconciliation
from gateway.workers.usage.reconciliation import Finding, NightlyReconciliation, Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from policies.usage.reconciliation import Book
from tests.support.sampling import seeded_random
from tests.workers.conftest import Backend

Found = set[tuple[UUID, Book, int]]


def a_reconciler(backend: Backend, *, repair_as: str | None = None) -> Reconciler:
    return Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter), repair_as=repair_as)


async def findings(backend: Backend, *, repair_as: str | None = None) -> list[Finding]:
    return [each async for page in a_reconciler(backend, repair_as=repair_as).pages() for each in page.findings]


def shown(found: list[Finding]) -> Found:
    return {(each.user_id, each.difference.book, each.difference.credits) for each in found}


async def execute(backend: Backend, statement: str, **parameters: object) -> None:
    async with backend.database.transaction() as connection:
        await connection.execute(text(statement), parameters)


# What goes wrong, each by `amount` credits, and the books that then disagree with the balance row.


async def plant_in_redis(backend: Backend, user_id: UUID, amount: int) -> Found:
    key = backend.meter.keys(user_id).account
    state = await backend.redis.hget(key, "s")
    assert isinstance(state, bytes)
    found = AccountState.unpack(state)
    await backend.redis.hset(key, "s", found._replace(balance=found.balance + amount).packed())
    return {(user_id, Book.REDIS, amount)}


async def plant_a_lost_hold(backend: Backend, user_id: UUID, amount: int) -> Found:
    request_id = await backend.admit(user_id, amount=abs(amount))
    await backend.redis.hdel(backend.meter.keys(user_id).holds, request_id)
    return {(user_id, Book.REDIS, -abs(amount))}


async def plant_a_lost_entry(backend: Backend, user_id: UUID, amount: int) -> Found:
    keys = backend.meter.keys(user_id)
    await backend.call(user_id, charge=abs(amount))
    newest = (await AccountSnapshotReader(backend.redis_client, backend.meter).read(keys.partition, [])).newest_entry
    assert newest is not None
    assert await backend.redis.xdel(keys.journal, newest) == 1
    return {(user_id, Book.REDIS, -abs(amount))}


async def plant_a_lost_grant(backend: Backend, user_id: UUID, amount: int) -> Found:
    await backend.give(user_id, abs(amount))
    await execute(backend, "DELETE FROM outbox WHERE user_id = :user_id", user_id=user_id)
    return {(user_id, Book.REDIS, -abs(amount)), (user_id, Book.CHANGES, 0)}


async def plant_in_the_ledger(backend: Backend, user_id: UUID, amount: int) -> Found:
    await execute(
        backend,
        "INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor)"
        " VALUES (:user_id, 'adjustment', :amount, 0, 'stray')",
        user_id=user_id,
        amount=amount,
    )
    return {(user_id, Book.LEDGER, amount)}


async def plant_in_the_grants(backend: Backend, user_id: UUID, amount: int) -> Found:
    less = abs(amount)
    await execute(
        backend,
        "UPDATE credit_grants SET remaining = remaining - :less WHERE id ="
        " (SELECT id FROM credit_grants WHERE user_id = :user_id AND remaining >= :less LIMIT 1)",
        user_id=user_id,
        less=less,
    )
    return {(user_id, Book.GRANTS, -less)}


async def plant_a_stray_grant(backend: Backend, user_id: UUID, amount: int) -> Found:
    await execute(
        backend,
        "INSERT INTO credit_grants (id, user_id, source, amount, remaining, effective_at)"
        " VALUES (gen_random_uuid(), :user_id, 'promo', :more, :more, now())",
        user_id=user_id,
        more=abs(amount),
    )
    return {(user_id, Book.GRANTS, abs(amount))}


async def plant_in_the_balance(backend: Backend, user_id: UUID, amount: int) -> Found:
    await execute(
        backend,
        "UPDATE user_credits SET current_credits = current_credits + :amount WHERE user_id = :user_id",
        user_id=user_id,
        amount=amount,
    )
    return {(user_id, book, -amount) for book in (Book.REDIS, Book.LEDGER, Book.GRANTS)}


Plant = Callable[[Backend, UUID, int], Awaitable[Found]]
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


async def in_every_state(backend: Backend, count: int) -> list[UUID]:
    """Accounts with holds, settled calls, written calls, grants told and untold; a third of them cold, some in debt."""
    users = [await backend.a_user(credits_given=1_000) for _ in range(count)]
    for number, user_id in enumerate(users):
        if number % 3:
            await backend.load(user_id)
            await backend.call(user_id, charge=number % 7)
            await backend.admit(user_id, amount=3)
            if number % 10 == 1:
                request_id = await backend.admit(user_id, amount=1)
                await backend.settle(user_id, request_id, charge=2_000)
    await UsageWriter(backend.database, backend.journal).run_once()
    for number, user_id in enumerate(users):
        await backend.give(user_id, 5)
        if number % 2:
            await OutboxPublisher(backend.database, backend.meter).publish(user_id)
        if number % 3 == 2 and number % 10 != 1:
            await backend.call(user_id, charge=2)
    return users


async def test_reconciliation_finds_nothing_where_books_agree(backend: Backend) -> None:
    await in_every_state(backend, 30)
    assert await findings(backend) == []


async def test_reconciliation_compares_unloaded_accounts_within_postgresql(backend: Backend) -> None:
    user_id = await backend.a_user()
    checked = await a_reconciler(backend).check((user_id,))
    assert (checked.accounts, checked.loaded, checked.findings) == (1, 0, ())
    expected = await plant_in_the_ledger(backend, user_id, 4)
    assert shown(await findings(backend)) == expected


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
async def test_reconciliation_finds_a_difference_and_repairs_it(backend: Backend, plant: Plant) -> None:
    sound, user_id = await backend.a_user(), await backend.a_user()
    for each in (sound, user_id):
        await backend.load(each)
        await backend.call(each, charge=2)
    expected = await plant(backend, user_id, 7)
    assert shown(await findings(backend)) == expected
    repaired = await findings(backend, repair_as="test")
    # A balance row put right within PostgreSQL is right for Redis to follow.
    assert (shown(repaired), all(each.is_repaired for each in repaired)) == (expected, True)
    assert await findings(backend) == await findings(backend, repair_as="test") == []
    async with backend.database.read() as connection:
        entries = (await audit_log.list_entries(connection, AuditFilter(entity="user", entity_id=user_id))).data
    actions = [entry.action for entry in entries if entry.actor == "test"]
    assert sorted(actions) == sorted(f"reconcile.{book}" for _, book, _ in expected)


async def test_reconciliation_finds_all_of_a_hundred_differences_and_no_other(backend: Backend) -> None:
    chance = random.Random(4)  # noqa: S311 - a seed, not a secret
    users = [await backend.a_user(credits_given=1_000) for _ in range(130)]
    for user_id in users:
        await backend.load(user_id)
        await backend.call(user_id, charge=1)
    expected: Found = set()
    for number, user_id in enumerate(chance.sample(users, 100)):
        amount = chance.choice((-1, 1)) * chance.randint(1, 90)
        expected |= await PLANTS[number % len(PLANTS)](backend, user_id, amount)
    assert shown(await findings(backend)) == expected
    assert shown(await findings(backend, repair_as="test")) == expected
    assert await findings(backend) == []


async def test_reconciliation_is_exact_under_traffic(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "PAGE_ACCOUNTS", 7)
    users = [await backend.a_user(credits_given=100_000) for _ in range(20)]
    for user_id in users:
        await backend.load(user_id)
    async with traffic(backend, users) as calls:
        for _ in range(6):
            assert await findings(backend) == []
        expected: Found = set()
        for user_id in users[::3]:
            expected |= await plant_between_calls(backend, user_id)
        for _ in range(4):
            assert shown(await findings(backend)) == expected
        assert shown(await findings(backend, repair_as="test")) == expected
        for _ in range(3):
            assert await findings(backend) == []
    assert calls.made > 100
    while await UsageWriter(backend.database, backend.journal).run_once():
        pass
    assert await findings(backend) == []


async def test_correction_is_applied_once_however_late_and_often_it_is_sent(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=10)
    await backend.load(user_id)
    audit, partition = AccountSnapshotReader(backend.redis_client, backend.meter), backend.meter.keys(user_id).partition
    before = (await audit.read(partition, [user_id])).accounts[user_id]
    assert await audit.correct(user_id, before, add=5, credit_seq=1)
    assert not await audit.correct(user_id, before, add=5, credit_seq=1)
    after = (await audit.read(partition, [user_id])).accounts[user_id]
    assert (after.balance, after.credit_seq) == (before.balance + 5, 1)
    await backend.give(user_id, 1)
    await OutboxPublisher(backend.database, backend.meter).publish(user_id)
    assert not await audit.correct(user_id, after, add=5, credit_seq=1)
    await backend.redis.delete(backend.meter.keys(user_id).account)
    assert not await audit.correct(user_id, after, add=5, credit_seq=1)


async def test_reconciliation_reads_a_journal_of_many_pages_and_invalid_entries(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=5_000)
    await backend.load(user_id)
    await backend.spoil(user_id, b"nonsense")
    for _ in range(MAX_ENTRIES_PER_READ + 20):
        await backend.call(user_id, charge=2)
    assert await findings(backend) == []


async def test_reconciliation_counts_recorded_entries_once_before_they_are_trimmed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_arguments: object) -> None:
        return

    user_id = await backend.a_user()
    await backend.load(user_id)
    await backend.call(user_id, charge=3)
    with monkeypatch.context() as patched:
        patched.setattr(backend.journal, "trim", die)
        await UsageWriter(backend.database, backend.journal).run_once()
    await backend.call(user_id, charge=4)
    assert await backend.journal.length() == 2
    assert await findings(backend) == []


class Overtaken(AccountSnapshotReader):
    """Before its first reading another process gives credits, and tells Redis at once."""

    backend: Backend

    async def read(self, partition: int, account_ids: Sequence[UUID]) -> PartitionSnapshot:
        if self.backend.users:
            await self.backend.give(user_id := self.backend.users.pop(), 5)
            await OutboxPublisher(self.backend.database, self.backend.meter).publish(user_id)
        return await super().read(partition, account_ids)


async def test_reconciliation_is_exact_when_credits_change_between_its_readings(backend: Backend) -> None:
    user_id = await backend.a_user()
    await backend.load(user_id)
    audit = Overtaken(backend.redis_client, backend.meter)
    audit.backend = backend
    checked = await Reconciler(backend.database, audit).check((user_id,))
    assert (checked.loaded, checked.findings) == (1, ())


async def test_nightly_reconciliation_compares_all_accounts_by_page_and_sets_a_metric(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PAGE_ACCOUNTS", 2)
    instant = [datetime(2026, 3, 15, 12, tzinfo=UTC)]
    nightly = NightlyReconciliation(a_reconciler(backend), now=lambda: instant[0])
    users = [await backend.a_user() for _ in range(5)]
    await plant_in_the_ledger(backend, users[0], 7)
    await plant_in_the_ledger(backend, users[4], -5)
    assert [await nightly.run_once() for _ in range(6)] == [2, 2, 1, 0, 0, 0]
    assert metrics.RECONCILE_DIFFERENCE._value.get() == 12
    assert len(await findings(backend, repair_as="test")) == 2
    instant[0] += timedelta(hours=14)
    assert await nightly.run_once() == 0
    instant[0] += timedelta(hours=1)
    assert [await nightly.run_once() for _ in range(4)] == [2, 2, 1, 0]
    assert metrics.RECONCILE_DIFFERENCE._value.get() == 0


async def plant_between_calls(backend: Backend, user_id: UUID) -> Found:
    """As large as a usual charge, so that a race could hide it."""
    audit, keys = AccountSnapshotReader(backend.redis_client, backend.meter), backend.meter.keys(user_id)
    while True:
        account = (await audit.read(keys.partition, [user_id])).accounts[user_id]
        if await audit.correct(user_id, account, add=1, credit_seq=account.credit_seq):
            return {(user_id, Book.REDIS, 1)}


class traffic:  # noqa: N801 - reads as what it brings about
    """Callers, two writers, grants and their publisher, all at once."""

    def __init__(self, backend: Backend, users: list[UUID]) -> None:
        self._house, self._users = backend, users
        self._random = seeded_random("traffic")
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False
        self.made = 0

    async def __aenter__(self) -> traffic:
        backend = self._house
        loops = [self._call, self._call, self._call, self._grant]
        workers = [UsageWriter(backend.database, backend.journal) for _ in range(2)]
        self._tasks = [asyncio.create_task(self._repeat(each)) for each in loops]
        self._tasks += [asyncio.create_task(self._repeat(writer.run_once)) for writer in workers]
        publisher = OutboxPublisher(backend.database, backend.meter)
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
        user_id = self._random.choice(self._users)
        request_id = await self._house.admit(user_id, amount=2)
        await asyncio.sleep(0)
        await self._house.settle(user_id, request_id, charge=self._random.randint(0, 3))
        self.made += 1

    async def _grant(self) -> None:
        user_id = self._random.choice(self._users)
        async with self._house.database.transaction() as connection:
            await grants.adjust(connection, user_id, amount=self._random.choice((-1, 1)), reason="test", actor="test")
