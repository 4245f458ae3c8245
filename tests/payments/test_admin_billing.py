"""What operators do about money: see it, give it back, issue invoices, and have events acted on again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle, renewals
from policies.billing.issuing import Issuer
from tests.api.conftest import admin_app, client_of
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.test_stripe_lifecycle import deliver_all, subscribe_and_pay
from tests.support.pages import assert_closed_document, assert_closed_page


@dataclass(frozen=True)
class Operator:
    client: httpx.AsyncClient

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = await self.client.request(method, f"/admin/v1{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        return await self.call("GET", path)


@pytest.fixture
async def operator(stripe_stack: PaymentStack) -> AsyncIterator[Operator]:
    async def publish() -> None:
        return None

    checkout_service = replace(
        stripe_stack.checkout_service,
        process_event=stripe_stack.processor.process,
        issuer=Issuer(tax_rate=Decimal("0.19")),
    )
    app = admin_app(stripe_stack.database, publish, missing={}, checkout_service=checkout_service)
    async with client_of(app) as client:
        yield Operator(client)


async def test_pack_that_cost_nothing_cannot_be_refunded(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, operator: Operator
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.buy_pack(user)
    fake_stripe.enter_code(checkout.provider_checkout_id or "", off=500)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    payment = only(await stripe_stack.payments(user), "credits")
    wish = {"payment_id": str(payment.id), "reason": "goodwill"}
    assert "Nothing was paid" in (await operator.call("POST", "/refunds", wish, status=409))["detail"]


async def test_refund_reaches_the_provider_once_and_is_booked_at_once(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, operator: Operator
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    payment = only(await stripe_stack.payments(user), "subscription")
    wish = {"payment_id": str(payment.id), "amount": "10.00", "reason": "goodwill"}
    partly = await operator.call("POST", "/refunds", wish, status=201)
    assert (partly["status"], partly["refunded_amount"], partly["credits_withdrawn"]) == (
        "partially_refunded",
        "10.00",
        333,
    )
    too_much = await operator.call("POST", "/refunds", {**wish, "amount": "19.999"}, status=422)
    assert "at most 19.99" in too_much["detail"]
    wholly = await operator.call("POST", "/refunds", {**wish, "amount": None}, status=201)
    assert (wholly["status"], wholly["refunded_amount"]) == ("refunded", "29.99")
    assert (await operator.call("POST", "/refunds", wish, status=409))["code"] == "conflict"
    assert await stripe_stack.balance(user) == 0
    assert len((await operator.get("/refunds"))["data"]) == 2
    listed = await operator.get(f"/payments?user_id={user.id}&transaction_type=subscription")
    assert [row["id"] for row in listed["data"]] == [str(payment.id)]
    audited = await operator.get(f"/audit-log?entity_id={payment.id}")
    assert [row["action"] for row in audited["data"]] == ["payments.refund"] * 2


async def test_replayed_event_has_no_second_effect(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, operator: Operator
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    before = await stripe_stack.billing_state(user)
    events = (await operator.get("/webhook-events?status=processed&provider=stripe"))["data"]
    assert events
    replayed = await operator.call("POST", f"/webhook-events/{events[0]['id']}/replay")
    assert replayed["status"] == "processed"
    assert (await operator.get(f"/webhook-events/{events[0]['id']}"))["payload"]["object"] == "event"
    assert await stripe_stack.billing_state(user) == before


async def test_event_with_an_unknown_price_is_applied_by_a_replay_once_a_plan_has_it(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, operator: Operator
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)
    session = fake_stripe.objects[checkout.provider_checkout_id or ""]
    fake_stripe.prices["price_new"], session["_price"] = 2999, "price_new"
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await stripe_stack.deliver(*signed(fake_stripe.new_events()[-1], STRIPE_SECRETS[0]))
    await stripe_stack.processor.run_once()
    (failed,) = (await operator.get("/webhook-events?status=failed"))["data"]
    assert "price_new is the price of no plan" in failed["error_message"]
    await operator.call("PATCH", "/plans/pro", {"stripe_price_id": "price_new"})
    assert (await operator.call("POST", f"/webhook-events/{failed['id']}/replay"))["status"] == "processed"
    assert await stripe_stack.balance(user) == 1000


async def test_invoices_are_numbered_without_gaps_and_final(stripe_stack: PaymentStack, operator: Operator) -> None:
    made = [await create_manual_subscription(stripe_stack, price="9.99") for _ in range(6)]
    wishes = [{"subscription_id": each} for each in [*made, made[0], made[0]]]
    answers = await asyncio.gather(*(operator.client.post("/admin/v1/invoices", json=wish) for wish in wishes))
    assert sorted(answer.status_code for answer in answers) == [201] * 6 + [409] * 2
    issued = [answer.json() for answer in answers if answer.status_code == 201]
    assert sorted(each["number"] for each in issued) == [1, 2, 3, 4, 5, 6]
    first = issued[0]
    assert (first["subtotal"], first["tax"], first["total"], first["status"]) == ("9.99", "1.90", "11.89", "open")

    for change in ("total = total + 1, subtotal = subtotal + 1", "lines = '[]'", "number = 99", "status = 'draft'"):
        await assert_final(stripe_stack.database, f"UPDATE invoices SET {change} WHERE id = :id", first["id"])  # noqa: S608 - of the line above
    await assert_final(stripe_stack.database, "DELETE FROM invoices WHERE id = :id", first["id"])

    paid = await operator.call("POST", f"/invoices/{first['id']}/settle", {"status": "paid"})
    assert (paid["status"], paid["total"]) == ("paid", "11.89")
    assert (
        "only an open one"
        in (await operator.call("POST", f"/invoices/{first['id']}/settle", {"status": "void"}, status=409))["detail"]
    )
    note = await operator.call("POST", f"/invoices/{first['id']}/credit-note", status=201)
    assert (note["number"], note["total"], note["corrects_id"]) == (7, "-11.89", first["id"])
    await operator.call("POST", f"/invoices/{first['id']}/credit-note", status=409)
    second = await operator.call("POST", "/invoices", {"subscription_id": first["subscription_id"]}, status=409)
    assert "taken back by a credit note" in second["detail"]
    page = await operator.client.get(f"/admin/v1/invoices/{note['id']}/html")
    assert f"Credit note {note['full_number']}" in page.text
    assert_closed_page(page)
    file = await operator.client.get(f"/admin/v1/invoices/{note['id']}/pdf")
    assert file.content.startswith(b"%PDF-")
    assert_closed_document(file)


async def test_invoice_follows_the_pricing_model_of_its_plan(stripe_stack: PaymentStack, operator: Operator) -> None:
    tiers = (Tier(up_to=2, unit_price=Decimal(5)), Tier(up_to=None, unit_price=Decimal(4)))
    subscription = await create_manual_subscription(stripe_stack, price="0", model="tiered", tiers=tiers, quantity=5)
    made = await operator.call("POST", "/invoices", {"subscription_id": subscription, "tax_rate": "0"}, status=201)
    assert [(line["quantity"], line["amount"]) for line in made["lines"]] == [(2, "10.00"), (3, "12.00")]
    assert made["total"] == "22.00"


async def test_invoice_has_a_plan_change_once_and_customers_see_no_draft(
    stripe_stack: PaymentStack, operator: Operator
) -> None:
    mine = await create_manual_subscription(stripe_stack, price="100.00")
    await operator.call("POST", "/invoices", {"subscription_id": mine}, status=201)
    once = {"Idempotency-Key": "grow"}
    for _ in range(2):
        path = f"/admin/v1/subscriptions/{mine}/change"
        assert (await operator.client.post(path, json={"plan_id": "pro"}, headers=once)).status_code == 200
    (draft,) = (await operator.get("/invoices?status=draft"))["data"]
    assert draft["number"] is None
    async with stripe_stack.database.read() as connection:
        user = await users.get(connection, UUID(draft["user_id"]))
    assert user is not None
    async with await stripe_stack.client_for(user) as customer:
        assert len((await customer.get("/me/invoices")).json()["data"]) == 1
        assert (await customer.get(f"/me/invoices/{draft['id']}")).status_code == 404
        wish = {"subscription_id": mine}
        answers = await asyncio.gather(*(operator.client.post("/admin/v1/invoices", json=wish) for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
        (made,) = (answer.json() for answer in answers if answer.status_code == 201)
        assert [line["description"].split(",")[0] for line in made["lines"]] == ["Unused time", "Remaining time"]
        assert made["subtotal"] == draft["subtotal"]
        assert made["subtotal"].startswith("-70.0")
        assert made["tax_rate"] == "0.19"
        page = await customer.get(f"/me/invoices/{made['id']}/html")
        assert f"Credit note {made['full_number']}" in page.text
        assert_closed_page(page)
    settled = await operator.call("POST", f"/invoices/{made['id']}/settle", {"status": "void"})
    again = await operator.call("POST", "/invoices", wish, status=201)
    assert (settled["status"], again["lines"]) == ("void", made["lines"])


async def test_invoice_is_the_same_bytes_after_the_account_is_renamed_and_deleted(
    stripe_stack: PaymentStack, operator: Operator
) -> None:
    subscription = await create_manual_subscription(stripe_stack, price="9.99")
    async with stripe_stack.database.read() as connection:
        user_id = await connection.scalar(
            text("SELECT user_id FROM subscriptions WHERE id = :id"), {"id": subscription}
        )
    details = {"name": "Ada", "company": "Łódź S.A.", "billing_address": "1 Road\nLondon", "vat_id": "PL1234567890"}
    await operator.call("PATCH", f"/users/{user_id}", details)
    invoice = await operator.call("POST", "/invoices", {"subscription_id": subscription}, status=201)
    assert invoice["full_number"] == f"INV-{now():%Y}-{invoice['number']:06}"
    assert invoice["buyer"]["address"] == ["1 Road", "London"]

    async def documents() -> tuple[bytes, bytes]:
        found = [await operator.client.get(f"/admin/v1/invoices/{invoice['id']}/{form}") for form in ("html", "pdf")]
        assert [each.status_code for each in found] == [200, 200]
        name = f'inline; filename="Invoice-{invoice["full_number"]}.pdf"'
        assert found[1].headers["content-disposition"] == name
        return found[0].content, found[1].content

    before = await documents()
    assert "Łódź S.A." in before[0].decode()
    changes = {"name": "Eve", "company": "Other Co", "billing_address": None, "time_zone": "Asia/Tokyo"}
    await operator.call("PATCH", f"/users/{user_id}", changes)
    assert await documents() == before
    assert (await operator.client.delete(f"/admin/v1/users/{user_id}")).status_code == 204
    assert await documents() == before
    assert await operator.get(f"/invoices/{invoice['id']}") == invoice


async def test_credit_note_of_a_part_says_what_it_refuses(stripe_stack: PaymentStack, operator: Operator) -> None:
    subscription = await create_manual_subscription(stripe_stack, price="100.00")
    invoice = await operator.call("POST", "/invoices", {"subscription_id": subscription}, status=201)
    path = f"/invoices/{invoice['id']}/credit-note"
    note = await operator.call("POST", path, {"amount": "11.90", "reason": "goodwill"}, status=201)
    assert (note["subtotal"], note["tax"], note["total"], note["reason"]) == ("-10.00", "-1.90", "-11.90", "goodwill")
    after = await operator.get(f"/invoices/{invoice['id']}")
    assert (after["status"], after["amount_credited"], after["amount_due"]) == ("open", "11.90", "107.10")
    for body in ({"amount": "107.11"}, {"amount": "0"}, {"amount": "1.001"}, {"total": "5.00"}):
        await operator.call("POST", path, body, status=422)
    await operator.call("POST", path, status=201)
    closed = await operator.get(f"/invoices/{invoice['id']}")
    assert (closed["status"], closed["paid_at"], closed["amount_due"]) == ("paid", None, "0")
    page = await operator.client.get(f"/admin/v1/invoices/{note['id']}/html")
    assert f"Invoice {invoice['full_number']}" in page.text
    (_, entry, _) = (await operator.get(f"/audit-log?entity_id={invoice['id']}"))["data"]
    assert (entry["action"], entry["reason"]) == ("invoices.credit", "goodwill")


async def test_past_period_is_invoiced_by_its_start(stripe_stack: PaymentStack, operator: Operator) -> None:
    start = datetime(2026, 1, 15, tzinfo=UTC)
    subscription = await create_manual_subscription(stripe_stack, price="9.99", at=start)
    async with stripe_stack.database.transaction() as connection:
        await renewals.advance(connection, UUID(subscription), now=now(), grace=timedelta(days=3))
    wish = {"subscription_id": subscription, "period_start": "2026-01-15T00:00:00Z"}
    made = await operator.call("POST", "/invoices", wish, status=201)
    assert (made["subtotal"], made["period_end"]) == ("9.99", "2026-02-15T00:00:00Z")
    assert "was invoiced" in (await operator.call("POST", "/invoices", wish, status=409))["detail"]
    await operator.call("POST", "/invoices", {**wish, "period_start": "2026-01-16T00:00:00Z"}, status=404)


async def create_manual_subscription(
    stack: PaymentStack,
    *,
    price: str,
    model: Any = "flat",
    tiers: tuple[Tier, ...] = (),
    quantity: int = 1,
    at: datetime | None = None,
) -> str:
    """One that no provider bills."""
    user = await stack.create_user()
    async with stack.database.transaction() as connection:
        plan = await plans.create(
            connection,
            PlanTerms(name=f"Plan of {user.id}", price=Decimal(price), pricing_model=model, tiers=tiers),
            plan_id=f"plan-{user.id}",
        )
        begun = await lifecycle.start(connection, user.id, plan_id=plan.id, now=at or now(), quantity=quantity)
    return str(begun.id)


async def assert_final(database: Database, statement: str, invoice_id: str) -> None:
    with pytest.raises(IntegrityError, match="an issued invoice is final"):
        async with database.transaction() as connection:
            await connection.execute(text(statement), {"id": invoice_id})
