"""Reads what Redis has of accounts at one instant, to be compared with PostgreSQL, and corrects it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.journal import MAX_ENTRIES_PER_READ
from gateway.meter.journal_charges import JournalCharge, parse_charge
from gateway.meter.keys import partition_keys
from gateway.meter.layout import AccountState, HoldLine
from gateway.meter.meter import Meter
from gateway.meter.scripts import CORRECT_BALANCE, PARTITION_SNAPSHOT
from policies.usage.records import identity

NOTHING: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LoadedAccount:
    """`credit_seq` is the last credit change that Redis applied, `corrections` counts those of its balance."""

    balance: int
    credit_seq: int
    held: int
    corrections: int


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """A partition at one instant: the wanted accounts that are loaded, and the newest journal entry, if any."""

    accounts: Mapping[UUID, LoadedAccount]
    newest_entry: str | None


class AccountSnapshotReader:
    """The accounts of all partitions, partition by partition."""

    def __init__(self, redis_client: RedisClient, meter: Meter) -> None:
        self._redis = redis_client
        self._meter = meter

    def partition_of(self, account_id: UUID) -> int:
        return self._meter.keys(account_id).partition

    async def read(self, partition: int, account_ids: Sequence[UUID]) -> PartitionSnapshot:
        """Leaves out accounts that are not loaded."""
        keys = partition_keys(partition)
        accounts = [self._meter.keys(account_id).account for account_id in account_ids]
        where = (keys.holds, keys.journal, keys.catalogue, *accounts)
        newest, holds, *found = await self._redis.run(PARTITION_SNAPSHOT, where, ())
        held = _held_credits(holds)
        return PartitionSnapshot(
            {
                account_id: _loaded_account(state, sequence, corrections, held=held.get(str(account_id), 0))
                for account_id, (state, sequence, corrections) in zip(account_ids, found, strict=True)
                if state is not None
            },
            None if newest is None else newest.decode(),
        )

    async def charges(self, partition: int, upto: str | None) -> AsyncIterator[JournalCharge]:
        """What the partition's journal charges, up to and including this entry; leaves out what is no record.

        Raises UnknownRecordVersion.
        """
        after = "-"
        while upto is not None:
            command = (b"XRANGE", partition_keys(partition).journal, after, upto, b"COUNT", MAX_ENTRIES_PER_READ)
            entries = await self._redis.call(command)
            for _, fields in entries:
                if (charge := parse_charge(fields)) is not None:
                    yield charge
            if len(entries) < MAX_ENTRIES_PER_READ:
                return
            after = f"({entries[-1][0].decode()}"

    async def correct(
        self,
        account_id: UUID,
        found: LoadedAccount,
        *,
        add: int,
        credit_seq: int,
        unpublished: Mapping[int, int] = NOTHING,
    ) -> bool:
        """Adds credits to the balance, and marks all changes up to `credit_seq` as applied. Idempotent.

        `unpublished` are those among them that are still to be published, by sequence number.
        False, and nothing done, if the account is not loaded any more, or was corrected or took a change of credits
        since it was read as `found`.
        """
        arguments = CORRECT_BALANCE.ordered(
            add=add,
            corrections=found.corrections,
            credit_seq=found.credit_seq,
            new_credit_seq=credit_seq,
            unpublished=" ".join(f"{number} {amount}" for number, amount in unpublished.items()),
        )
        return bool(await self._redis.run(CORRECT_BALANCE, (self._meter.keys(account_id).account,), arguments))


def _loaded_account(state: bytes, sequence: bytes | None, corrections: bytes | None, *, held: int) -> LoadedAccount:
    return LoadedAccount(AccountState.unpack(state).balance, int(sequence or 0), held, int(corrections or 0))


def _held_credits(holds: Sequence[bytes]) -> dict[str, int]:
    """Credits that open holds have set aside, by account."""
    held: dict[str, int] = {}
    for packed in holds:
        hold = HoldLine.unpack(packed)
        user_id = identity(hold.prefix)["user_id"]
        held[user_id] = held.get(user_id, 0) + hold.amount
    return held
