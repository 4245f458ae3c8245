"""Proves, account by account, that all books agree; where told to, makes them.

The proof holds under traffic, without locking anybody's account. A partition's offset row is held, so no usage moves
into PostgreSQL meanwhile; then PostgreSQL is read, then Redis at one instant. Calls only move credits between balance,
holds and journal, whose sum is compared. Credits given or taken show in the change count, and the few accounts where
that happened between the two readings are read again under their row lock. So no difference is reported that is none,
and none is missed by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import clock, metrics
from gateway.ledger.credits import reconciliation
from gateway.ledger.db.session import Database
from gateway.ledger.usage import journal_offsets
from gateway.meter.account_snapshots import AccountSnapshotReader, LoadedAccount
from policies.usage.reconciliation import (
    Difference,
    PostgresqlAccount,
    RedisAccount,
    between_stores,
    correction,
    in_postgresql,
    is_overtaken,
)

# What a stopping process still finishes. Each of its partitions costs some round trips, whose writer waits meanwhile.
PAGE_ACCOUNTS = 1_000

# The ledgers of busy accounts take a while to sum; nobody waits for that, but a statement has its time limit.
BOOKS_PER_STATEMENT = 250

# A correction fails when a change of credits was told to Redis after the reading; under the row lock none is added.
CORRECTION_ATTEMPTS = 5

NIGHT_HOUR = 3  # UTC

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference of one account, and whether it was ended."""

    user_id: UUID
    difference: Difference
    is_repaired: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """A page of accounts: how many, how many of them Redis had, and what was found."""

    accounts: int
    hot: int
    findings: tuple[Finding, ...]


class Reading(NamedTuple):
    cold: PostgresqlAccount
    account: LoadedAccount
    hot: RedisAccount


