"""Calls of the past, as lines for the ingestion of usage: whole batches at once, and nobody is charged for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.records import Record
from gateway.importing.sections import Section
from gateway.importing.targets import Target, UnfitField, Users
from gateway.ledger.db import month_partitions, tables
from gateway.ledger.db.month_partitions import PARTITIONED, MonthPartition
from gateway.ledger.usage import ingestion
from policies.model import Outcome
from policies.usage import records
from policies.usage.recorded import METADATA_NAMES
from policies.usage.records import BALANCE_AFTER, COLUMNS, NULL

_HIGHEST_STATUS = 999
_TEXTS = (
    *("endpoint", "method", "path", "usage_type", "error_code", "model", "language_code", "category", "batch_id"),
    *("client_ip", "client_request_id"),
)
_NUMBERS = (
    *("status_code", "credits_charged", "product_count", "tokens_used", "input_tokens", "cached_input_tokens"),
    *("output_tokens", "reasoning_tokens", "request_bytes", "response_bytes", "file_size_bytes", "response_time_ms"),
    "cost_usd",
)
_MOST_COST_USD = 10**6


class UsageWriter:
    """Unlike the other writers it takes whole batches: a table of usage has millions of rows."""

    def __init__(self, target: Target) -> None:
        self._target, self._users = target, Users(target, tables.users)
        self._months: set[datetime] = set()

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        await self._users.look_up(connection, batch)

    async def line(self, connection: AsyncConnection, record: Record) -> bytes:
        """The line of a call. Raises UnfitField."""
        at: datetime = record.fields["created_at"]
        self._target.check_past(record, "created_at")
        columns = self._columns(record)
        columns |= {
            "request_id": record.id,
            "created_at": int(at.timestamp()) * 1_000_000 + at.microsecond,
            "user_id": self._users.id_of(record),
            "api_key_id": self._key_id(record),
            "plan_id": records.text(await self._target.plan_id(connection, record)),
        }
        cells = [NULL if columns.get(name) is None else str(columns[name]) for name in COLUMNS if name != BALANCE_AFTER]
        return ("\t".join([*cells, NULL]) + "\n").encode()

    async def write(self, connection: AsyncConnection, batch: Sequence[tuple[Record, bytes]]) -> int:
        """Writes the lines; gives how many were new. Months that have no partition yet get one."""
        months = {_month(record.fields["created_at"]) for record, _ in batch} - self._months
        if months:
            wanted = [MonthPartition(table, begins) for begins in sorted(months) for table in PARTITIONED]
            await month_partitions.create(connection, wanted)
            self._months |= months
        return await ingestion.record(connection, [line for _, line in batch])

    def _columns(self, record: Record) -> dict[str, Any]:
        fields = record.fields
        status, endpoint = fields.get("status_code"), fields.get("endpoint", "imported")
        if status is not None and status > _HIGHEST_STATUS:
            raise UnfitField("status_code", f"is no HTTP status: {status}")
        if fields.get("cost_usd", 0) >= _MOST_COST_USD:
            raise UnfitField("cost_usd", f"is too large: {fields['cost_usd']}")
        has_failed = status is not None and status >= 400
        texts = {"endpoint": endpoint, "method": "POST", "path": "/", "usage_type": endpoint, **record.only(*_TEXTS)}
        return {
            "product_count": 1,
            "credits_charged": 0,
            "outcome": fields.get("outcome", Outcome.UPSTREAM_ERROR if has_failed else Outcome.SUCCEEDED),
            **{name: records.text(each) for name, each in texts.items()},
            **record.only(*_NUMBERS),
            "metadata": _metadata(fields["metadata"]) if "metadata" in fields else None,
        }

    def _key_id(self, record: Record) -> UUID | None:
        key = record.fields.get("key")
        return None if key is None else self._target.id_of(Section.KEYS, key)


def _metadata(given: Mapping[str, Any]) -> str | None:
    """What has a name that the gateway gives a meaning goes under `imported`."""
    apart = {name: each for name, each in given.items() if name in METADATA_NAMES}
    others = {name: each for name, each in given.items() if name not in METADATA_NAMES}
    return records.text(json.dumps(others | ({"imported": apart} if apart else {}), default=str))


def _month(at: datetime) -> datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
