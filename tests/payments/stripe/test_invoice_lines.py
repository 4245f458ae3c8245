"""What an invoice of Stripe pays for, by its lines."""

from __future__ import annotations

from typing import Any

from gateway.payments.stripe.objects import instant, read_invoice_payment
from policies.billing.invoicing import Period

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
    return read_invoice_payment(invoice, charge=None, refunds=(), disputes=()).period


def test_change_to_another_interval_pays_for_a_whole_period() -> None:
    begins, ends = instant(BEGAN), instant(BEGAN + YEAR)
    assert begins
    assert ends
    found = paid_period(line("month", -999, is_proration=True), line("year", 9990, is_proration=False))
    assert found == Period(begins, ends)


def test_change_within_the_interval_pays_for_no_whole_period() -> None:
    assert paid_period(line("basic", -999, is_proration=True), line("pro", 2999, is_proration=True)) is None
