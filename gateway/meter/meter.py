"""What an account may still do, remembered in Redis: admissions, holds, balances, versions. One script a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from gateway.meter.link import Link, Script
from policies.admission import Standing
from policies.limits import WINDOWS, Limits
from policies.model import Window

SCRIPTS = ADMIT, SETTLE, LATE, LOAD, GRANT, BUMP, PEEK = tuple(
    Script.load(name) for name in ("admit", "settle", "late", "load", "grant", "bump", "peek")
)

# How long a settlement may come after its call was swept: frozen gateways, and spools of machines that were down.
SWEPT_SECONDS = 7 * 86_400


class Verdict(IntEnum):
    """The first number of an admission's reply, as `admit.lua` documents it."""

    ADMITTED = 1
    STALE = 2
    COLD = 3
    RATE_LIMITED = 4
    TOO_MANY_IN_FLIGHT = 5
    INSUFFICIENT_CREDITS = 6


class Applied(IntEnum):
    """What became of a committed credit change (`grant.lua`)."""

    ALREADY = 0
    APPLIED = 1
    GAP = 2
    COLD = 3


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """Where an account lives: everything of one partition shares a hash tag, so one script touches one slot."""

    account_id: UUID
    partition: int
    account: bytes
    catalogue: bytes
    holds: bytes
    journal: bytes


class PartitionKeys(NamedTuple):
    """What the accounts of a partition share."""

    catalogue: bytes
    holds: bytes
    journal: bytes


class Admission(NamedTuple):
    """The meter's answer. `used` and `reset_seconds` are in the order of policies.limits.WINDOWS."""

    verdict: Verdict
    balance: int = 0
    used: tuple[int, ...] = ()
    reset_seconds: tuple[int, ...] = ()
    retry_after_seconds: int = 0
    violated: tuple[Window, ...] = ()


class Versions(NamedTuple):
    account: int
    catalogue: int


