"""Answers by Idempotency-Key: claimed before a request runs, kept with what it changed, told again for a day."""

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
    """A request that runs under a key. `nonce` is of this request alone, whatever came under the key before."""

    caller: str
    key_hash: bytes
    fingerprint: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer to an earlier request, and whose."""

    fingerprint: bytes
    nonce: bytes
    status_code: int
    media_type: str | None
    body: bytes


class Running(Enum):
    """An earlier request under this key has no answer yet."""

    RUNNING = "running"


RUNNING = Running.RUNNING


async def claim(connection: AsyncConnection, wanted: Claim) -> Kept | Running | None:
    """None: the key is free and now taken, until the transaction ends or for as long as its row stands."""
    lock = hashlib.sha256(wanted.caller.encode() + b"\0" + wanted.key_hash).digest()[:8]
    if not await connection.scalar(_TRY, {"lock": int.from_bytes(lock, signed=True)}):
        return RUNNING
    row = (await connection.execute(select(*_KEPT).where(*_is(wanted)))).one_or_none()
    if row is None:
        await connection.execute(
            insert(idempotent_requests).values(
                caller=wanted.caller, key_hash=wanted.key_hash, fingerprint=wanted.fingerprint, nonce=wanted.nonce
            )
        )
        return None
    if row.status_code is None:
        return RUNNING
    return Kept(*row)


async def keep(
    connection: AsyncConnection, claimed: Claim, *, status_code: int, media_type: str | None, body: bytes
) -> None:
    """The answer, to be told to whoever sends the key again."""
    answer = {"status_code": status_code, "media_type": media_type, "body": body}
    await connection.execute(update(idempotent_requests).where(*_is(claimed)).values(answer))


async def release(connection: AsyncConnection, claimed: Claim) -> None:
    """The request changed nothing: the key is free again."""
    await connection.execute(delete(idempotent_requests).where(*_is(claimed)))


async def clean(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Forgets answers older than `before`, so many at most; gives how many."""
    old = select(idempotent_requests.c.caller, idempotent_requests.c.key_hash).where(
        idempotent_requests.c.created_at < before
    )
    chosen = old.order_by(idempotent_requests.c.created_at).limit(limit).with_for_update(skip_locked=True)
    forgotten = delete(idempotent_requests).where(_KEY.in_(chosen))
    return (await connection.execute(forgotten)).rowcount


_TRY = text("SELECT pg_try_advisory_xact_lock(:lock)")
_KEY = tuple_(idempotent_requests.c.caller, idempotent_requests.c.key_hash)
_KEPT = (
    idempotent_requests.c.fingerprint,
    idempotent_requests.c.nonce,
    idempotent_requests.c.status_code,
    idempotent_requests.c.media_type,
    idempotent_requests.c.body,
)


def _is(claimed: Claim) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return idempotent_requests.c.caller == claimed.caller, idempotent_requests.c.key_hash == claimed.key_hash
