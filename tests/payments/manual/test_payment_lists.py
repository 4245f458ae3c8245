"""Payments by filter, in any order, summed, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.ledger.accounts import users
from gateway.ledger.db.session import Database
from gateway.ledger.payments import payments
from tests.api.conftest import admin_app, client_of

# provider, plan, type, status, amount, refunded, currency, day of 2026
ROWS = (
    ("stripe", "pro", "subscription", "completed", "29.99", "0", "USD", (1, 31)),
    ("stripe", "pro", "subscription", "partially_refunded", "29.99", "10.00", "USD", (2, 28)),
    ("stripe", "basic", "subscription", "failed", "9.99", "0", "USD", (2, 1)),
    ("lemon_squeezy", None, "credits", "completed", "5.00", "0", "USD", (2, 1)),
    ("lemon_squeezy", "pro", "subscription", "completed", "27.00", "0", "EUR", (2, 3)),
    ("stripe", "pro", "refund", "completed", "10.00", "0", "USD", (3, 1)),
)


@pytest.fixture
async def client(payments_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async def publish() -> None:
        return None

    async with payments_database.transaction() as connection:
        user = await users.create(connection, "ada@example.com")
        for number, (provider, plan, kind, status, amount, refunded, currency, (month, day)) in enumerate(ROWS):
            await payments.upsert(
                connection,
                provider,
                provider_payment_id=f"p{number}",
                user_id=user.id,
                plan_id=plan,
                transaction_type=kind,
                status=status,
                amount=Decimal(amount),
                refunded_amount=Decimal(refunded),
                currency=currency,
                description="=1+1",
                processed_at=datetime(2026, month, day, 23, 30, tzinfo=UTC),
            )
    app = admin_app(payments_database, publish, missing={})
    async with client_of(app) as found:
        yield found


async def get(client: httpx.AsyncClient, query: str, *, status: int = 200) -> Any:
    answer = await client.get(f"/admin/v1/payments?{query}")
    assert answer.status_code == status, answer.text
    return answer.json()["data"] if status == 200 else answer.json()


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("provider=stripe", [0, 1, 2, 5]),
        ("plan_id=basic", [2]),
        ("status=failed", [2]),
        ("currency=EUR", [4]),
        ("from=2026-02-01T00:00:00Z&to=2026-02-28T23:30:00Z", [2, 3, 4]),
        ("transaction_type=refund&provider=stripe", [5]),
        ("provider=manual", []),
    ],
)
async def test_payments_are_found_by_filter(client: httpx.AsyncClient, query: str, numbers: list[int]) -> None:
    found = await get(client, query)
    assert sorted(row["provider_payment_id"] for row in found) == [f"p{number}" for number in numbers]


async def test_payments_come_in_any_order_page_by_page(client: httpx.AsyncClient) -> None:
    amounts: list[Decimal] = []
    cursor = ""
    for _ in range(3):
        answer = (await client.get(f"/admin/v1/payments?sort=-amount&limit=2{cursor}")).json()
        amounts += [Decimal(row["amount"]) for row in answer["data"]]
        cursor = f"&cursor={answer['next_cursor']}"
    assert answer["next_cursor"] is None
    assert amounts == sorted((Decimal(row[4]) for row in ROWS), reverse=True)
    first = (await get(client, "sort=processed_at&limit=1"))[0]
    assert first["provider_payment_id"] == "p0"


async def test_sums_are_of_what_customers_paid_by_currency(client: httpx.AsyncClient) -> None:
    found = await get(client, "group_by=month")
    rows = [(row["month"], row["currency"], row["payments"], row["amount"], row["refunded_amount"]) for row in found]
    assert rows == [
        ("2026-01-01", "USD", 1, "29.99", "0"),
        ("2026-02-01", "EUR", 1, "27.00", "0"),
        ("2026-02-01", "USD", 3, "44.98", "10.00"),
    ]
    by_type = await get(client, "group_by=type&provider=stripe&status=completed")
    assert [(row["transaction_type"], row["amount"]) for row in by_type] == [
        ("refund", "10.00"),
        ("subscription", "29.99"),
    ]
    refunds = await get(client, "group_by=provider&transaction_type=refund")
    assert [(row["provider"], row["amount"]) for row in refunds] == [("stripe", "10.00")]


async def test_payments_are_a_csv_that_no_spreadsheet_evaluates(client: httpx.AsyncClient) -> None:
    answer = await client.get("/admin/v1/payments?provider=stripe&sort=amount", headers={"accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["amount"] for row in rows] == ["9.99", "10.00", "29.99", "29.99"]
    assert {row["description"] for row in rows} == {"'=1+1"}


async def test_sums_are_sorted_by_what_they_sum_and_exported(client: httpx.AsyncClient) -> None:
    found = await get(client, "group_by=status,provider&sort=-amount&currency=USD")
    assert [(row["status"], row["provider"], row["amount"]) for row in found] == [
        ("completed", "stripe", "29.99"),
        ("partially_refunded", "stripe", "29.99"),
        ("failed", "stripe", "9.99"),
        ("completed", "lemon_squeezy", "5.00"),
    ]
    answer = await client.get("/admin/v1/payments?group_by=provider&sort=payments&currency=USD&limit=1&format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["provider"], row["payments"], row["amount"]) for row in rows] == [
        ("lemon_squeezy", "1", "5.00"),
        ("stripe", "3", "69.97"),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "sort=user_id",
        "sort=payments",
        "group_by=day&sort=created_at",
        "group_by=hour",
        "group_by=day,,plan",
        "provider=",
    ],
)
async def test_unknown_orders_and_groups_are_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await get(client, query, status=422))["code"] == "validation_failed"
