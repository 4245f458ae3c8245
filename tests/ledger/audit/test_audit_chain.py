"""The audit log in PostgreSQL is one chain under concurrency, and verification locates manipulations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.audit import audit_chain, audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db.session import Database
from policies.audit_chain import ChainBreak, ChainWalk

KEYS = audit_chain.keys_of({1: b"pepper"})


@pytest.fixture
async def sealed(own_database_url: str) -> AsyncIterator[Database]:
    opened = Database(own_database_url, pool_size=4, audit_keys=KEYS)
    yield opened
    await opened.close()


async def note(database: Database, *, times: int = 1, **given: Any) -> None:
    async with database.transaction() as connection:
        for number in range(times):
            entry: dict[str, Any] = {"actor": "admin", "action": "plans.change", "entity": "plan", "entity_id": "pro"}
            await audit_log.append(connection, **(entry | {"after": {"price": "1.50", "n": number}} | given))


async def walked(database: Database, *, anchor: str | None = None) -> ChainWalk | ChainBreak:
    async with database.read() as connection:
        return await audit_chain.verify(connection, KEYS, anchor=anchor)


async def tamper(database: Database, statement: str) -> None:
    """Manipulates the log as a database owner can, without its trigger."""
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER append_only"))
        await connection.execute(text(statement))
        await connection.execute(text("ALTER TABLE audit_log ENABLE TRIGGER append_only"))


async def test_audit_chain_of_concurrent_writers_has_no_gaps(sealed: Database) -> None:
    await asyncio.gather(*(note(sealed, times=number % 3 + 1) for number in range(24)))
    found = await walked(sealed)
    assert isinstance(found, ChainWalk), found
    assert found.rows == 48
    async with sealed.read() as connection:
        ids = (await connection.scalars(text("SELECT id FROM audit_log ORDER BY id"))).all()
        head = await audit_chain.get_head(connection)
    assert ids == list(range(1, 49))
    assert head.last_id == 48


async def test_audit_entry_of_a_rolled_back_transaction_is_dropped(sealed: Database) -> None:
    with suppress(RuntimeError):
        async with sealed.transaction() as connection:
            await audit_log.append(connection, actor="a", action="b", entity="c", entity_id="d")
            raise RuntimeError
    await note(sealed)
    found = await walked(sealed)
    assert isinstance(found, ChainWalk)
    assert found.rows == 1


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit_log SET actor = 'nobody' WHERE id = 2", 2),
        ("""UPDATE audit_log SET after = '{"n": 1, "price": "1.51"}' WHERE id = 2""", 2),
        ("UPDATE audit_log SET created_at = created_at + interval '1 microsecond' WHERE id = 3", 3),
        ("UPDATE audit_log SET hash = prev_hash WHERE id = 1", 1),
        ("UPDATE audit_log SET hash = NULL, prev_hash = NULL WHERE id = 4", 4),
        ("DELETE FROM audit_log WHERE id = 2", 3),
        ("DELETE FROM audit_log WHERE id = 4", 4),
        ("UPDATE audit_log SET id = CASE id WHEN 2 THEN -3 ELSE -2 END WHERE id IN (2, 3)", -3),
        ("UPDATE audit_head SET last_id = 3, hash = (SELECT hash FROM audit_log WHERE id = 3)", 4),
    ],
)
async def test_audit_chain_locates_every_manipulation(sealed: Database, statement: str, broken: int) -> None:
    await note(sealed, times=4)
    await tamper(sealed, statement)
    found = await walked(sealed)
    assert isinstance(found, ChainBreak)
    assert found.id == broken


async def test_audit_anchor_detects_a_recreated_log(sealed: Database) -> None:
    await note(sealed, times=2)
    async with sealed.read() as connection:
        anchor = (await audit_chain.get_head(connection)).anchor
    await tamper(sealed, "DELETE FROM audit_log")
    await tamper(sealed, "UPDATE audit_head SET last_id = 0, hash = decode(repeat('00', 32), 'hex'), mac = NULL")
    assert isinstance(await walked(sealed), ChainWalk)  # as one that never held anything
    assert await walked(sealed, anchor=anchor) == ChainBreak(2, "the anchor is not in the chain: rows were replaced")


async def test_erasing_personal_data_keeps_the_audit_chain(sealed: Database) -> None:
    ada, bob = uuid4(), uuid4()
    for user_id in (ada, bob):
        shown = {"id": str(user_id), "email": f"{user_id}@example.com", "role": "user", "metadata": {"n": 1e3}}
        await note(sealed, entity="user", entity_id=user_id, before=shown, after=shown | {"role": "admin"})
    async with sealed.transaction() as connection:
        await audit_log.erase_personal(connection, ada)
    assert isinstance(await walked(sealed), ChainWalk)
    assert await emails(sealed, bob) == [f"{bob}@example.com"] * 2
    assert await emails(sealed, ada) == [audit_log.ERASED] * 2
    async with sealed.read() as connection:
        kept = (await connection.scalars(text("SELECT a::text || p::text FROM audit_log a, audit_personal p"))).all()
    assert not any(f"{ada}@" in row for row in kept)


async def emails(database: Database, user_id: UUID) -> list[Any]:
    async with database.read() as connection:
        entry = (await audit_log.list_entries(connection, AuditFilter(entity_id=user_id))).data[0]
    assert entry.after is not None
    assert entry.before is not None
    assert (entry.before["role"], entry.after["role"]) == ("user", "admin")
    return [entry.before["email"], entry.after["email"]]
