"""Invoices and subscriptions of releases before go on: nothing is asked for again, and nothing is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from gateway.embedded.stores import Stores
from gateway.ledger.db import schema
from gateway.ledger.db.session import Database
from gateway.ledger.invoicing import closing
from gateway.ledger.subscriptions import renewals
from policies.billing.issuing import Issuer
from tests.ledger.invoicing.test_issued_invoices import JULY, JUNE, THE_11TH, THE_21ST, amounts, used
from tests.support import databases

BEFORE = "0015"

OLD = """
    UPDATE invoice_numbers SET last_number = 5;
    INSERT INTO users (id, email, name, company) VALUES ('{user}', 'ada@example.com', 'Ada', 'Engines');
    INSERT INTO user_credits (user_id) VALUES ('{user}');
    INSERT INTO subscription_plans (id, name, price, pricing_model) VALUES ('payg', 'payg', 0.02, 'usage');
    INSERT INTO subscriptions (id, user_id, plan_id, plan_version, status, current_period_start, current_period_end,
                               period_anchor)
    VALUES ('{subscription}', '{user}', 'payg', 1, 'active', '2026-06-01Z', '2026-07-01Z', '2026-06-01Z');
    INSERT INTO invoices (id, number, user_id, subscription_id, status, currency, subtotal, total, period_start,
                          period_end, issued_at)
    VALUES ('{invoice}', 1, '{user}', '{subscription}', 'open', 'USD', 0.20, 0.20, '2026-06-01Z', '2026-07-01Z',
            '2026-06-11Z');
    INSERT INTO invoices (id, number, user_id, status, currency, subtotal, total, issued_at, corrects_id)
    VALUES (gen_random_uuid(), 2, '{user}', 'open', 'USD', 0, 0, '2026-06-11Z', NULL),
           ('{credited}', 3, '{user}', 'open', 'USD', 5, 5, '2026-06-11Z', NULL),
           (gen_random_uuid(), 4, '{user}', 'paid', 'USD', -5, -5, '2026-06-11Z', '{credited}'),
           (gen_random_uuid(), 5, '{user}', 'paid', 'USD', 7, 7, '2026-06-11Z', NULL);
    INSERT INTO invoices (id, user_id, subscription_id, status, currency, subtotal, total, created_at, metadata)
    VALUES (gen_random_uuid(), '{user}', '{subscription}', 'draft', 'USD', 0, 0, '2026-06-21Z',
            '{{"since": "2026-06-11T00:00:00+00:00", "until": "2026-06-21T00:00:00+00:00", "unit_price": "0.05",
               "name": "dear"}}');
"""


@pytest.fixture
async def old_url(stores: Stores) -> AsyncIterator[str]:
    url = await databases.create(stores.database_url)
    await schema.upgrade(url, BEFORE)
    yield url
    await databases.remove(url)


async def test_invoices_of_before_are_settled_and_usage_goes_on_where_they_ended(old_url: str) -> None:
    ids = {name: str(uuid4()) for name in ("user", "subscription", "invoice", "credited")}
    old = await asyncpg.connect(old_url)
    await old.execute(OLD.format(**ids))
    await old.close()
    await schema.upgrade(old_url)
    database = Database(old_url)
    async with database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT number, status, amount_paid, amount_credited, buyer ->> 'company' FROM invoices ORDER BY 1")
        )
        assert [tuple(row) for row in rows] == [
            (1, "open", 0, 0, "Engines"),
            (2, "paid", 0, 0, "Engines"),
            (3, "paid", 0, 5, "Engines"),
            (4, "paid", 0, 0, "Engines"),
            (5, "paid", 7, 0, "Engines"),
            (None, "draft", 0, 0, None),
        ]
        mine = UUID(ids["subscription"])
        for at, credits in ((JUNE, 10), (THE_11TH, 20), (THE_21ST + timedelta(days=1), 30)):
            await used(connection, mine, at=at, credits_charged=credits)
        await renewals.advance(connection, mine, now=JULY, grace=timedelta(days=3))
        june = await closing.close_period(connection, mine, start=JUNE, issuer=Issuer(), now=JULY)
        assert june is not None
        assert amounts(june) == ["1.00", "0.60"]  # 20 at 0.05 and 30 at 0.02; the first 10 were invoiced
        assert (june.total, june.issued_at) == (Decimal("1.60"), datetime(2026, 7, 1, tzinfo=UTC))
    await database.close()
    await schema.downgrade(old_url, BEFORE)
    assert await schema.upgrade(old_url) == schema.head()
