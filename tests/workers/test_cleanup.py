"""Cleanup deletes what has expired, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.accounts import erasure, login_sessions, one_time_tokens, throttles
from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database
from gateway.ledger.db.tables import top_ups
from gateway.ledger.payments import checkouts
from gateway.ledger.usage import ingestion
from gateway.workers.cleanup import CleanupWorker
from policies.access.throttling import Pace, subject
from policies.access.tokens import Purpose
from tests.ledger.make import a_line, a_user

OFFER = {"provider": "stripe", "pack_id": "p", "credits": 100, "price_id": "price_1", "price": 5, "currency": "USD"}
PACE = Pace(burst=2, seconds_each=60)


async def test_cleanup_deletes_only_what_has_expired(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with database.transaction() as connection:
        user = await a_user(connection)
        for age_days in (0, 29, 31, 90):
            await login_sessions.create(
                connection,
                user.id,
                token_hash=bytes([age_days]) * 32,
                expires_at=now() - timedelta(days=age_days, minutes=-1),
                address=None,
            )
        for minutes, purpose in ((5, Purpose.VERIFY_EMAIL), (-5, Purpose.RESET_PASSWORD)):
            expires_at = now() + timedelta(minutes=minutes)
            await one_time_tokens.issue(connection, user.id, purpose=purpose, email="a@b", expires_at=expires_at)
        for name, at in (("now", now()), ("then", now() - timedelta(hours=1))):
            await throttles.record_attempts(connection, [subject("login", name, PACE)], at)
        for once in (None, "threshold"):
            await notifications.enqueue(connection, user.id, kind="k", payload={}, once=once)
        await connection.execute(text("UPDATE notices SET created_at = now() - interval '91 days'"))
    worker = CleanupWorker(database, remember_erased=timedelta(days=365))
    assert await worker.run_once() == 5
    assert await worker.run_once() == 0
    async with database.read() as connection:
        assert await _counts(connection) == {"sessions": 2, "one_time_tokens": 1, "throttles": 1, "notices": 1}
    await database.close()


async def test_usage_of_a_deleted_user_has_no_personal_data(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with database.transaction() as connection:
        gone, other = await a_user(connection), await a_user(connection)
        said: dict[str, Any] = {
            "client_ip": "203.0.113.9",
            "client_request_id": "ada-1",
            "usage_type": "analysis",
            "file_name": "ada.csv",
        }
        await ingestion.ingest(connection, [a_line(user.id, **said) for user in (gone, other)])
        await erasure.erase(connection, gone.id, now=now())
    assert await CleanupWorker(database, remember_erased=timedelta(days=365)).run_once() == 2
    assert await CleanupWorker(database, remember_erased=timedelta(days=365)).run_once() == 0
    async with database.read() as connection:
        rows = await connection.execute(
            text("""
            SELECT u.user_id, u.client_ip, u.client_request_id, h.file_name, u.credits_charged
              FROM usage_tracking u JOIN analysis_history h USING (request_id)
            """)
        )
        found = {row.user_id: tuple(row)[1:] for row in rows}
    assert found == {gone.id: (None, None, None, 1), other.id: ("203.0.113.9", "ada-1", "ada.csv", 1)}
    await database.close()


async def test_payments_of_a_deleted_user_name_no_card_and_no_page(own_database_url: str) -> None:
    """They were under way at the deletion, and keep their card until they are settled."""
    database = Database(own_database_url)
    async with database.transaction() as connection:
        gone, other = await a_user(connection), await a_user(connection)
        await erasure.erase(connection, gone.id, now=now())
        for user_id in (gone.id, other.id):
            for number, status in enumerate(("completed", "failed", "pending")):
                page = f"https://pay.example.com/{number}"
                checkout = await checkouts.create(connection, user_id, **OFFER, url=page)
                settled_at = None if status == "pending" else now()
                row = {"user_id": user_id, "checkout_id": checkout.id, "status": status, "settled_at": settled_at}
                row |= {"price": 5, "currency": "USD", "payment_method_id": f"card {number}"}
                await connection.execute(insert(top_ups).values(row))
    assert await CleanupWorker(database, remember_erased=timedelta(days=365)).run_once() == 5
    assert await CleanupWorker(database, remember_erased=timedelta(days=365)).run_once() == 0
    async with database.read() as connection:
        query = text("""
            SELECT t.user_id, array_agg(t.payment_method_id ORDER BY t.status) AS cards, count(c.url) AS pages
              FROM top_ups t JOIN checkouts c ON c.id = t.checkout_id GROUP BY 1
        """)
        found = {row.user_id: (row.cards, row.pages) for row in await connection.execute(query)}
    assert found == {gone.id: (["", "", "card 2"], 0), other.id: (["card 0", "card 1", "card 2"], 3)}
    await database.close()


async def _counts(connection: AsyncConnection) -> dict[str, int]:
    names = ("sessions", "one_time_tokens", "throttles", "notices")
    counted = {name: text(f"SELECT count(*) FROM {name}") for name in names}  # noqa: S608 - names of ours
    return {name: (await connection.execute(query)).scalar_one() for name, query in counted.items()}
