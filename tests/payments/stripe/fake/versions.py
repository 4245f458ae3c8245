"""Objects as API versions before 2026-10-28 have them, in what the gateway reads.

Until acacia (2025-02-24) the period was on the subscription and not on its items, an invoice named its subscription
and its payment intent, a charge its invoice, and lines had a price and `proration` of their own. Clover (2025-09-30)
has the modes of billing that basil (2025-03-31) lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Object = dict[str, Any]

ENDIVE, CLOVER = "2026-10-28.endive", "2025-09-30.clover"
BASIL, ACACIA = "2025-03-31.basil", "2025-02-24.acacia"
_PERIOD = ("current_period_start", "current_period_end")


def in_version(version: str, found: Any, invoice_of: Callable[[Object], str | None]) -> Any:
    """A copy without private fields; `invoice_of` finds the invoice that a charge paid."""
    if isinstance(found, list):
        return [in_version(version, each, invoice_of) for each in found]
    if not isinstance(found, dict):
        return found
    shown = {name: in_version(version, value, invoice_of) for name, value in found.items() if name[:1] != "_"}
    kind = found.get("object")
    if kind == "subscription" and version >= CLOVER:
        shown["billing_mode"] = {"type": "flexible"}
    if version >= BASIL:
        return shown
    if kind == "subscription":
        _move_period(shown)
    elif kind == "invoice":
        _name_subscription(shown, found)
    elif kind == "line_item":
        _price_line(shown)
    elif kind == "charge":
        shown["invoice"] = invoice_of(found)
    return shown


def _move_period(subscription: Object) -> None:
    items = subscription["items"]["data"]
    for name in _PERIOD:
        subscription[name] = items[0][name]
    for item in items:
        for name in _PERIOD:
            del item[name]


def _name_subscription(invoice: Object, found: Object) -> None:
    invoice["subscription"] = invoice.pop("parent")["subscription_details"]["subscription"]
    paying = [each["payment"]["payment_intent"] for each in found.get("_payments", ())]
    invoice["payment_intent"] = paying[0] if paying else None
    invoice["paid"] = invoice["status"] == "paid"


def _price_line(line: Object) -> None:
    line["price"] = {"id": line.pop("pricing")["price_details"]["price"], "object": "price"}
    line["proration"] = line.pop("parent")["subscription_item_details"]["proration"]
