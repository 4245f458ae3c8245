"""What the meter needs of PostgreSQL: the state of accounts, and what their keys have spent.

An account is loaded with the charges of the journal, which is ahead of PostgreSQL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from gateway.ledger.db.session import Database
from gateway.ledger.usage import account_load
from gateway.ledger.usage import key_budgets as booked_budgets
from gateway.ledger.usage.account_load import StoredAccount
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import NotSent
from gateway.meter.journal_charges import AccountCharges, JournalCharge, read_account_charges
from gateway.meter.keys import AccountKeys
from gateway.meter.meter import CLOCK_SKEW_MS, Meter
from gateway.meter.replies import LoadResult
from policies.access.key_budgets import Cap
from policies.access.limits import STEP_MS
from policies.usage.account_load import JournaledCharge, later, pending_charges
from policies.usage.epochs import Agreement

# Each attempt reads again what has changed since the one before; more in a row are an outage.
ATTEMPTS = 5

Attempt = Callable[[], Awaitable[LoadResult | None]]


class AccountLoader:
    """One load at a time for each account, and one count for each key budget, however many calls wait for it."""

    def __init__(self, redis_client: RedisClient, meter: Meter, database: Database) -> None:
        self._redis = redis_client
        self._meter = meter
        self._database = database
        self._loads: dict[UUID | Cap, asyncio.Task[None]] = {}

    async def load(self, keys: AccountKeys) -> None:
        """Returns when the account is loaded, or its epoch has ended, or it is gone: the next admission shows which.

        Raises DatabaseUnavailable, MeterUnavailable; NotSent while gateways replay their calls into a new epoch.
        """
        await self._run_once_for(keys.account_id, lambda: self._load(keys), keys)

    async def check_history(self, keys: AccountKeys) -> None:
        """Begins an epoch if PostgreSQL lacks a change of the account that Redis was told of: nothing else ends that.

        Raises DatabaseUnavailable, MeterUnavailable.
        """
        known = await self._meter.versions(keys)  # before PostgreSQL, which is then at least as far
        async with self._database.transaction() as connection:
            stored = await account_load.lock_versions(connection, keys.account_id)
        if known.account > stored.account or known.credit_seq > stored.credit_seq:
            await self._meter.rebuild((keys.partition,), reason=str(Agreement.POSTGRESQL_BEHIND))

    async def count_budget(self, keys: AccountKeys, cap: Cap) -> None:
        """Returns when the spending of a key budget is counted, or the account is not loaded. Raises as `load` does."""
        await self._run_once_for(cap, lambda: self._count(keys, cap), keys)

    async def _run_once_for(self, subject: UUID | Cap, attempt: Attempt, keys: AccountKeys) -> None:
        load = self._loads.get(subject)
        if load is None:
            load = asyncio.get_running_loop().create_task(self._retry(attempt, keys))
            self._loads[subject] = load
            load.add_done_callback(lambda done: self._end(subject, done))
        await asyncio.shield(load)

    async def _retry(self, attempt: Attempt, keys: AccountKeys) -> None:
        for _ in range(ATTEMPTS):
            loaded = await attempt()
            if loaded is LoadResult.EPOCH_NOT_OPEN:
                raise NotSent("Redis is in a new epoch, and gateways replay their calls into it")
            if loaded is not LoadResult.STALE_SNAPSHOT:
                return
        await self.check_history(keys)
        raise NotSent("the account changes faster than it can be loaded")

    async def _load(self, keys: AccountKeys) -> LoadResult | None:
        epoch = await self._meter.epoch(keys.partition)
        ahead = await read_account_charges(self._redis, keys)
        async with self._database.read() as connection:
            stored = await account_load.read(
                connection,
                keys.account_id,
                partition=keys.partition,
                requests=_calls(ahead),
                now_ms=time.time_ns() // 1_000_000,
                skew_ms=CLOCK_SKEW_MS,
            )
        return None if stored is None else await self._load_into_redis(keys, stored, ahead, epoch=epoch)

    async def _load_into_redis(
        self, keys: AccountKeys, stored: StoredAccount, ahead: AccountCharges, *, epoch: str
    ) -> LoadResult:
        more = pending_charges(_entries(ahead), rows=stored.recorded)
        return await self._meter.load(
            keys,
            account_version=stored.account_version,
            credit_seq=stored.credit_seq,
            balance=stored.current_credits - more.credits,
            catalogue_version=stored.catalogue_version,
            counted_upto=later(ahead.upto, stored.last_id),
            calls=_add_calls(stored.calls, more.moments),
            unpublished=stored.unpublished,
            epoch=epoch,
        )

    async def _count(self, keys: AccountKeys, cap: Cap) -> LoadResult:
        ahead = await read_account_charges(self._redis, keys)
        async with self._database.read() as connection:
            stored = await booked_budgets.read(
                connection, keys.account_id, cap, partition=keys.partition, requests=_calls(ahead)
            )
        key_ids = {str(key_id) for key_id in stored.key_ids}
        entries = _entries(ahead, lambda charge: charge.key_id in key_ids and charge.created_at >= cap.since)
        more = pending_charges(entries, rows=stored.recorded)
        return await self._meter.load_key_budget(
            keys,
            cap,
            spent=stored.credits + more.credits,
            counted_upto=later(ahead.upto, stored.last_id),
            key_ids=stored.key_ids,
        )

    def _end(self, subject: UUID | Cap, load: asyncio.Task[None]) -> None:
        self._loads.pop(subject, None)
        if not load.cancelled():
            load.exception()  # the waiting calls see it; asking keeps the loop from reporting it


def _calls(ahead: AccountCharges) -> list[tuple[UUID, int]]:
    """The calls of the journal; what PostgreSQL has of them must be known."""
    return [(charge.request_id, charge.created_at) for _, charge in ahead.charges]


def _entries(ahead: AccountCharges, counts: Callable[[JournalCharge], bool] = lambda _: True) -> list[JournaledCharge]:
    return [
        JournaledCharge(entry_id, charge.request_id, charge.created_at, charge.credits, charge.corrects)
        for entry_id, charge in ahead.charges
        if counts(charge)
    ]


def _add_calls(calls: tuple[str, str, str], moments: tuple[int, ...]) -> tuple[str, ...]:
    """The calls by window and bucket, with those added that came at these microseconds."""
    late = [moment // 1000 + CLOCK_SKEW_MS for moment in moments]
    return tuple(
        " ".join([counted, *(f"{moment // step_ms} 1" for moment in late)])
        for counted, step_ms in zip(calls, STEP_MS, strict=True)
    )
