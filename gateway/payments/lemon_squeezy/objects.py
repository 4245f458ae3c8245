"""Lemon Squeezy's JSON:API resources read into ours.

https://docs.lemonsqueezy.com/api: a subscription tells when it renews, not when its period began, and not whether it is
paid for; both are in its invoices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

from policies.billing.invoicing import Line, Period
from policies.billing.money import from_minor
from policies.billing.payments import (
    LEMON_SQUEEZY_EVENTS,
    LEMON_SQUEEZY_STATUSES,
    About,
    PaymentStatus,
    RemoteInvoice,
    RemotePayment,
    RemoteRefund,
    RemoteSubscription,
    Subject,
)
from policies.model import SubscriptionStatus

Resource = Mapping[str, Any]

# The name of our checkout's id in what we send.
REFERENCE = "gateway_checkout"

# Orders and subscription invoices are numbered each for itself.
ORDER_PREFIX, INVOICE_PREFIX = "order-", "invoice-"

_BILLED_PERIODS = frozenset({"initial", "renewal"})
_WAS_PAID = frozenset({"paid", "refunded", "partial_refund"})


def subject_of(event_name: str, found: Resource) -> Subject | None:
    about = LEMON_SQUEEZY_EVENTS.get(event_name)
    if about is About.INVOICE and found["type"] == "subscriptions":
        about = About.SUBSCRIPTION
    return None if about is None else Subject(about, str(found["id"]))


def read_subscription(found: Resource, invoices: Sequence[Resource]) -> RemoteSubscription:
    """With all of its invoices."""
    said = found["attributes"]
    status = LEMON_SQUEEZY_STATUSES[said["status"]]
    billed = _billed(invoices)
    is_trial = status is SubscriptionStatus.TRIALING
    trial = _period(said["created_at"], said.get("trial_ends_at"))
    is_paid = is_trial or bool(billed and billed[-1]["attributes"]["status"] in _WAS_PAID)
    began = billed[-1]["attributes"]["created_at"] if billed else None
    return RemoteSubscription(
        id=str(found["id"]),
        customer_id=str(said["customer_id"]),
        status=status,
        price_id=str(said["variant_id"]),
        quantity=(said.get("first_subscription_item") or {}).get("quantity") or 1,
        period=trial if is_trial else _period(began, said.get("ends_at") or said.get("renews_at")),
        is_paid=is_paid,
        cancel_at_period_end=said["status"] == "cancelled",
        trial=trial,
        email=said.get("user_email"),
    )


def read_invoices(found: Resource, invoices: Sequence[Resource]) -> tuple[RemotePayment, ...]:
    """The payments of a subscription; each period ends where the next begins."""
    said = found["attributes"]
    begins = [each["attributes"]["created_at"] for each in _billed(invoices)]
    ends: dict[str, Any] = dict(pairwise([*begins, said.get("ends_at") or said.get("renews_at")]))
    return tuple(_read_invoice(found, each, ends) for each in invoices)


def read_order(found: Resource) -> RemotePayment:
    """An order that began no subscription."""
    said = found["attributes"]
    currency = said["currency"].upper()
    item = said.get("first_order_item") or {}
    return RemotePayment(
        id=f"{ORDER_PREFIX}{found['id']}",
        customer_id=str(said["customer_id"]),
        subscription_id=None,
        status=_status(said["status"]),
        amount=from_minor(said["total"], currency),
        subtotal=from_minor(said["subtotal"] - (said.get("discount_total") or 0), currency),
        currency=currency,
        price_id=str(item.get("variant_id") or ""),
        refunds=_refunds(f"{ORDER_PREFIX}{found['id']}", said, currency),
        occurred_at=instant(said["created_at"]),
        email=said.get("user_email"),
    )


def instant(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)


def changed_at(found: Resource) -> datetime | None:
    return instant(found["attributes"].get("updated_at"))


def _billed(invoices: Sequence[Resource]) -> list[Resource]:
    """Those for a whole period, oldest first."""
    whole = [each for each in invoices if each["attributes"].get("billing_reason") in _BILLED_PERIODS]
    return sorted(whole, key=lambda each: (each["attributes"]["created_at"], int(each["id"])))


def _read_invoice(subscription: Resource, found: Resource, ends: Mapping[str, Any]) -> RemotePayment:
    said, owner = found["attributes"], subscription["attributes"]
    currency = said["currency"].upper()
    payment_id = f"{INVOICE_PREFIX}{found['id']}"
    is_whole = said.get("billing_reason") in _BILLED_PERIODS
    subtotal = from_minor(said["subtotal"] - (said.get("discount_total") or 0), currency)
    return RemotePayment(
        id=payment_id,
        customer_id=str(said.get("customer_id") or owner["customer_id"]),
        subscription_id=str(subscription["id"]),
        status=_status(said["status"]),
        amount=from_minor(said["total"], currency),
        subtotal=subtotal,
        currency=currency,
        price_id=str(owner["variant_id"]),
        period=_period(said["created_at"], ends.get(said["created_at"])) if is_whole else None,
        refunds=_refunds(payment_id, said, currency),
        method=f"card:{said['card_brand']}" if said.get("card_brand") else None,
        error="the payment failed" if said["status"] in ("void", "pending") and _is_overdue(owner) else None,
        occurred_at=instant(said["created_at"]),
        email=said.get("user_email"),
        invoice=_invoice(payment_id, said, subtotal, currency),
    )


def _status(status: str) -> PaymentStatus:
    if status in _WAS_PAID:
        return PaymentStatus.COMPLETED
    return PaymentStatus.FAILED if status in ("failed", "void", "fraudulent") else PaymentStatus.PENDING


def _is_overdue(subscription: Mapping[str, Any]) -> bool:
    return subscription["status"] in ("past_due", "unpaid")


def _refunds(payment_id: str, said: Mapping[str, Any], currency: str) -> tuple[RemoteRefund, ...]:
    """Refunds have no ids here, only a sum; where not even that, all was given back."""
    if not (said.get("refunded") or said.get("refunded_amount")):
        return ()
    back = said.get("refunded_amount") or said["total"]
    return (RemoteRefund(f"{payment_id}-refund", from_minor(back, currency), instant(said.get("refunded_at"))),)


def _invoice(payment_id: str, said: Mapping[str, Any], subtotal: Decimal, currency: str) -> RemoteInvoice:
    is_paid = said["status"] in _WAS_PAID
    return RemoteInvoice(
        id=payment_id,
        number=None,
        status="paid" if is_paid else "void" if said["status"] == "void" else "open",
        lines=(Line(f"Subscription ({said.get('billing_reason')})", 1, None, subtotal),),
        subtotal=subtotal,
        tax=from_minor(said["total"], currency) - subtotal,
        issued_at=instant(said["created_at"]),
        paid_at=instant(said.get("updated_at")) if is_paid else None,
        url=(said.get("urls") or {}).get("invoice_url"),
    )


def _period(start: str | None, end: str | None) -> Period | None:
    begins, ends = instant(start), instant(end)
    return Period(begins, ends) if begins and ends and begins < ends else None
