"""Money that an operator records pays invoices: in part, over, several; and goes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.db.session import Database
from gateway.ledger.invoicing import invoices
from gateway.ledger.invoicing.invoices import Invoice
from policies.billing.invoicing import Line
from policies.billing.issuing import Issuer
from tests.api.conftest import admin_app, client_of


@dataclass(frozen=True)
class Books:
    database: Database
    client: httpx.AsyncClient
    user: User

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = await self.client.request(method, f"/admin/v1{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def invoice(
        self, total: str, *, currency: str = "USD", user_id: UUID | None = None, plan_id: str | None = None
    ) -> str:
        line = Line("Plan", 1, Decimal(total), Decimal(total))
        async with self.database.transaction() as connection:
            made = await invoices.issue(
                connection,
                user_id or self.user.id,
                lines=[line],
                currency=currency,
                issuer=Issuer(),
                now=now(),
                plan_id=plan_id,
            )
        return str(made.id)

    async def pay(self, amount: str, *, status: int = 201, **more: Any) -> Any:
        body = {"user_id": str(self.user.id), "amount": amount, **more}
        return await self.call("POST", "/payments", body, status=status)

    async def state(self, invoice_id: str) -> tuple[str, str]:
        found = await self.call("GET", f"/invoices/{invoice_id}")
        return found["status"], found["amount_paid"]

    async def refund(self, payment: Any, amount: str | None, *, status: int = 201) -> Any:
        body = {"payment_id": payment["id"], "amount": amount, "reason": "asked for"}
        return await self.call("POST", "/refunds", body, status=status)

    async def assert_balanced(self) -> None:
        """What invoices are paid is what payments pay them; no payment pays more than it has."""
        query = text("""
            SELECT (SELECT coalesce(sum(amount_paid), 0) FROM invoices) = (SELECT coalesce(sum(amount), 0)
                      FROM payment_allocations)
               AND NOT EXISTS (SELECT FROM payment_transactions p
                                WHERE p.amount - p.refunded_amount < (SELECT coalesce(sum(a.amount), 0)
                                  FROM payment_allocations a WHERE a.payment_id = p.id))
        """)
        async with self.database.read() as connection:
            assert await connection.scalar(query)


@pytest.fixture
async def books(payments_database: Database) -> AsyncIterator[Books]:
    async def publish() -> None:
        return None

    async with payments_database.transaction() as connection:
        user = await users.create(connection, "ada@example.com")
    async with client_of(admin_app(payments_database, publish, missing={})) as client:
        made = Books(payments_database, client, user)
        yield made
        await made.assert_balanced()


async def test_transfer_pays_open_invoices_oldest_first(books: Books) -> None:
    first, second, third = [await books.invoice(total) for total in ("10.00", "20.00", "30.00")]
    paid = await books.pay("25.00", reference="SEPA-1", received_at="2026-11-20T00:00:00Z")
    assert paid["invoices"] == [
        {"invoice_id": first, "amount": "10.00"},
        {"invoice_id": second, "amount": "15.00"},
    ]
    assert (paid["unmatched_amount"], paid["provider"], paid["status"]) == ("0.00", "manual", "completed")
    assert [await books.state(each) for each in (first, second, third)] == [
        ("paid", "10.00"),
        ("open", "15.00"),
        ("open", "0"),
    ]
    assert (await books.call("GET", f"/payments/{paid['id']}"))["invoices"] == paid["invoices"]
    await books.pay("35.00")
    assert [await books.state(each) for each in (second, third)] == [("paid", "20.00"), ("paid", "30.00")]


async def test_what_is_over_stays_on_the_payment_and_can_be_matched_later(books: Books) -> None:
    first = await books.invoice("10.00")
    paid = await books.pay("50.00")
    assert paid["unmatched_amount"] == "40.00"
    second = await books.invoice("15.00")
    third = await books.invoice("99.00")
    path = f"/payments/{paid['id']}/match"
    some = await books.call("POST", path, {"invoices": [{"invoice_id": third, "amount": "5.00"}]})
    assert some["unmatched_amount"] == "35.00"
    all_of_it = await books.call("POST", path, {})
    assert all_of_it["unmatched_amount"] == "0.00"
    assert {each["invoice_id"]: each["amount"] for each in all_of_it["invoices"]} == {
        first: "10.00",
        second: "15.00",
        third: "25.00",
    }


async def test_named_invoices_are_paid_as_named(books: Books) -> None:
    first, second = await books.invoice("10.00"), await books.invoice("20.00")
    named = [{"invoice_id": second, "amount": "7.50"}, {"invoice_id": first}]
    paid = await books.pay("12.50", invoices=named)
    assert {each["invoice_id"]: each["amount"] for each in paid["invoices"]} == {second: "7.50", first: "5.00"}
    assert (await books.pay("1.00", invoices=[]))["unmatched_amount"] == "1.00"


async def test_money_that_does_not_fit_is_refused_and_nothing_is_recorded(books: Books) -> None:
    async with books.database.transaction() as connection:
        stranger = await users.create(connection, "eve@example.com")
    small = await books.invoice("10.00")
    others, euros = await books.invoice("10.00", user_id=stranger.id), await books.invoice("10.00", currency="EUR")
    for invoices_to_pay, status in (
        ([{"invoice_id": small, "amount": "10.01"}], 409),
        ([{"invoice_id": small, "amount": "60.00"}], 422),
        ([{"invoice_id": others}], 409),
        ([{"invoice_id": euros}], 409),
        ([{"invoice_id": str(uuid4())}], 404),
        ([{"invoice_id": small, "amount": "0"}], 422),
    ):
        await books.pay("50.00", invoices=invoices_to_pay, status=status)
    for amount in ("0", "1.001"):
        assert (await books.pay(amount, status=422))["errors"][0]["field"] == "amount"
    in_a_year = (now() + timedelta(days=365)).isoformat()
    assert (await books.pay("10.00", received_at=in_a_year, status=422))["errors"][0]["field"] == "received_at"
    assert (await books.call("GET", "/payments"))["data"] == []
    assert await books.state(small) == ("open", "0")


async def test_transfer_of_a_reference_is_recorded_once(books: Books) -> None:
    await books.invoice("10.00")
    await books.pay("10.00", reference="SEPA-7")
    assert "recorded already" in (await books.pay("10.00", reference="SEPA-7", status=409))["detail"]
    assert len((await books.call("GET", "/payments?provider=manual"))["data"]) == 1


async def test_refund_takes_what_is_over_first_and_then_opens_invoices_again(books: Books) -> None:
    first, second = await books.invoice("10.00"), await books.invoice("20.00")
    paid = await books.pay("35.00")
    partly = await books.refund(paid, "5.00")
    assert (partly["status"], partly["refunded_amount"]) == ("partially_refunded", "5.00")
    assert await books.state(second) == ("paid", "20.00")
    await books.refund(paid, "12.00")
    assert [await books.state(each) for each in (first, second)] == [("paid", "10.00"), ("open", "8.00")]
    assert (await books.refund(paid, "99.00", status=422))["code"] == "validation_failed"
    assert (await books.refund(paid, None))["status"] == "refunded"
    assert [await books.state(each) for each in (first, second)] == [("open", "0.00"), ("open", "0.00")]
    refunds = (await books.call("GET", "/refunds"))["data"]
    assert sorted(each["amount"] for each in refunds) == ["12.00", "18.00", "5.00"]
    assert {each["refers_to_id"] for each in refunds} == {paid["id"]}


async def test_money_of_a_credited_invoice_goes_back_and_leaves_it_paid(books: Books) -> None:
    credited, other = await books.invoice("30.00"), await books.invoice("5.00")
    paid = await books.pay("35.00")
    await books.call("POST", f"/invoices/{credited}/credit-note", {"amount": "12.00", "reason": "outage"}, status=201)
    await books.refund(paid, "12.00")
    assert [await books.state(each) for each in (credited, other)] == [("paid", "18.00"), ("paid", "5.00")]


async def test_settling_an_invoice_as_paid_records_the_payment(books: Books) -> None:
    invoice_id = await books.invoice("30.00")
    await books.pay("12.00")
    await books.call("POST", f"/invoices/{invoice_id}/settle", {"status": "paid"})
    assert await books.state(invoice_id) == ("paid", "30.00")
    amounts = [each["amount"] for each in (await books.call("GET", "/payments"))["data"]]
    assert sorted(amounts) == ["12.00", "18.00"]


async def test_invoice_that_was_given_up_stays_so_until_all_of_it_is_paid(books: Books) -> None:
    given_up = await books.invoice("10.00")
    await books.call("POST", f"/invoices/{given_up}/settle", {"status": "uncollectible"})
    part = await books.pay("4.00", invoices=[{"invoice_id": given_up}])
    assert await books.state(given_up) == ("uncollectible", "4.00")
    assert (await books.pay("1.00"))["unmatched_amount"] == "1.00", "no transfer pays it that does not name it"
    await books.refund(part, "1.00")
    assert await books.state(given_up) == ("uncollectible", "3.00")
    await books.call("POST", f"/invoices/{given_up}/settle", {"status": "paid"})
    assert await books.state(given_up) == ("paid", "10.00")
    await books.assert_balanced()


async def test_invoice_that_was_given_up_is_paid_by_a_transfer_of_all_of_it(books: Books) -> None:
    given_up = await books.invoice("10.00")
    await books.call("POST", f"/invoices/{given_up}/settle", {"status": "uncollectible"})
    paid = await books.pay("10.00", invoices=[{"invoice_id": given_up}])
    assert await books.state(given_up) == ("paid", "10.00")
    await books.refund(paid, None)
    assert await books.state(given_up) == ("open", "0.00")
    await books.call("POST", f"/invoices/{given_up}/settle", {"status": "uncollectible"})
    await books.call("POST", f"/invoices/{given_up}/credit-note", status=201)
    assert await books.state(given_up) == ("paid", "0.00")


async def test_money_is_revenue_of_the_plan_whose_invoice_it_pays(books: Books) -> None:
    await books.invoice("10.00", plan_id="basic")
    named = await books.invoice("20.00", plan_id="pro")
    await books.pay("20.00", invoices=[{"invoice_id": named}])
    transfer = await books.pay("10.00")
    early = await books.pay("3.00")
    settled = await books.invoice("5.00", plan_id="pro")
    await books.call("POST", f"/invoices/{settled}/settle", {"status": "paid"})
    await books.refund(transfer, "4.00")
    matched = await books.invoice("3.00", plan_id="pro")
    await books.call("POST", f"/payments/{early['id']}/match", {"invoices": [{"invoice_id": matched}]})
    await books.refund(early, "1.00")
    revenue = (await books.call("GET", "/reports/revenue"))["data"]
    assert {row["plan_id"]: (row["charged"], row["refunded"]) for row in revenue} == {
        "basic": ("10.00", "4.00"),
        "pro": ("25.00", "0"),
        None: ("3.00", "1.00"),
    }


async def test_only_payments_recorded_here_can_be_matched(books: Books) -> None:
    await books.call("POST", f"/payments/{uuid4()}/match", {}, status=404)
    paid = await books.pay("5.00")
    await books.refund(paid, "1.00")
    (refund,) = (await books.call("GET", "/refunds"))["data"]
    assert (await books.call("POST", f"/payments/{refund['id']}/match", {}, status=409))["code"] == "conflict"


async def test_of_two_refunds_at_once_one_is_refused(books: Books) -> None:
    paid = await books.pay("35.00")
    body = {"payment_id": paid["id"], "reason": "asked for"}
    both = await asyncio.gather(*(books.client.post("/admin/v1/refunds", json=body) for _ in range(2)))
    assert sorted(each.status_code for each in both) == [201, 409]


async def test_payments_of_the_same_invoices_in_another_order_wait_for_each_other(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await books.invoice("10.00"), await books.invoice("20.00")
    get_for_update, met, waited = invoices.get_for_update, asyncio.Barrier(2), set[asyncio.Task[Any] | None]()

    async def meet_after_the_first(connection: AsyncConnection, invoice_id: UUID) -> Invoice:
        found = await get_for_update(connection, invoice_id)
        if (task := asyncio.current_task()) not in waited:
            waited.add(task)
            with suppress(TimeoutError, asyncio.BrokenBarrierError):
                async with asyncio.timeout(0.5):
                    await met.wait()
        return found

    monkeypatch.setattr(invoices, "get_for_update", meet_after_the_first)
    orders = ([first, second], [second, first])
    named = [[{"invoice_id": each, "amount": "5.00"} for each in order] for order in orders]
    await asyncio.gather(*(books.pay("10.00", invoices=each) for each in named))
    assert [await books.state(each) for each in (first, second)] == [("paid", "10.00"), ("open", "10.00")]
