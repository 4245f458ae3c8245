"""Accounts, keys and journal lines for the tests of the ledger."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.api_keys import Fingerprint
from gateway.ledger.accounts.users import User
from gateway.notifications.events import EVENTS
from policies.usage.records import COLUMNS, NULL

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


async def a_user(connection: AsyncConnection) -> User:
    return await users.create(connection, f"{uuid4().hex}@example.com")


def a_fingerprint() -> Fingerprint:
    return Fingerprint(prefix="gw_live_ab", last4="wxyz", key_hash=secrets.token_bytes(32))


async def a_key(connection: AsyncConnection, user_id: UUID) -> api_keys.ApiKey:
    return await api_keys.create(connection, user_id, fingerprint=a_fingerprint())


def a_line(user_id: UUID, *, credits_charged: int = 1, at: datetime = NOON, **columns: str | int | None) -> bytes:
    """A line of the journal; `columns` overrides any of the record's."""
    record: dict[str, str | int | None] = {
        "request_id": str(uuid4()),
        "created_at": int(at.timestamp() * 1_000_000),
        "user_id": str(user_id),
        "endpoint": "analyze",
        "method": "POST",
        "path": "/v1/analyze",
        "usage_type": "ai_generation",
        "product_count": 1,
        "outcome": "succeeded",
        "status_code": 200,
        "credits_charged": credits_charged,
        "response_bytes": 512,
    }
    record.update(columns)
    values = (record.get(name) for name in COLUMNS)
    line = "\t".join(NULL if value is None else str(value) for value in values)
    return f"{line}\n".encode()


async def list_notifications(connection: AsyncConnection, user_id: UUID) -> list[tuple[str, dict[str, Any]]]:
    """(kind, payload) of a user's notifications, oldest first, which have the fields that are documented."""
    query = text("SELECT kind, payload FROM notices WHERE user_id = :user_id ORDER BY id")
    found = [(row.kind, row.payload) for row in await connection.execute(query, {"user_id": user_id})]
    for kind, payload in found:
        event = EVENTS.get(kind)
        assert event is None or payload.keys() - {"user_id"} == event.fields.keys(), kind
    return found