class Meter:
    """All that is asked of the hot copy of accounts."""

    def __init__(self, link: Link, *, partitions: int, owner: str) -> None:
        self._link = link
        self._owner = owner
        self._by_partition = tuple(partition_keys(number) for number in range(partitions))

    @property
    def partitions(self) -> int:
        return len(self._by_partition)

    def keys(self, account_id: UUID) -> AccountKeys:
        """The keys of an account; computed once per cached principal, not per request."""
        partition = partition_of(account_id, self.partitions)
        catalogue, holds, journal = self._by_partition[partition]
        account = f"{_tag(partition)}:a:{account_id}".encode()
        return AccountKeys(account_id, partition, account, catalogue, holds, journal)

    async def admit(
        self,
        keys: AccountKeys,
        *,
        request_id: str,
        account_version: int,
        catalogue_version: int,
        amount: int,
        required: int,
        limits: Limits,
        head: str,
    ) -> Admission:
        """Admits a call and holds `amount` credits for it, or says why not and changes nothing.

        Raises MeterUnavailable, after which the call may have been admitted all the same: settle it at 0.
        """
        minute, hour, day = limits.per_window
        reply = await self._link.run(
            ADMIT,
            (keys.account, keys.catalogue, keys.holds),
            (
                request_id,
                account_version,
                catalogue_version,
                amount,
                required,
                -1 if minute is None else minute,
                -1 if hour is None else hour,
                -1 if day is None else day,
                -1 if limits.in_flight is None else limits.in_flight,
                f"{self._owner}\t{head}",
            ),
        )
        return _admission(reply)

    async def settle(self, keys: AccountKeys, request_id: str, *, charge: int, tail: str) -> int | None:
        """Ends an admitted call at `charge` credits; gives the balance, or None if it was settled before.

        A call that was abandoned in the meantime is settled all the same, by a correction. The balance is 0 for an
        account that went cold meanwhile; its record charges it all the same.
        """
        reply = await self._link.run(SETTLE, (keys.account, keys.holds, keys.journal), (request_id, charge, tail))
        if not reply[0]:
            swept = (keys.account, _swept_key(keys, request_id), keys.journal)
            reply = await self._link.run(LATE, swept, (charge, tail))
        return int(reply[1]) if reply[0] else None

    async def abandon(self, keys: AccountKeys, request_id: str, *, tail: str) -> bool:
        """Ends a call that nobody is thought to be left to settle, at no charge; False if it was settled before.

        For SWEPT_SECONDS it is remembered, so that a settlement that comes in spite of it is not lost.
        """
        swept = (keys.account, keys.holds, keys.journal, _swept_key(keys, request_id))
        reply = await self._link.run(SETTLE, swept, (request_id, 0, tail, SWEPT_SECONDS))
        return bool(reply[0])

    async def load(
        self, keys: AccountKeys, *, account_version: int, credit_seq: int, balance: int, catalogue_version: int
    ) -> bool:
        """Makes a cold account hot. False if PostgreSQL was read before a change that has since been announced."""
        reply = await self._link.run(
            LOAD, (keys.account, keys.catalogue), (account_version, credit_seq, balance, catalogue_version)
        )
        return int(reply) != 2

    async def peek(self, keys: AccountKeys, limits: Limits) -> Standing | None:
        """What an admission under these limits would find at this moment; None for a cold account. Changes nothing."""
        minute, hour, day = limits.per_window
        asked = (-1 if minute is None else minute, -1 if hour is None else hour, -1 if day is None else day)
        reply = await self._link.run(PEEK, (keys.account,), asked)
        if reply[0] == Verdict.COLD:
            return None
        found = _admission((Verdict.RATE_LIMITED, *reply[1:]))
        return Standing(
            found.balance, reply[10], found.used, found.reset_seconds, found.retry_after_seconds, found.violated
        )

    async def apply_credits(self, keys: AccountKeys, *, credit_seq: int, amount: int) -> Applied:
        """Applies one committed change of credits, exactly once and in order."""
        return Applied(await self._link.run(GRANT, (keys.account,), (credit_seq, amount)))

    async def forget(self, keys: AccountKeys) -> None:
        """Makes an account cold, so that its next call loads it from PostgreSQL. Its windows begin anew."""
        await self._link.call((b"DEL", keys.account))

    async def raise_account_version(self, keys: AccountKeys, version: int) -> None:
        """From the moment this returns no admission decided on an older version succeeds, on any gateway."""
        await self._link.run(BUMP, (keys.account,), (version,))

    async def raise_catalogue_version(self, version: int) -> None:
        """The same for plans and permissions, in every partition."""
        for catalogue, _, _ in self._by_partition:
            await self._link.run(BUMP, (catalogue,), (version,))

    async def versions(self, keys: AccountKeys) -> Versions:
        """The versions announced for an account; 0 where none is known, which no version that was read is below."""
        account, catalogue = await self._link.pipeline(((b"HGET", keys.account, b"v"), (b"HGET", keys.catalogue, b"v")))
        return Versions(int(account or 0), int(catalogue or 0))


def partition_of(account_id: UUID, partitions: int) -> int:
    """The low 32 bits of the id, which are random in every UUID version that we make or accept."""
    return (account_id.int & 0xFFFFFFFF) % partitions


def partition_keys(number: int) -> PartitionKeys:
    tag = _tag(number)
    return PartitionKeys(f"{tag}:c".encode(), f"{tag}:h".encode(), f"{tag}:j".encode())


def _tag(partition: int) -> str:
    return f"gw:{{p{partition:02d}}}"


def _swept_key(keys: AccountKeys, request_id: str) -> bytes:
    return f"{_tag(keys.partition)}:x:{request_id}".encode()


def _admission(reply: Sequence[int]) -> Admission:
    verdict = reply[0]
    if verdict == 1:
        return Admission(Verdict.ADMITTED, reply[1], (reply[2], reply[4], reply[6]), (reply[3], reply[5], reply[7]))
    if verdict in (Verdict.STALE, Verdict.COLD):
        return Admission(Verdict(verdict))
    violated = tuple(window for bit, window in enumerate(WINDOWS) if reply[9] & 1 << bit)
    return Admission(
        Verdict(verdict), reply[1], (reply[2], reply[4], reply[6]), (reply[3], reply[5], reply[7]), reply[8], violated
    )
