"""Only the item of a plan is read and changed of a subscription that sells several things, and so with invoices."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import text

from gateway.ledger.accounts.users import User
from gateway.payments.stripe.objects import instant, read_invoice_payment
from policies.billing.invoicing import Period
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.stripe.fake.paged_lines import PagedLines
from tests.payments.stripe.test_scheduled_changes import ask
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


async def with_add_on(stack: PaymentStack, fake_stripe: FakeStripe, *, first: bool) -> tuple[User, str]:
    """A subscriber to `basic` whose subscription also bills the usage of another meter, and support."""
    fake_stripe.prices |= {"price_meter": 0, "price_support": 700}
    fake_stripe.metered.add("price_meter")
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user, plan="basic")
    fake_stripe.add_item(subscription_id, "price_support", first=first, quantity=4)
    fake_stripe.add_item(subscription_id, "price_meter", first=first, quantity=None)
    await deliver_all(stack, fake_stripe)
    return user, subscription_id


@pytest.mark.parametrize("first", [True, False])
async def test_items_that_sell_no_plan_are_ignored(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, first: bool
) -> None:
    user, subscription_id = await with_add_on(stripe_stack, fake_stripe, first=first)
    found = await current_subscription(stripe_stack, user)
    assert (found.plan_id, found.quantity, found.status) == ("basic", 1, "active")
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.billing_state(user)).granted == 200
    renewed = max(await stripe_stack.payments(user), key=lambda row: row.amount)
    assert (renewed.plan_id, renewed.credits_awarded, str(renewed.amount)) == ("basic", 100, "37.99")


@pytest.mark.parametrize("first", [True, False])
async def test_change_of_plan_leaves_other_items_as_they_are(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, first: bool
) -> None:
    user, subscription_id = await with_add_on(stripe_stack, fake_stripe, first=first)
    answer = await ask(stripe_stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["plan_id"], answer.json()["quantity"]) == (200, "pro", 1)
    items = {
        each["price"]["id"]: each.get("quantity") for each in fake_stripe.objects[subscription_id]["items"]["data"]
    }
    assert items == {"price_pro": 1, "price_support": 4, "price_meter": None}
    await deliver_all(stripe_stack, fake_stripe)
    assert 990 <= await stripe_stack.balance(user) <= 1000


async def test_subscription_to_two_plans_is_named_and_changes_nothing(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fake_stripe.add_item(subscription_id, "price_pro")
    answer = await ask(stripe_stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_refused")
    assert "2 items that sell a plan" in answer.json()["detail"]
    assert (await current_subscription(stripe_stack, user)).plan_id == "basic"


BEGAN, YEAR = 1_790_000_000, 365 * 86_400


def line(price: str, amount: int, *, is_proration: bool) -> dict[str, Any]:
    return {
        "amount": amount,
        "period": {"start": BEGAN, "end": BEGAN + YEAR},
        "parent": {"subscription_item_details": {"proration": is_proration}},
        "pricing": {"price_details": {"price": price}},
    }


def paid_period(*lines: dict[str, Any]) -> Period | None:
    total = sum(each["amount"] for each in lines)
    invoice = {
        "id": "in_1",
        "customer": "cus_1",
        "currency": "usd",
        "status": "paid",
        "billing_reason": "subscription_update",
        "amount_paid": total,
        "total": total,
        "subtotal": total,
        "lines": {"data": list(lines)},
        "parent": {"subscription_details": {"subscription": "sub_1"}},
    }
    return read_invoice_payment(invoice, intent=None, refunds=(), disputes=()).period


def test_change_to_another_interval_pays_for_a_whole_period() -> None:
    begins, ends = instant(BEGAN), instant(BEGAN + YEAR)
    assert begins
    assert ends
    found = paid_period(line("month", -999, is_proration=True), line("year", 9990, is_proration=False))
    assert found == Period(begins, ends)


def test_change_within_the_interval_pays_for_no_whole_period() -> None:
    assert paid_period(line("basic", -999, is_proration=True), line("pro", 2999, is_proration=True)) is None


@pytest.mark.parametrize("prorations", [12, 240])
async def test_renewal_of_many_prorations_pays_for_its_period_and_keeps_all_lines(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, prorations: int
) -> None:
    http: Any = stripe_stack.provider
    http._http._client_async = httpx.AsyncClient(transport=PagedLines(fake_stripe))
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    draft = fake_stripe.begin_renewal(subscription_id)
    item = fake_stripe.objects[subscription_id]["items"]["data"][0]
    added = [fake_stripe.line(item, 1 - 2 * (n % 2), is_proration=True) for n in range(prorations)]
    draft["lines"]["data"] = [*added, *draft["lines"]["data"]]
    fake_stripe.charge_renewal(draft)
    await deliver_all(stripe_stack, fake_stripe)
    rows = {row.provider_payment_id: row for row in await stripe_stack.payments(user)}
    assert (rows[draft["id"]].plan_id, rows[draft["id"]].credits_awarded) == ("pro", 1000)
    stored = text("SELECT jsonb_array_length(lines) FROM invoices WHERE provider_invoice_id = :id")
    async with stripe_stack.database.read() as connection:
        assert await connection.scalar(stored, {"id": draft["id"]}) == prorations + 1
    fake_stripe.refund(draft["id"])
    await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.billing_state(user)).balance == 1000


async def test_refund_of_each_payment_of_an_invoice_takes_its_share_back(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """An invoice may be paid in parts, after an attempt that was given up."""
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    invoice = fake_stripe.objects[fake_stripe.objects[subscription_id]["latest_invoice"]]
    parts = [fake_stripe.pay_intent(invoice["customer"], amount, metadata={}) for amount in (1000, 1999)]
    given_up = fake_stripe.open_intent(invoice, status="canceled")
    invoice["_payments"] = [
        {"id": f"inpay_{each['id']}", "status": status, "payment": {"payment_intent": each["id"]}}
        for each, status in ((given_up, "canceled"), (parts[0], "paid"), (parts[1], "paid"))
    ]
    for part, amount, balance in ((parts[1], 1500, 500), (parts[0], None, 167)):
        refund = fake_stripe._refund(part["id"], amount)
        fake_stripe.emit("charge.refunded", fake_stripe.objects[refund["charge"]])
        await deliver_all(stripe_stack, fake_stripe)
        assert await stripe_stack.balance(user) == balance
    row = next(each for each in await stripe_stack.payments(user) if each.transaction_type == "subscription")
    assert (str(row.refunded_amount), row.payment_method) == ("25.00", "card:visa")
