"""Invoices by filter, in any order, summed, and as CSV."""

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
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db.session import Database
from gateway.ledger.invoicing import credit_notes, invoices
from policies.billing.invoicing import Line
from policies.billing.issuing import Issuer
from tests.api.conftest import admin_app, client_of

# plan, currency, amount, day of 2026, what became of it
ROWS = (
    ("pro", "USD", "100.00", (1, 31), "open"),
    ("basic", "USD", "10.00", (2, 1), "paid"),
    ("pro", "USD", "50.00", (2, 28), "void"),
    ("pro", "JPY", "5000", (3, 1), "open"),
)
ISSUER = Issuer(tax_rate=Decimal("0.1"))


@pytest.fixture
async def client(own_database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async def publish() -> None:
        return None

    database = Database(own_database_url)
    async with database.transaction() as connection:
        user = await users.create(connection, "ada@example.com", name="Ada", company="=1+1")
        for plan_id in ("basic", "pro"):
            await plans.create(connection, PlanTerms(name=plan_id, price=Decimal(1)))
        for plan_id, currency, amount, (month, day), status in ROWS:
            at = datetime(2026, month, day, 23, 30, tzinfo=UTC)
            line = Line("Plan", 1, Decimal(amount), Decimal(amount))
            made = await invoices.issue(
                connection, user.id, lines=[line], currency=currency, issuer=ISSUER, now=at, plan_id=plan_id
            )
            if status != "open":
                await invoices.close(connection, made.id, status=status, now=at)
        first = await invoices.list_for_user(connection, user.id)
        oldest = next(each for each in first.data if each.number == 1)
        await credit_notes.issue(
            connection, oldest, issuer=ISSUER, now=datetime(2026, 3, 2, tzinfo=UTC), amount=Decimal("11.00")
        )
    async with client_of(admin_app(database, publish, missing={})) as found:
        yield found
    await database.close()


async def listed(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/admin/v1/invoices{query}")
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("?plan_id=basic", [2]),
        ("?status=open", [4, 1]),
        ("?currency=JPY", [4]),
        ("?number=3", [3]),
        ("?number=INV-2026-000003", [3]),
        ("?from=2026-02-01T23:30:00Z&to=2026-03-01T23:30:00Z", [3, 2]),
        ("?sort=total", [5, 2, 3, 1, 4]),
        ("?sort=-total", [4, 1, 3, 2, 5]),
        ("?sort=-amount_due&status=open", [4, 1]),
        ("?sort=issued_at", [1, 2, 3, 4, 5]),
        ("?sort=number&status=paid", [2, 5]),
        ("?provider=stripe", []),
    ],
)
async def test_list_filters_and_sorts(client: httpx.AsyncClient, query: str, numbers: list[int]) -> None:
    found = [row["number"] for row in await listed(client, query)]
    assert found == numbers if "sort" in query else sorted(found) == sorted(numbers)


async def test_sorted_list_goes_on_where_a_page_ended(client: httpx.AsyncClient) -> None:
    found: list[int] = []
    cursor = ""
    while True:
        page = (await client.get(f"/admin/v1/invoices?sort=-number&limit=2{cursor}")).json()
        found += [row["number"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == [5, 4, 3, 2, 1]


async def test_sums_are_of_what_was_asked_for_by_currency(client: httpx.AsyncClient) -> None:
    sums = await listed(client, "?group_by=status")
    kept = ("status", "currency", "invoices", "total", "amount_paid", "amount_credited", "amount_due")
    assert [tuple(row[name] for name in kept) for row in sums] == [
        ("open", "JPY", 1, "5500", "0", "0", "5500"),
        ("open", "USD", 1, "110.00", "0", "11.00", "99.00"),
        ("paid", "USD", 2, "0.00", "11.00", "0", "0"),
        ("void", "USD", 1, "55.00", "0", "0", "0"),
    ]
    by_month = await listed(client, "?group_by=month,plan&currency=USD")
    assert [(row["month"], row["plan_id"], row["subtotal"], row["tax"], row["total"]) for row in by_month] == [
        ("2026-01-01", "pro", "100.00", "10.00", "110.00"),
        ("2026-02-01", "basic", "10.00", "1.00", "11.00"),
        ("2026-03-01", "pro", "-10.00", "-1.00", "-11.00"),
    ]


async def test_csv_has_every_invoice_and_no_formula(client: httpx.AsyncClient) -> None:
    answer = await client.get("/admin/v1/invoices?sort=number&limit=1", headers={"accept": "text/csv"})
    assert answer.headers["content-disposition"] == 'attachment; filename="invoices.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["number"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert {row["buyer_company"] for row in rows} == {"'=1+1"}
    assert (rows[0]["full_number"], rows[0]["total"], rows[0]["amount_due"]) == ("INV-2026-000001", "110.00", "99.00")


async def test_sums_are_sorted_by_what_is_due_and_exported(client: httpx.AsyncClient) -> None:
    query = "?group_by=status&currency=USD&sort=-amount_due"
    assert [row["status"] for row in await listed(client, query)] == ["open", "paid", "void"]
    rows = list(csv.DictReader(io.StringIO((await client.get(f"/admin/v1/invoices{query}&format=csv")).text)))
    assert [(row["status"], row["amount_due"]) for row in rows] == [("open", "99.00"), ("paid", "0"), ("void", "0")]


@pytest.mark.parametrize(
    "query",
    [
        "?sort=colour",
        "?sort=invoices",
        "?group_by=status&sort=number",
        "?group_by=colour",
        "?status=late",
        "?colour=red",
    ],
)
async def test_unknown_filters_are_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/admin/v1/invoices{query}")).status_code == 422
