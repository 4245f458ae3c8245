"""What accounts of earlier releases had proved counts as proven, also of those that were erased since."""

from __future__ import annotations

import asyncpg

from gateway.ledger.db import schema
from tests.migrations.conftest import execute

BEFORE = "0031"

OLD = """
    INSERT INTO users (id, email, name, persons, email_verified_at, deleted_at) VALUES
        (gen_random_uuid(), 'a@example.com', 'verified', '{one,two}', now(), NULL),
        (gen_random_uuid(), 'b@example.com', 'named', '{one}', NULL, NULL),
        (gen_random_uuid(), 'c@example.com', 'erased', '{three}', NULL, now()),
        (gen_random_uuid(), 'd@example.com', 'erased unproven', '{one}', NULL, now());
    INSERT INTO audit_log (id, actor, action, entity, entity_id)
    SELECT row_number() OVER (), 'test', action, 'user', id::text FROM users
      JOIN (VALUES ('erased', 'account.verify_email'), ('erased unproven', 'account.register')) AS did (name, action)
     USING (name);
"""


async def test_what_accounts_had_proved_counts_as_proven(empty_url: str) -> None:
    await schema.upgrade(empty_url, BEFORE)
    await execute(empty_url, OLD)
    await schema.upgrade(empty_url)
    connection = await asyncpg.connect(empty_url)
    proven = {row["name"]: row["proven_persons"] for row in await connection.fetch("SELECT * FROM users")}
    await connection.close()
    assert proven == {"verified": [b"one", b"two"], "named": [], "erased": [b"three"], "erased unproven": []}
