"""What the journal has of one account, for loading it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.meter.client.client import Link
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.journal import MAX_ENTRIES_PER_READ, START, is_correction
from gateway.meter.journal_charges import Charge, charge_of
from gateway.meter.keys import AccountKeys

# More than PostgreSQL takes in a few seconds: then a load has to wait, so that it does not hold up everybody else.
MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Journaled:
    """The account's entries up to `upto`, the newest of its partition, each with its id."""

    charges: tuple[tuple[str, Charge], ...]
    upto: str


async def journaled(link: Link, keys: AccountKeys) -> Journaled:
    """Raises MeterUnavailable, also where the journal is too long to be searched."""
    wanted = str(keys.account_id).encode()
    charges: list[tuple[str, Charge]] = []
    upto, searched = START, 0
    while True:
        page = (b"XRANGE", keys.journal, f"({upto}", b"+", b"COUNT", MAX_ENTRIES_PER_READ)
        entries = await link.call(page)
        for entry_id, (_, record, *rest) in entries:
            if wanted in record:
                charge = charge_of(record, corrects=is_correction(rest))
                if charge is not None and charge.user_id == keys.account_id:
                    charges.append((entry_id.decode(), charge))
        if entries:
            upto = entries[-1][0].decode()
        searched += len(entries)
        if len(entries) < MAX_ENTRIES_PER_READ:
            return Journaled(tuple(charges), upto)
        if searched >= MAX_ENTRIES:
            raise MeterUnavailable("the journal is too long to be searched")
