"""What a cold account has, from the two places that know of it: PostgreSQL, and a journal that is ahead of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID


class JournaledCharge(NamedTuple):
    """A journal entry of the account; `moment` is microseconds since the epoch.

    One that `corrects` may be there for a second time.
    """

    id: str
    request_id: UUID
    moment: int
    credits: int
    corrects: bool


class Unwritten(NamedTuple):
    """What PostgreSQL does not have yet: credits charged, and the moments of calls it has no row of."""

    credits: int
    moments: tuple[int, ...]


def unwritten(entries: Iterable[JournaledCharge], *, written_upto: str, rows: Mapping[UUID, bool]) -> Unwritten:
    """Of entries in the order of their ids. `rows` are the requests that have one; True where it may be corrected.

    An ordinary entry is in PostgreSQL if it is not past `written_upto`. A correction past that charges a request that
    has no row, or one that may be corrected; and each request once, whatever stands of it.
    """
    last = _order(written_upto)
    charges: dict[UUID, int] = {}
    moments: dict[UUID, int] = {}
    for entry in entries:
        if _order(entry.id) <= last or (entry.request_id in rows and not rows[entry.request_id]):
            continue
        charges[entry.request_id] = max(charges.get(entry.request_id, 0), entry.credits)
        if entry.request_id not in rows:
            moments[entry.request_id] = entry.moment
    return Unwritten(sum(charges.values()), tuple(moments.values()))


def later(one: str, other: str) -> str:
    """The later of two ids of journal entries."""
    return max(one, other, key=_order)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
