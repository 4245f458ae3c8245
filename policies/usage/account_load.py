"""Joins what PostgreSQL has of an account with the journal, which is ahead of it, so that it can be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID


class JournaledCharge(NamedTuple):
    """What a journal entry charges the account; `moment` is microseconds since the epoch.

    PostgreSQL may have the call already if the entry `corrects`.
    """

    id: str
    request_id: UUID
    moment: int
    credits: int
    corrects: bool


class PendingCharges(NamedTuple):
    """What PostgreSQL lacks: credits charged, and the moments of calls without a row."""

    credits: int
    moments: tuple[int, ...]


def pending_charges(entries: Iterable[JournaledCharge], *, rows: Mapping[UUID, bool]) -> PendingCharges:
    """Takes entries in the order of their ids. `rows` are requests with a row; True if the row may be corrected.

    Only a row shows that PostgreSQL has a call. The id of an entry does not: a server of Redis that was left, or an
    older copy of one, has entries that PostgreSQL never read, or has lost. A correction charges a request that has no
    row, or one that may be corrected. Each request is charged once, however many entries it has.
    """
    charges: dict[UUID, int] = {}
    moments: dict[UUID, int] = {}
    for entry in entries:
        is_recorded = entry.request_id in rows
        if is_recorded and not (entry.corrects and rows[entry.request_id]):
            continue
        charges[entry.request_id] = max(charges.get(entry.request_id, 0), entry.credits)
        if not is_recorded:
            moments[entry.request_id] = entry.moment
    return PendingCharges(sum(charges.values()), tuple(moments.values()))


def later(one: str, other: str) -> str:
    """The later of two ids of journal entries."""
    return max(one, other, key=id_order)


def id_order(entry_id: str) -> tuple[int, int]:
    """The order of journal ids."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
