"""Keys in Redis: everything of one partition shares a hash tag, so one script touches one slot of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from gateway.meter.client.packing import words


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """The keys of an account and of its partition.

    `packed_for_admit` and `packed_for_settle` are the keys of these two scripts behind their count, as RESP.
    """

    account_id: UUID
    partition: int
    account: bytes
    catalogue: bytes
    holds: bytes
    journal: bytes
    packed_for_admit: bytes
    packed_for_settle: bytes


class PartitionKeys(NamedTuple):
    """The keys that the accounts of a partition share."""

    catalogue: bytes
    holds: bytes
    journal: bytes


def partition_of(account_id: UUID, partitions: int) -> int:
    """By the low 32 bits of the id, which are random in every UUID version that the gateway makes or accepts."""
    return (account_id.int & 0xFFFFFFFF) % partitions


def partition_keys(number: int) -> PartitionKeys:
    tag = _tag(number)
    return PartitionKeys(f"{tag}:c".encode(), f"{tag}:h".encode(), f"{tag}:j".encode())


def account_keys(account_id: UUID, *, partition: int) -> AccountKeys:
    catalogue, holds, journal = partition_keys(partition)
    account = f"{_tag(partition)}:a:{account_id}".encode()
    return AccountKeys(
        account_id,
        partition,
        account,
        catalogue,
        holds,
        journal,
        packed_for_admit=words(3, account, catalogue, holds),
        packed_for_settle=words(3, account, holds, journal),
    )


def swept_key(partition: int, request_id: str) -> bytes:
    return f"{_tag(partition)}:x:{request_id}".encode()


def heartbeat_key(owner: str) -> str:
    return f"gw:i:{owner}"


def probe_key(partition: int) -> bytes:
    """What is written to learn whether the server of the partition takes writes."""
    return f"{_tag(partition)}:probe".encode()


def stored_bytes_key(day: int) -> bytes:
    """The bytes of responses that all accounts have stored on a day, counted from 1970."""
    return f"gw:stored:{day}".encode()


def _tag(partition: int) -> str:
    return f"gw:{{p{partition:02d}}}"
