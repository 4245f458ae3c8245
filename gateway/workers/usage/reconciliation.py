"""Compares all books of every account, and repairs them on request.

The comparison is exact under traffic, and locks no account. The lock of a partition's offset row stops its usage
writer; then PostgreSQL is read, then Redis at one instant. Calls only move credits between balance, holds and journal,
whose sum is compared. Credit changes show in their count; the few accounts whose count changed between the two readings
are read again under their row lock. So every reported difference is real, and none is missed by chance.
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

# A stopping process finishes its page. Each partition of a page costs round trips for which its usage writer waits.
PAGE_ACCOUNTS = 1_000

# Summing the ledgers of busy accounts takes long; this keeps each statement within its timeout.
BOOKS_PER_STATEMENT = 250

# A correction fails if a credit change was published after the reading; the row lock prevents further changes.
CORRECTION_ATTEMPTS = 5

NIGHT_HOUR = 3  # UTC

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference of one account, and whether it was repaired."""

    user_id: UUID
    difference: Difference
    is_repaired: bool = False


@dataclass(frozen=True, slots=True)
class CheckedPage:
    """A page of accounts: how many there are, how many of them are loaded in Redis, and their differences."""

    accounts: int
    loaded: int
    findings: tuple[Finding, ...]


class Reading(NamedTuple):
    stored: PostgresqlAccount
    snapshot: LoadedAccount
    loaded: RedisAccount


class Reconciler:
    """Compares accounts. With an actor in `repair_as` it repairs each difference, with an audit entry."""

    def __init__(self, database: Database, snapshots: AccountSnapshotReader, *, repair_as: str | None = None) -> None:
        self._database = database
        self._snapshots = snapshots
        self._repair_as = repair_as

    async def pages(self) -> AsyncIterator[CheckedPage]:
        """All accounts, a page at a time."""
        after: UUID | None = None
        while user_ids := await self.next_accounts(after):
            yield await self.check(user_ids)
            after = user_ids[-1]

    async def next_accounts(self, after: UUID | None) -> tuple[UUID, ...]:
        async with self._database.read() as connection:
            return await reconciliation.list_account_ids(connection, after=after, limit=PAGE_ACCOUNTS)

    async def check(self, user_ids: Sequence[UUID]) -> CheckedPage:
        """Raises DatabaseUnavailable, MeterUnavailable; earlier repairs stay."""
        findings = await self._check_postgresql(user_ids)
        by_partition: defaultdict[int, list[UUID]] = defaultdict(list)
        for user_id in user_ids:
            by_partition[self._snapshots.partition_of(user_id)].append(user_id)
        loaded = 0
        for partition, members in by_partition.items():
            count, found = await self._check_redis(partition, members)
            findings += found
            loaded += count
        return CheckedPage(len(user_ids), loaded, tuple(findings))

    async def _check_postgresql(self, user_ids: Sequence[UUID]) -> list[Finding]:
        found: list[Finding] = []
        for start in range(0, len(user_ids), BOOKS_PER_STATEMENT):
            async with self._database.read() as connection:
                books = await reconciliation.get_books(connection, user_ids[start : start + BOOKS_PER_STATEMENT])
            found += [Finding(user_id, each) for user_id, book in books.items() for each in in_postgresql(book)]
        if self._repair_as is None or not found:
            return found
        repaired = []
        for user_id in dict.fromkeys(finding.user_id for finding in found):
            async with self._database.transaction() as connection:
                corrected = await reconciliation.correct_books(connection, user_id, actor=self._repair_as)
            repaired += [Finding(user_id, difference, is_repaired=True) for difference in corrected]
        return repaired

    async def _check_redis(self, partition: int, user_ids: Sequence[UUID]) -> tuple[int, list[Finding]]:
        """How many of the accounts are loaded, and their differences."""
        async with self._database.transaction() as connection:
            await journal_offsets.lock(connection, partition)
            readings = await self._read(connection, partition, user_ids)
            overtaken = [user_id for user_id, found in readings.items() if is_overtaken(found.stored, found.loaded)]
            if overtaken:
                await reconciliation.lock(connection, overtaken)
                readings |= await self._read(connection, partition, overtaken)
            wrong = [user_id for user_id, found in readings.items() if between_stores(found.stored, found.loaded)]
            if self._repair_as is None or not wrong:
                return len(readings), [
                    Finding(user_id, each) for user_id in wrong for each in _compare(readings[user_id])
                ]
            return len(readings), await self._correct(connection, partition, wrong)

    async def _read(
        self, connection: AsyncConnection, partition: int, user_ids: Collection[UUID]
    ) -> dict[UUID, Reading]:
        """The loaded ones of the accounts. Reads PostgreSQL first: Redis then has all that has left the outbox."""
        stored = await reconciliation.get_balances(connection, list(user_ids))
        snapshot = await self._snapshots.read(partition, list(stored))
        unapplied = await self._unapplied(connection, partition, snapshot.newest_entry, snapshot.accounts.keys())
        return {
            user_id: Reading(
                stored[user_id],
                account,
                RedisAccount(account.balance, account.credit_seq, account.held, unapplied.get(user_id, 0)),
            )
            for user_id, account in snapshot.accounts.items()
        }

    async def _unapplied(
        self, connection: AsyncConnection, partition: int, upto: str | None, user_ids: Collection[UUID]
    ) -> dict[UUID, int]:
        """What the journal charges each account and PostgreSQL does not.

        PostgreSQL has charged an entry that has a row, except a correction whose row still says abandoned.
        """
        charges = {
            charge.request_id: charge
            async for charge in self._snapshots.charges(partition, upto)
            if charge.user_id in user_ids and charge.credits
        }
        if not charges:
            return {}
        calls = [(charge.request_id, charge.created_at) for charge in charges.values()]
        recorded = await reconciliation.find_recorded(connection, calls)
        unapplied: defaultdict[UUID, int] = defaultdict(int)
        for request_id, charge in charges.items():
            if request_id not in recorded or (charge.corrects and recorded[request_id]):
                unapplied[charge.user_id] += charge.credits
        return unapplied

    async def _correct(self, connection: AsyncConnection, partition: int, user_ids: Collection[UUID]) -> list[Finding]:
        """Needs the lock of the partition. A crash between script and commit may correct without an audit entry."""
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
        add, stored = correction(reading.stored, reading.loaded), reading.stored
        return await self._snapshots.correct(
            user_id, reading.snapshot, add=add, credit_seq=stored.credit_seq, unpublished=stored.unpublished
        )


class NightlyReconciliation:
    """Compares all accounts at the start and every night, a page at a time, so that stopping waits for one page only.

    Reports differences to the log, and their sum to a metric at the end of each pass. Repairs nothing.
    """

    idle_seconds = 60.0

    def __init__(self, reconciler: Reconciler, *, now: Callable[[], datetime] = clock.now) -> None:
        self._reconciler = reconciler
        self._now = now
        self._due = now()
        self._after: UUID | None = None
        self._difference_credits = 0

    async def run_once(self) -> int:
        """Checks the next page if a pass is due; gives the number of its accounts."""
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
    return between_stores(reading.stored, reading.loaded)


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
