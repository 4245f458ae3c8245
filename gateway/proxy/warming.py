"""Loads cold accounts into Redis: from PostgreSQL, from the journal that is ahead of it, and with their open holds."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from gateway.ledger import cold
from gateway.ledger.cold import STEP_MS, ColdAccount
from gateway.ledger.session import Database
from gateway.meter.journaled import Journaled, journaled
from gateway.meter.keys import AccountKeys
from gateway.meter.link import Link, NotSent
from gateway.meter.meter import CLOCK_SKEW_MS, Loaded, Meter
from policies.loading import Entry, later, unwritten

# Each one reads again what has changed since the one before; more in a row are an outage.
ATTEMPTS = 5


class Warming:
    """One load at a time for each account, whoever waits for it."""

    def __init__(self, link: Link, meter: Meter, database: Database) -> None:
        self._link = link
        self._meter = meter
        self._database = database
        self._loads: dict[UUID, asyncio.Task[None]] = {}

    async def warm(self, keys: AccountKeys) -> None:
        """Returns when the account is hot, or its epoch has ended, or it is gone: whoever asks again sees which.

        Raises DatabaseUnavailable, MeterUnavailable; NotSent while gateways hand in what they know.
        """
        load = self._loads.get(keys.account_id)
        if load is None:
            load = asyncio.get_running_loop().create_task(self._warm(keys))
            self._loads[keys.account_id] = load
            load.add_done_callback(lambda done: self._done(keys.account_id, done))
        await asyncio.shield(load)

    async def _warm(self, keys: AccountKeys) -> None:
        for _ in range(ATTEMPTS):
            loaded = await self._load(keys)
            if loaded is Loaded.CLOSED:
                raise NotSent("Redis has begun anew, and gateways hand in what they know")
            if loaded is not Loaded.AGAIN:
                return
        raise NotSent("the account changes faster than it can be loaded")

    async def _load(self, keys: AccountKeys) -> Loaded | None:
        ahead = await journaled(self._link, keys)
        async with self._database.read() as connection:
            known = await cold.read(
                connection,
                keys.account_id,
                partition=keys.partition,
                requests=[(charge.request_id, charge.created_at) for _, charge in ahead.charges if charge.corrects],
                now_ms=time.time_ns() // 1_000_000,
                skew_ms=CLOCK_SKEW_MS,
            )
        return None if known is None else await self._make_hot(keys, known, ahead)

    async def _make_hot(self, keys: AccountKeys, known: ColdAccount, ahead: Journaled) -> Loaded:
        entries = [
            Entry(entry_id, charge.request_id, charge.created_at, charge.credits, charge.corrects)
            for entry_id, charge in ahead.charges
        ]
        more = unwritten(entries, written_upto=known.last_id, rows=known.written)
        return await self._meter.load(
            keys,
            account_version=known.account_version,
            credit_seq=known.credit_seq,
            balance=known.current_credits - more.credits,
            catalogue_version=known.catalogue_version,
            counted_upto=later(ahead.upto, known.last_id),
            calls=_with(known.calls, more.moments),
        )

    def _done(self, account_id: UUID, done: asyncio.Task[None]) -> None:
        self._loads.pop(account_id, None)
        if not done.cancelled():
            done.exception()  # whoever waits sees it


def _with(calls: tuple[str, str, str], moments: tuple[int, ...]) -> tuple[str, ...]:
    """The same calls by window and bucket, with those that came at these microseconds."""
    late = [moment // 1000 + CLOCK_SKEW_MS for moment in moments]
    return tuple(
        " ".join([counted, *(f"{moment // step_ms} 1" for moment in late)])
        for counted, step_ms in zip(calls, STEP_MS, strict=True)
    )
