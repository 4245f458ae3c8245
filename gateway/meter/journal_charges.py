"""What settled calls in the journal charge: of one account for loading it, of a partition for reconciliation."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.journal import MAX_ENTRIES_PER_READ, START, is_correction
from gateway.meter.keys import AccountKeys
from policies.usage.records import HEAD_COLUMNS, NULL, TAIL_COLUMNS

_COLUMNS = HEAD_COLUMNS + TAIL_COLUMNS
_REQUEST_ID, _CREATED_AT, _USER_ID, _KEY_ID, _CREDITS_CHARGED = (
    _COLUMNS.index(name) for name in ("request_id", "created_at", "user_id", "api_key_id", "credits_charged")
)


@dataclass(frozen=True, slots=True)
class JournalCharge:
    """A settled call in the journal. `created_at` is microseconds since the epoch, `key_id` as the record has it.

    `corrects` says that the call may stand written as abandoned, at no charge, until PostgreSQL has this; or as it is
    here, where it was told twice.
    """

    request_id: UUID
    created_at: int
    user_id: UUID
    credits: int
    corrects: bool
    key_id: str = NULL


def parse_charge(record: bytes, *, corrects: bool) -> JournalCharge | None:
    """None for what the usage writer will not take for a record either; it keeps such entries aside."""
    columns = record.decode(errors="replace").split("\t")
    try:
        return JournalCharge(
            UUID(columns[_REQUEST_ID]),
            int(columns[_CREATED_AT]),
            UUID(columns[_USER_ID]),
            0 if columns[_CREDITS_CHARGED] == NULL else int(columns[_CREDITS_CHARGED]),
            corrects,
            columns[_KEY_ID],
        )
    except (IndexError, ValueError):
        return None


# More than PostgreSQL takes in a few seconds: then a load has to wait, so that it does not hold up everybody else.
MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class AccountCharges:
    """The account's entries up to `upto`, the newest of its partition, each with its id."""

    charges: tuple[tuple[str, JournalCharge], ...]
    upto: str


async def read_account_charges(redis_client: RedisClient, keys: AccountKeys) -> AccountCharges:
    """Raises MeterUnavailable, also where the journal is too long to be searched."""
    wanted = str(keys.account_id).encode()
    charges: list[tuple[str, JournalCharge]] = []
    upto, searched = START, 0
    while True:
        page = (b"XRANGE", keys.journal, f"({upto}", b"+", b"COUNT", MAX_ENTRIES_PER_READ)
        entries = await redis_client.call(page)
        for entry_id, (_, record, *rest) in entries:
            if wanted in record:
                charge = parse_charge(record, corrects=is_correction(rest))
                if charge is not None and charge.user_id == keys.account_id:
                    charges.append((entry_id.decode(), charge))
        if entries:
            upto = entries[-1][0].decode()
        searched += len(entries)
        if len(entries) < MAX_ENTRIES_PER_READ:
            return AccountCharges(tuple(charges), upto)
        if searched >= MAX_ENTRIES:
            raise MeterUnavailable("the journal is too long to be searched")
