"""A second bookkeeping of credits, from what Stripe has alone: invoices, charges, and when items changed.

It shares no code with the gateway: a period that is paid for gives the credits of its price, a change that is paid for
those of the rest of the period, and a refund takes back its part of what the payment gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.payments.fake_stripe import FakeStripe

Object = dict[str, Any]


@dataclass
class SecondBooks:
    """`credits` are those of a period by price id, and by seat for those of `per_seat`; a pack has `pack_credits`."""

    world: FakeStripe
    credits: dict[str, int]
    per_seat: set[str] = field(default_factory=set)
    changes: dict[str, int] = field(default_factory=dict)
    pack_credits: int = 100

    def of_item(self, price_id: str, quantity: int) -> int:
        return self.credits[price_id] * (quantity if price_id in self.per_seat else 1)

    def record_change(self, before: Mapping[str, Any], after: Mapping[str, Any], invoice_id: str) -> None:
        """Of two items of one subscription, at this moment; the invoice is the one that the change made."""
        left = max(0, before["current_period_end"] - self.world.now)
        span = before["current_period_end"] - before["current_period_start"]
        had = self.of_item(before["price"]["id"], before.get("quantity", 1))
        has = self.of_item(after["price"]["id"], after.get("quantity", 1))
        self.changes[invoice_id] = (has - had) * left // span

    def given_for(self, invoice: Object) -> int:
        """What the invoice gives once it is paid; nothing for a change to less."""
        if invoice["billing_reason"] == "subscription_update":
            return max(0, self.changes.get(invoice["id"], 0))
        (line,) = invoice["lines"]["data"]
        return self.of_item(line["pricing"]["price_details"]["price"], line["quantity"])

    def paid_invoices(self, customer_id: str) -> list[Object]:
        return [each for each in self.world.list_all("invoice") if _is_paid(each, customer_id)]

    def paid_packs(self, customer_id: str) -> list[Object]:
        """The intents that pay no invoice."""
        found = self.world.list_all("payment_intent")
        return [each for each in found if each["metadata"] and each["customer"] == customer_id]

    def payments(self, customer_id: str) -> list[Object]:
        """Those of money."""
        return [each for each in self.paid_invoices(customer_id) if each["amount_paid"]] + self.paid_packs(customer_id)

    def given(self, customer_id: str) -> int:
        """By plans."""
        return sum(self.given_for(invoice) for invoice in self.paid_invoices(customer_id))

    def of_payments(self, customer_id: str) -> dict[str, tuple[int, int]]:
        """The credits that each payment of money gave, and how many of them refunds and disputes take back."""
        found = {}
        for payment in self.payments(customer_id):
            is_pack = payment["object"] == "payment_intent"
            gave = self.pack_credits if is_pack else self.given_for(payment)
            paid = int(payment["amount" if is_pack else "amount_paid"])
            price = paid if is_pack else int(payment["total"])  # of which balance paid the rest
            found[payment["id"]] = gave, gave * self._withdrawn(payment["id"], paid) // price
        return found

    def _withdrawn(self, payment_id: str, paid: int) -> int:
        charge = self.world.charge_of(payment_id)
        disputes = [each for each in self.world.list_all("dispute") if each["charge"] == charge["id"]]
        lost = sum(each["amount"] for each in disputes if each["status"] != "won")
        return min(paid, int(charge["amount_refunded"]) + int(lost))


def _is_paid(invoice: Object, customer_id: str) -> bool:
    return bool(invoice["customer"] == customer_id and invoice["status"] == "paid")