class Reconciler:
    """Compares accounts. With `repair_as`, an actor, it ends the differences it finds, each with an audit entry."""

    def __init__(self, database: Database, audit: AccountSnapshotReader, *, repair_as: str | None = None) -> None:
        self._database = database
        self._audit = audit
        self._repair_as = repair_as

    async def pages(self) -> AsyncIterator[Checked]:
        """All accounts, a page at a time."""
        after: UUID | None = None
        while user_ids := await self.next_accounts(after):
            yield await self.check(user_ids)
            after = user_ids[-1]

    async def next_accounts(self, after: UUID | None) -> tuple[UUID, ...]:
        async with self._database.read() as connection:
            return await reconciliation.list_account_ids(connection, after=after, limit=PAGE_ACCOUNTS)

    async def check(self, user_ids: Sequence[UUID]) -> Checked:
        """Raises DatabaseUnavailable, MeterUnavailable: what was repaired until then stays so."""
        findings = await self._check_postgresql(user_ids)
        by_partition: defaultdict[int, list[UUID]] = defaultdict(list)
        for user_id in user_ids:
            by_partition[self._audit.partition_of(user_id)].append(user_id)
        hot = 0
        for partition, members in by_partition.items():
            found, among = await self._check_redis(partition, members)
            findings += among
            hot += found
        return Checked(len(user_ids), hot, tuple(findings))

    async def _check_postgresql(self, user_ids: Sequence[UUID]) -> list[Finding]:
        found: list[Finding] = []
        for start in range(0, len(user_ids), BOOKS_PER_STATEMENT):
            async with self._database.read() as connection:
                books = await reconciliation.get_books(connection, user_ids[start : start + BOOKS_PER_STATEMENT])
            found += [Finding(user_id, each) for user_id, of in books.items() for each in in_postgresql(of)]
        if self._repair_as is None or not found:
            return found
        repaired = []
        for user_id in dict.fromkeys(finding.user_id for finding in found):
            async with self._database.transaction() as connection:
                ended = await reconciliation.correct_books(connection, user_id, actor=self._repair_as)
            repaired += [Finding(user_id, difference, is_repaired=True) for difference in ended]
        return repaired

    async def _check_redis(self, partition: int, user_ids: Sequence[UUID]) -> tuple[int, list[Finding]]:
        """How many of the accounts are hot, and what is wrong with them."""
        async with self._database.transaction() as connection:
            await journal_offsets.hold(connection, partition)
            readings = await self._read(connection, partition, user_ids)
            overtaken = [user_id for user_id, of in readings.items() if is_overtaken(of.cold, of.hot)]
            if overtaken:
                await reconciliation.lock(connection, overtaken)
                readings |= await self._read(connection, partition, overtaken)
            wrong = [user_id for user_id, of in readings.items() if between_stores(of.cold, of.hot)]
            if self._repair_as is None or not wrong:
                return len(readings), [
                    Finding(user_id, each) for user_id in wrong for each in _compare(readings[user_id])
                ]
            return len(readings), await self._correct(connection, partition, wrong)

    async def _read(
        self, connection: AsyncConnection, partition: int, user_ids: Collection[UUID]
    ) -> dict[UUID, Reading]:
        """The hot ones of the accounts. PostgreSQL first: what leaves the outbox later is known to Redis by then."""
        cold = await reconciliation.get_balances(connection, list(user_ids))
        snapshot = await self._audit.read(partition, list(cold))
        unapplied = await self._unapplied(connection, partition, snapshot.newest_entry, snapshot.accounts.keys())
        return {
            user_id: Reading(
                cold[user_id],
                account,
                RedisAccount(account.balance, account.credit_seq, account.held, unapplied.get(user_id, 0)),
            )
            for user_id, account in snapshot.accounts.items()
        }

    async def _unapplied(
        self, connection: AsyncConnection, partition: int, upto: str | None, user_ids: Collection[UUID]
    ) -> dict[UUID, int]:
        """What the journal charges each account. Entries whose rows are there were charged, and wait to be trimmed.

        But not a correction while its row still says abandoned.
        """
        charges = {
            charge.request_id: charge
            async for charge in self._audit.charges(partition, upto)
            if charge.user_id in user_ids and charge.credits
        }
        if not charges:
            return {}
        calls = [(charge.request_id, charge.created_at) for charge in charges.values()]
        written = await reconciliation.find_recorded(connection, calls)
        unapplied: defaultdict[UUID, int] = defaultdict(int)
        for request_id, charge in charges.items():
            if request_id not in written or (charge.corrects and written[request_id]):
                unapplied[charge.user_id] += charge.credits
        return unapplied

    async def _correct(self, connection: AsyncConnection, partition: int, user_ids: Collection[UUID]) -> list[Finding]:
        """Under the lock of the partition. A crash between script and commit may correct without an audit entry."""
        await reconciliation.lock(connection, user_ids)
        findings = []
        for user_id in user_ids:
            for _ in range(CORRECTION_ATTEMPTS):
                reading = (await self._read(connection, partition, (user_id,))).get(user_id)
                differences = _compare(reading) if reading else ()
                if reading is None or not differences or await self._correct_one(user_id, reading):
                    break
            else:
                findings += [Finding(user_id, difference) for difference in differences]
                continue
            for difference in differences:
                await reconciliation.record_correction(connection, user_id, difference, actor=self._repair_as or "")
                findings.append(Finding(user_id, difference, is_repaired=True))
        return findings

    async def _correct_one(self, user_id: UUID, reading: Reading) -> bool:
        add, credit_seq = correction(reading.cold, reading.hot), reading.cold.credit_seq
        return await self._audit.correct(user_id, reading.account, add=add, credit_seq=credit_seq)


class NightlyReconciliation:
    """Once when it starts and then every night, a page at a time, so that stopping never waits for the rest.

    Only reports: into the log, and into a metric at the end of each pass.
    """

    idle_seconds = 60.0

    def __init__(self, reconciler: Reconciler, *, now: Callable[[], datetime] = clock.now) -> None:
        self._reconciler = reconciler
        self._now = now
        self._due = now()
        self._after: UUID | None = None
        self._difference_credits = 0

    async def run_once(self) -> int:
        """Checks the next page, if it is night; gives how many accounts that were."""
        if self._now() < self._due:
            return 0
        user_ids = await self._reconciler.next_accounts(self._after)
        if not user_ids:
            self._finish()
            return 0
        checked = await self._reconciler.check(user_ids)
        self._after = user_ids[-1]
        for finding in checked.findings:
            _report(finding)
            self._difference_credits += abs(finding.difference.credits)
        return checked.accounts

    def _finish(self) -> None:
        metrics.RECONCILE_DIFFERENCE.set(self._difference_credits)
        self._due, self._after, self._difference_credits = _next_night(self._now()), None, 0


def _compare(reading: Reading) -> tuple[Difference, ...]:
    return between_stores(reading.cold, reading.hot)


def _report(finding: Finding) -> None:
    difference = finding.difference
    log.error(
        "books_disagree",
        user_id=str(finding.user_id),
        book=difference.book,
        expected=difference.expected,
        found=difference.found,
    )


def _next_night(after: datetime) -> datetime:
    night = after.replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    return night if night > after else night + timedelta(days=1)
