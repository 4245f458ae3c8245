"""Idempotent requests of the APIs: a key is claimed first, the response is stored with the change it reports."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from sqlalchemy import ColumnElement, delete, insert, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import idempotent_requests


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that runs under a key. `nonce` identifies this very request among all that sent the key."""

    caller: str
    key_hash: bytes
    fingerprint: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to the request of this fingerprint and nonce."""

    fingerprint: bytes
    nonce: bytes
    status_code: int
    media_type: str | None
    body: bytes


class Running(Enum):
    """An earlier request under this key has no response yet."""

    RUNNING = "running"


RUNNING = Running.RUNNING


async def claim(connection: AsyncConnection, request: Claim) -> StoredResponse | Running | None:
    """Claims the key and gives None; or gives the response stored under it, or RUNNING.

    A rollback releases the claim; after a commit it lasts until `release` or `delete_expired`.
    """
    lock = hashlib.sha256(request.caller.encode() + b"\0" + request.key_hash).digest()[:8]
    if not await connection.scalar(_TRY, {"lock": int.from_bytes(lock, signed=True)}):
        return RUNNING
    row = (await connection.execute(select(*_RESPONSE).where(*_is(request)))).one_or_none()
    if row is None:
        await connection.execute(
            insert(idempotent_requests).values(
                caller=request.caller, key_hash=request.key_hash, fingerprint=request.fingerprint, nonce=request.nonce
            )
        )
        return None
    if row.status_code is None:
        return RUNNING
    return StoredResponse(*row)


async def store_response(
    connection: AsyncConnection, request: Claim, *, status_code: int, media_type: str | None, body: bytes
) -> None:
    """Stores the response to a claimed request; later requests of the key get it."""
    response = {"status_code": status_code, "media_type": media_type, "body": body}
    await connection.execute(update(idempotent_requests).where(*_is(request)).values(response))


async def release(connection: AsyncConnection, request: Claim) -> None:
    """Frees the key of a request that changed nothing."""
    await connection.execute(delete(idempotent_requests).where(*_is(request)))


async def delete_for_caller(connection: AsyncConnection, caller: str) -> None:
    """Deletes all responses to a caller."""
    await connection.execute(delete(idempotent_requests).where(idempotent_requests.c.caller == caller))


async def delete_expired(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Deletes at most `limit` claims and responses from before `before`; gives how many."""
    old = select(idempotent_requests.c.caller, idempotent_requests.c.key_hash).where(
        idempotent_requests.c.created_at < before
    )
    chosen = old.order_by(idempotent_requests.c.created_at).limit(limit).with_for_update(skip_locked=True)
    deleted = delete(idempotent_requests).where(_KEY.in_(chosen))
    return (await connection.execute(deleted)).rowcount


_TRY = text("SELECT pg_try_advisory_xact_lock(:lock)")
_KEY = tuple_(idempotent_requests.c.caller, idempotent_requests.c.key_hash)
_RESPONSE = (
    idempotent_requests.c.fingerprint,
    idempotent_requests.c.nonce,
    idempotent_requests.c.status_code,
    idempotent_requests.c.media_type,
    idempotent_requests.c.body,
)


def _is(request: Claim) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return idempotent_requests.c.caller == request.caller, idempotent_requests.c.key_hash == request.key_hash
