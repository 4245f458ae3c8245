"""What settled calls in the journal charge: of one account for loading it, of a partition for reconciliation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.journal import MAX_ENTRIES_PER_READ, START, is_correction
from gateway.meter.keys import AccountKeys
from policies.usage.records import IDENTITY_COLUMNS, NULL, parse_field

# PostgreSQL takes no more within a few seconds. A load then has to wait, so that it does not delay everybody else.
MAX_ENTRIES = 100_000

_REQUEST_ID, _CREATED_AT, _USER_ID, _KEY_ID = range(len(IDENTITY_COLUMNS))


class UnknownRecordVersion(MeterUnavailable):
    """A newer release wrote a journal entry whose charge this one cannot find."""


@dataclass(frozen=True, slots=True)
class JournalCharge:
    """A settled call in the journal. `created_at` is microseconds since the epoch, `key_id` as the record has it.

    `corrects` says that PostgreSQL may have the call as abandoned without a charge, or as it is here.
    """

    request_id: UUID
    created_at: int
    user_id: UUID
    credits: int
    corrects: bool
    key_id: str = NULL


@dataclass(frozen=True, slots=True)
class AccountCharges:
    """The charges of one account by entry id, up to `upto`, the newest entry of its partition."""

    charges: tuple[tuple[str, JournalCharge], ...]
    upto: str


async def read_account_charges(redis_client: RedisClient, keys: AccountKeys) -> AccountCharges:
    """Raises MeterUnavailable, also if the journal is too long to be searched, or UnknownRecordVersion."""
    wanted = str(keys.account_id).encode()
    charges: list[tuple[str, JournalCharge]] = []
    upto, searched = START, 0
    while True:
        page = (b"XRANGE", keys.journal, f"({upto}", b"+", b"COUNT", MAX_ENTRIES_PER_READ)
        entries = await redis_client.call(page)
        for entry_id, fields in entries:
            charge = parse_charge(fields) if wanted in fields[1] else None
            if charge is not None and charge.user_id == keys.account_id:
                charges.append((entry_id.decode(), charge))
        if entries:
            upto = entries[-1][0].decode()
        searched += len(entries)
        if len(entries) < MAX_ENTRIES_PER_READ:
            return AccountCharges(tuple(charges), upto)
        if searched >= MAX_ENTRIES:
            raise MeterUnavailable("the journal is too long to be searched")


def parse_charge(fields: Sequence[bytes]) -> JournalCharge | None:
    """The charge of a journal entry. None for what is no record; the usage writer quarantines such entries.

    Raises UnknownRecordVersion.
    """
    field, record, *rest = fields
    version = parse_field(field)
    if version is None:
        return None
    if (credits_column := version.credits_column) is None:
        raise UnknownRecordVersion(f"the journal has an entry {field.decode()} of a newer release")
    columns = record.decode(errors="replace").split("\t")
    try:
        credits_charged = columns[credits_column]
        return JournalCharge(
            UUID(columns[_REQUEST_ID]),
            int(columns[_CREATED_AT]),
            UUID(columns[_USER_ID]),
            0 if credits_charged == NULL else int(credits_charged),
            is_correction(rest),
            columns[_KEY_ID],
        )
    except (IndexError, ValueError):
        return None
