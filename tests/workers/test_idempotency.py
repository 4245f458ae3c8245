"""Idempotent responses are stored for a day and no longer."""

from __future__ import annotations

from datetime import timedelta
from secrets import token_bytes

from gateway.clock import now
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import Claim, StoredResponse
from gateway.ledger.db.session import Database
from gateway.workers.cleanup import RESPONSE_LIFETIME, IdempotencyCleaner


async def test_idempotent_response_lasts_a_day(database: Database) -> None:
    claim = Claim("admin", token_bytes(32), token_bytes(32), token_bytes(16))
    async with database.transaction() as connection:
        assert await idempotency.claim(connection, claim) is None
        await idempotency.store_response(connection, claim, status_code=201, media_type="application/json", body=b"{}")
    almost = now() + RESPONSE_LIFETIME - timedelta(minutes=1)
    await IdempotencyCleaner(database, now=lambda: almost).run_once()
    async with database.transaction() as connection:
        assert await idempotency.claim(connection, claim) == StoredResponse(
            claim.fingerprint, claim.nonce, 201, "application/json", b"{}"
        )
    assert await IdempotencyCleaner(database, now=lambda: now() + RESPONSE_LIFETIME).run_once() >= 1
    async with database.transaction() as connection:
        assert await idempotency.claim(connection, claim) is None
