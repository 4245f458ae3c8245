"""What Redis remembers of accounts, read at one instant for whoever compares it with PostgreSQL, and set right."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.journal import MAX_ENTRIES_PER_READ, is_correction
from gateway.meter.journal_charges import JournalCharge, parse_charge
from gateway.meter.keys import partition_keys
from gateway.meter.meter import Meter
from gateway.meter.scripts import AUDIT, CORRECT
from policies.usage.records import HEAD_COLUMNS

_STATE = struct.Struct("<qq")  # the clock and the balance, as admit.lua packs them
_HOLD_PREFIX_COLUMNS = 2  # amount and owner, before the record's head
_USER_ID = HEAD_COLUMNS.index("user_id")


@dataclass(frozen=True, slots=True)
class LoadedAccount:
    """`credit_seq` is the last change of credits that it took, `corrections` how often it was set right."""

    balance: int
    credit_seq: int
    held: int
    corrections: int


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """A partition at one instant: its hot accounts of those asked for, and the newest entry of its journal, if any."""

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
        """These accounts of the partition, but cold ones."""
        keys = partition_keys(partition)
        accounts = [self._meter.keys(account_id).account for account_id in account_ids]
        newest, holds, *found = await self._redis.run(AUDIT, (keys.holds, keys.journal, keys.catalogue, *accounts), ())
        held = _held(holds)
        return PartitionSnapshot(
            {
                account_id: _account(state, sequence, corrections, held=held.get(str(account_id), 0))
                for account_id, (state, sequence, corrections) in zip(account_ids, found, strict=True)
                if state is not None
            },
            None if newest is None else newest.decode(),
        )

    async def charges(self, partition: int, upto: str | None) -> AsyncIterator[JournalCharge]:
        """What the partition's journal charges, up to and including this entry. What is no record is left out."""
        after = "-"
        while upto is not None:
            command = (b"XRANGE", partition_keys(partition).journal, after, upto, b"COUNT", MAX_ENTRIES_PER_READ)
            entries = await self._redis.call(command)
            for _, (_, record, *rest) in entries:
                if (charge := parse_charge(record, corrects=is_correction(rest))) is not None:
                    yield charge
            if len(entries) < MAX_ENTRIES_PER_READ:
                return
            after = f"({entries[-1][0].decode()}"

    async def correct(self, account_id: UUID, found: LoadedAccount, *, add: int, credit_seq: int) -> bool:
        """Adds credits to the balance, and takes all changes up to `credit_seq` for known.

        False if the account has gone cold, was corrected or took a change of credits since it was read as `found`:
        nothing was done. So it is corrected once however often this is sent, and a late repetition does nothing.
        """
        expected = (add, found.corrections, found.credit_seq, credit_seq)
        return bool(await self._redis.run(CORRECT, (self._meter.keys(account_id).account,), expected))


def _account(state: bytes, sequence: bytes | None, corrections: bytes | None, *, held: int) -> LoadedAccount:
    _, balance = _STATE.unpack_from(state)
    return LoadedAccount(balance, int(sequence or 0), held, int(corrections or 0))


def _held(holds: Sequence[bytes]) -> dict[str, int]:
    """Credits that open holds have set aside, by account."""
    held: dict[str, int] = {}
    for hold in holds:
        columns = hold.split(b"\t")
        user_id = columns[_HOLD_PREFIX_COLUMNS + _USER_ID].decode()
        held[user_id] = held.get(user_id, 0) + int(columns[0])
    return held
