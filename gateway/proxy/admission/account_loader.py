"""Loads cold accounts, and what their keys have spent, from PostgreSQL and the journal that is ahead of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from gateway.ledger.db.session import Database
from gateway.ledger.usage import account_load
from gateway.ledger.usage import key_budgets as booked_budgets
from gateway.ledger.usage.account_load import STEP_MS, StoredAccount
from gateway.meter import key_budgets
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import NotSent
from gateway.meter.journal_charges import AccountCharges, JournalCharge, read_account_charges
from gateway.meter.keys import AccountKeys
from gateway.meter.meter import CLOCK_SKEW_MS, Meter
from gateway.meter.replies import LoadResult
from policies.access.key_budgets import Cap
from policies.usage.account_load import JournaledCharge, later, unwritten

# Each one reads again what has changed since the one before; more in a row are an outage.
ATTEMPTS = 5

Attempt = Callable[[], Awaitable[LoadResult | None]]


class Warming:
    """One load at a time for each account, and one count for each budget, whoever waits for it."""

    def __init__(self, redis_client: RedisClient, meter: Meter, database: Database) -> None:
        self._redis = redis_client
        self._meter = meter
        self._database = database
        self._loads: dict[UUID | Cap, asyncio.Task[None]] = {}

    async def warm(self, keys: AccountKeys) -> None:
        """Returns when the account is hot, or its epoch has ended, or it is gone: whoever asks again sees which.

        Raises DatabaseUnavailable, MeterUnavailable; NotSent while gateways hand in what they know.
        """
        await self._once(keys.account_id, lambda: self._load(keys))

    async def count(self, keys: AccountKeys, cap: Cap) -> None:
        """Returns when what counts against the cap is counted, or the account is cold. Raises as `warm` does."""
        await self._once(cap, lambda: self._count(keys, cap))

    async def _once(self, what: UUID | Cap, attempt: Attempt) -> None:
        load = self._loads.get(what)
        if load is None:
            load = asyncio.get_running_loop().create_task(_patiently(attempt))
            self._loads[what] = load
            load.add_done_callback(lambda done: self._done(what, done))
        await asyncio.shield(load)

    async def _load(self, keys: AccountKeys) -> LoadResult | None:
        ahead = await read_account_charges(self._redis, keys)
        async with self._database.read() as connection:
            known = await account_load.read(
                connection,
                keys.account_id,
                partition=keys.partition,
                requests=_corrected(ahead),
                now_ms=time.time_ns() // 1_000_000,
                skew_ms=CLOCK_SKEW_MS,
            )
        return None if known is None else await self._make_hot(keys, known, ahead)

    async def _make_hot(self, keys: AccountKeys, known: StoredAccount, ahead: AccountCharges) -> LoadResult:
        more = unwritten(_entries(ahead), written_upto=known.last_id, rows=known.written)
        return await self._meter.load(
            keys,
            account_version=known.account_version,
            credit_seq=known.credit_seq,
            balance=known.current_credits - more.credits,
            catalogue_version=known.catalogue_version,
            counted_upto=later(ahead.upto, known.last_id),
            calls=_with(known.calls, more.moments),
        )

    async def _count(self, keys: AccountKeys, cap: Cap) -> LoadResult:
        ahead = await read_account_charges(self._redis, keys)
        async with self._database.read() as connection:
            known = await booked_budgets.read(
                connection, keys.account_id, cap, partition=keys.partition, requests=_corrected(ahead)
            )
        spenders = {str(key_id) for key_id in known.key_ids}
        entries = _entries(ahead, lambda charge: charge.key_id in spenders and charge.created_at >= cap.since)
        more = unwritten(entries, written_upto=known.last_id, rows=known.written)
        return await key_budgets.count(
            self._redis,
            keys,
            cap,
            spent=known.credits + more.credits,
            counted_upto=later(ahead.upto, known.last_id),
            key_ids=known.key_ids,
        )

    def _done(self, what: UUID | Cap, done: asyncio.Task[None]) -> None:
        self._loads.pop(what, None)
        if not done.cancelled():
            done.exception()  # whoever waits sees it


async def _patiently(attempt: Attempt) -> None:
    for _ in range(ATTEMPTS):
        loaded = await attempt()
        if loaded is LoadResult.EPOCH_NOT_OPEN:
            raise NotSent("Redis has begun anew, and gateways hand in what they know")
        if loaded is not LoadResult.STALE_SNAPSHOT:
            return
    raise NotSent("the account changes faster than it can be loaded")


def _corrected(ahead: AccountCharges) -> list[tuple[UUID, int]]:
    """The calls that the journal corrects, of which it must be known what PostgreSQL has."""
    return [(charge.request_id, charge.created_at) for _, charge in ahead.charges if charge.corrects]


def _entries(ahead: AccountCharges, counts: Callable[[JournalCharge], bool] = lambda _: True) -> list[JournaledCharge]:
    return [
        JournaledCharge(entry_id, charge.request_id, charge.created_at, charge.credits, charge.corrects)
        for entry_id, charge in ahead.charges
        if counts(charge)
    ]


def _with(calls: tuple[str, str, str], moments: tuple[int, ...]) -> tuple[str, ...]:
    """The same calls by window and bucket, with those that came at these microseconds."""
    late = [moment // 1000 + CLOCK_SKEW_MS for moment in moments]
    return tuple(
        " ".join([counted, *(f"{moment // step_ms} 1" for moment in late)])
        for counted, step_ms in zip(calls, STEP_MS, strict=True)
    )
