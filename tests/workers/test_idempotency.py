"""Answers are kept for a day and no longer."""

from __future__ import annotations

from datetime import timedelta
from secrets import token_bytes

from gateway.clock import now
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import Claim, Kept
from gateway.ledger.db.session import Database
from gateway.workers.idempotency import KEPT, IdempotencyCleaner


async def test_an_answer_is_told_for_a_day_and_then_forgotten(database: Database) -> None:
    claim = Claim("admin", token_bytes(32), token_bytes(32), token_bytes(16))
    async with database.transaction() as connection:
        assert await idempotency.claim(connection, claim) is None
        await idempotency.keep(connection, claim, status_code=201, media_type="application/json", body=b"{}")
    almost = now() + KEPT - timedelta(minutes=1)
    await IdempotencyCleaner(database, now=lambda: almost).run_once()
    async with database.transaction() as connection:
        assert await idempotency.claim(connection, claim) == Kept(
            claim.fingerprint, claim.nonce, 201, "application/json", b"{}"
        )
    assert await IdempotencyCleaner(database, now=lambda: now() + KEPT).run_once() >= 1
    async with database.transaction() as connection:
        assert await idempotency.claim(connection, claim) is None
