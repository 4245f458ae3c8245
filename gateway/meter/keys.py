"""Where things are in Redis: everything of one partition shares a hash tag, so one script touches one slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from gateway.meter.client.packing import words


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """Where an account lives, with what it shares with the others of its partition.

    `admitted_by` and `settled_by` are the keys of these two scripts, packed.
    """

    account_id: UUID
    partition: int
    account: bytes
    catalogue: bytes
    holds: bytes
    journal: bytes
    admitted_by: bytes
    settled_by: bytes


class PartitionKeys(NamedTuple):
    """What the accounts of a partition share."""

    catalogue: bytes
    holds: bytes
    journal: bytes


def partition_of(account_id: UUID, partitions: int) -> int:
    """The low 32 bits of the id, which are random in every UUID version that we make or accept."""
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
        admitted_by=words(3, account, catalogue, holds),
        settled_by=words(3, account, holds, journal),
    )


def swept_key(partition: int, request_id: str) -> bytes:
    return f"{_tag(partition)}:x:{request_id}".encode()


def _tag(partition: int) -> str:
    return f"gw:{{p{partition:02d}}}"
