"""An account that went cold is loaded with exactly what it has, whatever moves between the readings."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.ledger.accounts import api_keys as key_ledger
from gateway.ledger.usage import account_load, journal_offsets, key_budgets
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.client.errors import NotSent
from gateway.meter.layout import AccountState, KeyBudget
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import Verdict
from gateway.proxy.admission import account_loader
from gateway.proxy.admission.account_loader import AccountLoader
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.reconciliation import Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from policies.access.key_budgets import Cap
from tests.ledger.make import a_fingerprint
from tests.support.sampling import scaled, seeded_random
from tests.workers import conftest
from tests.workers.conftest import Backend, a_prefix, a_suffix

GIVEN = 10_000
LOADS = scaled(suite=25, full=500)
COUNTS = scaled(suite=8, full=300)


@dataclass
class Oracle:
    """What the account must have, by adding up what was done to it."""

    backend: Backend
    user_id: UUID
    random: Random
    key_id: UUID | None = None
    prefixes: dict[str, str] = field(default_factory=dict)
    of_period: set[str] = field(default_factory=set)
    given: int = GIVEN
    charged: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)

    @property
    def balance(self) -> int:
        return self.given - sum(self.charged.values()) - sum(self.open.values())

    @property
    def spent(self) -> int:
        """In the period, which some calls came before."""
        return sum(credits for call, credits in (self.charged | self.open).items() if call in self.of_period)

    async def admit(self) -> None:
        amount, is_of_period, request_id = self.random.randrange(5), self.random.random() < 0.7, str(uuid4())
        moment = conftest.MOMENT - (0 if is_of_period else 1)
        prefix = self.prefixes[request_id] = a_prefix(self.user_id, request_id, moment=moment, key_id=self.key_id)
        self.open[await self.backend.admit(self.user_id, amount=amount, prefix=prefix)] = amount
        if is_of_period:
            self.of_period.add(request_id)

    async def something(self) -> None:
        """What may happen to a cold account."""
        steps: list[Callable[[], Awaitable[None]]] = [self._write, self._grant]
        if self.open:
            steps += [self._settle, self._settle, self._settle, self._sweep]
        if self.swept:
            steps += [self._settle_late]
        if self.settled:
            steps += [self._tell_again]
        await self.random.choice(steps)()

    async def _write(self) -> None:
        await UsageWriter(self.backend.database, self.backend.journal).run_once()

    async def _grant(self) -> None:
        self.given += 7
        await self.backend.give(self.user_id, 7)
        await OutboxPublisher(self.backend.database, self.backend.meter).run_once()

    async def _settle(self) -> None:
        request_id = self._pick(list(self.open))
        del self.open[request_id]
        self.charged[request_id] = self.random.randrange(9)
        await self.backend.settle(self.user_id, request_id, charge=self.charged[request_id])
        self.settled.append(request_id)

    async def _sweep(self) -> None:
        request_id = self._pick(list(self.open))
        del self.open[request_id]
        assert await self.backend.meter.abandon(
            self.backend.meter.keys(self.user_id), request_id, suffix=a_suffix(0, "abandoned")
        )
        self.swept.append(request_id)

    async def _settle_late(self) -> None:
        request_id = self._pick(self.swept)
        self.swept.remove(request_id)
        self.charged[request_id] = self.random.randrange(9)
        await self.backend.settle(self.user_id, request_id, charge=self.charged[request_id])
        self.settled.append(request_id)

    async def _tell_again(self) -> None:
        """As a gateway does that cannot know whether Redis has kept the settlement."""
        request_id = self._pick(self.settled)
        meter, charge, prefix = self.backend.meter, self.charged[request_id], self.prefixes[request_id]
        keys = meter.keys(self.user_id)
        await meter.settle(Settlement(keys, request_id, charge, a_suffix(charge), prefix, "0-before"))

    def _pick(self, among: list[str]) -> str:
        return self.random.choice(among)


@pytest.fixture
async def oracle(backend: Backend) -> Oracle:
    user_id = await backend.a_user(credits_given=GIVEN)
    await OutboxPublisher(backend.database, backend.meter).run_once()
    return Oracle(backend, user_id, seeded_random("cold loads"))


async def test_account_load_is_exact_whatever_happens_between_its_readings(
    backend: Backend, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _let_things_happen_after(monkeypatch, account_loader, "read_account_charges", oracle)
    _let_things_happen_after(monkeypatch, account_load, "read", oracle)
    loader = AccountLoader(backend.redis_client, backend.meter, backend.database)
    keys = backend.meter.keys(oracle.user_id)
    for _ in range(LOADS):
        await backend.redis.hdel(keys.account.decode(), "s")
        while await _hot(backend, oracle.user_id) is None:
            try:
                await loader.load(keys)
            except NotSent:
                continue
        assert await _hot(backend, oracle.user_id) == (oracle.balance, len(oracle.open))
        for _ in range(oracle.random.randrange(4)):
            await oracle.admit()
    reconciler = Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter))
    assert [each async for page in reconciler.pages() for each in page.findings] == []


async def test_key_budget_load_is_exact_whatever_happens_between_its_readings(
    backend: Backend, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend.database.transaction() as connection:
        # Not by `create`, which moves the account's version.
        oracle.key_id = key_id = (await key_ledger._insert(connection, oracle.user_id, a_fingerprint(), {})).id
    _let_things_happen_after(monkeypatch, account_loader, "read_account_charges", oracle)
    _let_things_happen_after(monkeypatch, key_budgets, "read", oracle)
    loader, cap = (
        AccountLoader(backend.redis_client, backend.meter, backend.database),
        Cap(1, key_id, conftest.MOMENT, 1),
    )
    keys = backend.meter.keys(oracle.user_id)
    for _ in range(COUNTS):
        while await _spent(backend, oracle.user_id, key_id) is None:
            try:
                await loader.load(keys)
                await loader.count_budget(keys, cap)
            except NotSent:
                continue
        assert await _spent(backend, oracle.user_id, key_id) == oracle.spent
        for _ in range(oracle.random.randrange(4)):
            await oracle.admit()
        for _ in range(oracle.random.randrange(4)):
            await oracle.something()
        assert await _spent(backend, oracle.user_id, key_id) in (oracle.spent, None)
        await backend.redis.hdel(keys.account.decode(), f"k:{key_id}", f"b:{key_id}")
    reconciler = Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter))
    assert [each async for page in reconciler.pages() for each in page.findings] == []


async def test_account_load_counts_rows_journal_and_holds_in_its_windows(
    backend: Backend, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "MOMENT", time.time_ns() // 1000)
    await backend.load(oracle.user_id)
    for _ in range(3):
        await oracle.admit()
    await oracle._settle()
    await oracle._write()
    await oracle._settle()
    await backend.redis.delete(backend.meter.keys(oracle.user_id).account.decode())
    await backend.load(oracle.user_id)
    admission = await backend.try_admit(oracle.user_id, str(uuid4()))
    assert admission.used == (4, 4, 4)


async def test_entry_of_a_server_that_was_left_is_counted_whatever_its_id(backend: Backend, oracle: Oracle) -> None:
    """Its id is below those that PostgreSQL has of another server, and yet PostgreSQL has never read it."""
    await backend.load(oracle.user_id)
    while not oracle.charged or not max(oracle.charged.values()):
        await oracle.admit()
        await oracle._settle()
    keys = backend.meter.keys(oracle.user_id)
    async with backend.database.transaction() as connection:
        await journal_offsets.lock(connection, keys.partition)
        await journal_offsets.advance(connection, {keys.partition: "99999999999999-0"})
    await backend.redis.hdel(keys.account.decode(), "s")
    await backend.load(oracle.user_id)
    assert await _hot(backend, oracle.user_id) == (oracle.balance, 0)
    await oracle._write()
    assert await _hot(backend, oracle.user_id) == (oracle.balance, 0)
    assert (await backend.balance(oracle.user_id)).current_credits == oracle.balance


async def test_account_whose_clock_is_far_ahead_is_loaded_again(
    backend: Backend, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of Redis was an hour ahead, and was corrected: limits must not stand still for an hour."""
    moment = time.time_ns() // 1000
    monkeypatch.setattr(conftest, "MOMENT", moment)
    await backend.load(oracle.user_id)
    for _ in range(3):
        await oracle.admit()
    for ahead_seconds, verdict in ((30, Verdict.ADMITTED), (3600, Verdict.NOT_LOADED)):
        account = backend.meter.keys(oracle.user_id).account.decode()
        state = AccountState.unpack(await backend.redis.hget(account, "s"))  # type: ignore[arg-type]
        ahead = state._replace(clock_ms=moment // 1000 + ahead_seconds * 1000)
        await backend.redis.hset(account, "s", ahead.packed())
        request_id = str(uuid4())
        assert (await backend.try_admit(oracle.user_id, request_id)).verdict is verdict
    await backend.load(oracle.user_id)
    admission = await backend.try_admit(oracle.user_id, str(uuid4()))
    assert admission.verdict is Verdict.ADMITTED
    assert admission.used[2] == 5


async def _hot(backend: Backend, user_id: UUID) -> tuple[int, int] | None:
    state: Any = await backend.redis.hget(backend.meter.keys(user_id).account.decode(), "s")
    return None if state is None else AccountState.unpack(state)[1:3]


async def _spent(backend: Backend, user_id: UUID, budget_id: UUID) -> int | None:
    account = backend.meter.keys(user_id).account.decode()
    counted: Any = await backend.redis.hget(account, f"b:{budget_id}")
    is_loaded = await backend.redis.hexists(account, "s")
    return KeyBudget.unpack(counted).spent if counted is not None and is_loaded else None


def _let_things_happen_after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, oracle: Oracle) -> None:
    read = getattr(module, name)

    async def disturbed(*arguments: Any, **named: Any) -> Any:
        result = await read(*arguments, **named)
        for _ in range(oracle.random.choice([0, 1, 1, 2, 3])):
            await oracle.something()
        return result

    monkeypatch.setattr(module, name, disturbed)
