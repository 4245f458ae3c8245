"""What journal entries charge, for those who sum it up."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from policies.usage.records import HEAD_COLUMNS, NULL, TAIL_COLUMNS

_COLUMNS = HEAD_COLUMNS + TAIL_COLUMNS
_REQUEST_ID, _CREATED_AT, _USER_ID, _KEY_ID, _CREDITS_CHARGED = (
    _COLUMNS.index(name) for name in ("request_id", "created_at", "user_id", "api_key_id", "credits_charged")
)


@dataclass(frozen=True, slots=True)
class Charge:
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


def charge_of(record: bytes, *, corrects: bool) -> Charge | None:
    """None for what the usage writer will not take for a record either; it keeps such entries aside."""
    columns = record.decode(errors="replace").split("\t")
    try:
        return Charge(
            UUID(columns[_REQUEST_ID]),
            int(columns[_CREATED_AT]),
            UUID(columns[_USER_ID]),
            0 if columns[_CREDITS_CHARGED] == NULL else int(columns[_CREDITS_CHARGED]),
            corrects,
            columns[_KEY_ID],
        )
    except (IndexError, ValueError):
        return None
