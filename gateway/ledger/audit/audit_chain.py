"""The hash chain of the audit log (`policies/audit_chain.py`): sealed at each commit, verified on demand."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import columns
from gateway.ledger.db.session import AUDIT_KEYS, lift_timeouts
from gateway.ledger.db.tables import audit_head, audit_log, audit_personal
from policies import audit_chain
from policies.audit_chain import ChainBreak, ChainWalk, Entry, Head, Personal, SealedRow

ROWS_PER_FETCH = 1000
SALT_BYTES = 16


def keys_of(peppers: Mapping[int, bytes]) -> dict[int, bytes]:
    """The chain keys by version of the pepper that each is derived from."""
    return {version: audit_chain.chain_key(pepper) for version, pepper in peppers.items()}


async def seal_entries(connection: AsyncConnection, entries: Sequence[Mapping[str, Any]]) -> None:
    """Seals a transaction's entries and inserts them; the last step before its commit (`session.before_commit`).

    No other transaction appends from here to the commit. Without keys the rows carry no seal, which a walk reports.
    """
    keys: Mapping[int, bytes] = connection.info.get(AUDIT_KEYS, {})
    head, instant = await _get_head_for_update(connection)
    version = max(keys, default=None)
    rows, personal, last_hash = [], [], head.hash
    for number, pending in enumerate(entries, head.last_id + 1):
        entry, values = _split_entry(pending, number=number, instant=instant)
        row = {name: getattr(entry, name) for name in Entry.__slots__}
        if version is not None:
            previous, last_hash = last_hash, audit_chain.seal(keys[version], last_hash, entry)
            row |= {"prev_hash": previous, "hash": last_hash, "pepper_version": version}
        rows.append(row)
        if values is not None:
            personal.append({"audit_id": number, **values})
    await connection.execute(insert(audit_log), rows)
    if personal:
        await connection.execute(insert(audit_personal), personal)
    await _update_head(connection, head, rows[-1]["id"], last_hash=last_hash, key=(version, keys))


async def get_head(connection: AsyncConnection) -> Head:
    row = (await connection.execute(select(*_HEAD))).one()
    return Head(*row)


async def verify(
    connection: AsyncConnection, keys: Mapping[int, bytes], *, anchor: str | None = None
) -> ChainWalk | ChainBreak:
    """Verifies the whole log; gives the finished walk, or the first row at which the chain breaks.

    It must come first in its transaction, which may last, since it reads head and rows from one snapshot.
    """
    await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    await lift_timeouts(connection)
    walk = ChainWalk(keys, await get_head(connection), anchor=anchor)
    async for row in _rows(connection):
        if (broken := walk.step(row)) is not None:
            return broken
    return walk.finish() or walk


_HEAD = (
    audit_head.c.last_id,
    audit_head.c.hash,
    audit_head.c.unsealed_until,
    audit_head.c.mac,
    audit_head.c.pepper_version,
)
_ENTRY = columns(audit_log, Entry)


async def _get_head_for_update(connection: AsyncConnection) -> tuple[Head, datetime]:
    row = (await connection.execute(select(*_HEAD, func.clock_timestamp()).with_for_update())).one()
    *head, instant = row
    return Head(*head), instant


async def _update_head(
    connection: AsyncConnection,
    head: Head,
    last_id: int,
    *,
    last_hash: bytes,
    key: tuple[int | None, Mapping[int, bytes]],
) -> None:
    version, keys = key
    values: dict[str, Any] = {"last_id": last_id}
    if version is not None:
        mac = audit_chain.seal_head(keys[version], last_id, last_hash, unsealed_until=head.unsealed_until)
        values |= {"hash": last_hash, "mac": mac, "pepper_version": version}
    await connection.execute(update(audit_head).values(values))


def _split_entry(pending: Mapping[str, Any], *, number: int, instant: datetime) -> tuple[Entry, dict[str, Any] | None]:
    """(the entry without personal values, those values or None). Without a subject the entry keeps them."""
    subject = _subject(pending)
    if subject is None:
        return Entry(id=number, created_at=instant, **pending), None
    salt = secrets.token_bytes(SALT_BYTES)
    before, personal_before = audit_chain.split_personal(pending["before"], salt)
    after, personal_after = audit_chain.split_personal(pending["after"], salt)
    entry = Entry(id=number, created_at=instant, **{**pending, "before": before, "after": after})
    if personal_before is None and personal_after is None:
        return entry, None
    return entry, {"user_id": subject, "salt": salt, "before": personal_before, "after": personal_after}


def _subject(pending: Mapping[str, Any]) -> UUID | None:
    """The user whose data the entry has: the entity itself, or its owner."""
    user_id = pending["entity_id"] if pending["entity"] == "user" else None
    for document in (pending["after"], pending["before"]):
        user_id = user_id or (document or {}).get("user_id")
    try:
        return UUID(str(user_id))
    except ValueError:
        return None


async def _rows(connection: AsyncConnection) -> AsyncIterator[SealedRow]:
    personal = (
        audit_personal.c.salt,
        audit_personal.c.before.label("apart_before"),
        audit_personal.c.after.label("apart_after"),
    )
    query = (
        select(*_ENTRY, audit_log.c.prev_hash, audit_log.c.hash, audit_log.c.pepper_version, *personal)
        .select_from(audit_log)
        .outerjoin(audit_personal, audit_personal.c.audit_id == audit_log.c.id)
        .order_by(audit_log.c.id)
    )
    stream = await connection.stream(query)
    async for rows in stream.partitions(ROWS_PER_FETCH):
        for row in rows:
            found = row._mapping  # noqa: SLF001 - public by SQLAlchemy's documentation
            entry = Entry(**{name: found[name] for name in Entry.__slots__})
            apart = None if row.salt is None else Personal(row.salt, row.apart_before, row.apart_after)
            yield SealedRow(entry, row.prev_hash, row.hash, row.pepper_version, apart)
