"""Parses Lemon Squeezy's JSON:API resources.

https://docs.lemonsqueezy.com/api: a subscription has its renewal time, but neither the start of its period nor whether
that is paid for; both are in its invoices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from gateway.payments.provider import Discount, ProviderRefused
from policies.billing.invoicing import Line, Period, PriceTier
from policies.billing.money import from_minor, to_minor
from policies.billing.payments import (
    PaymentStatus,
    RemoteInvoice,
    RemotePayment,
    RemoteRefund,
    RemoteSubscription,
)
from policies.billing.price_checks import RemotePrice
from policies.model import SubscriptionStatus

Resource = Mapping[str, Any]

# The custom field that carries the gateway's checkout id.
REFERENCE = "gateway_checkout"

# Orders and subscription invoices have separate sequences of ids.
ORDER_PREFIX, INVOICE_PREFIX = "order-", "invoice-"

# https://docs.lemonsqueezy.com/api/subscriptions/the-subscription-object: a cancelled one runs until `ends_at`.
_STATUSES: Mapping[str, SubscriptionStatus] = MappingProxyType(
    {
        "on_trial": SubscriptionStatus.TRIALING,
        "active": SubscriptionStatus.ACTIVE,
        "cancelled": SubscriptionStatus.ACTIVE,
        "paused": SubscriptionStatus.PAUSED,
        "past_due": SubscriptionStatus.PAST_DUE,
        "unpaid": SubscriptionStatus.PAUSED,
        "expired": SubscriptionStatus.EXPIRED,
    }
)
_BILLED_PERIODS = frozenset({"initial", "renewal"})
_PAID = frozenset({"paid", "refunded", "partial_refund"})


def read_price(found: Mapping[str, Any]) -> RemotePrice:
    """Its currency is that of the store, so it is not told here, and the amount is in hundredths."""
    unit, count = found.get("renewal_interval_unit"), found.get("renewal_interval_quantity")
    is_tiered = found.get("scheme") in ("graduated", "volume")
    return RemotePrice(
        amount=None if is_tiered or found.get("unit_price") is None else Decimal(found["unit_price"]).scaleb(-2),
        currency=None,
        interval=(unit, count or 1) if unit else None,
        is_metered=found.get("usage_aggregation") is not None,
        tiers=tuple(_tier(each) for each in found.get("tiers") or ()) if is_tiered else (),
        tiers_mode=found.get("scheme") if is_tiered else None,
    )


def _tier(found: Mapping[str, Any]) -> PriceTier:
    last = found["last_unit"]
    unit_price = found.get("unit_price_decimal") or found.get("unit_price") or 0
    parts = (Decimal(each).scaleb(-2) for each in (unit_price, found.get("fixed_fee") or 0))
    return PriceTier(None if last == "inf" else int(last), *parts)


def read_subscription(found: Resource, invoices: Sequence[Resource]) -> RemoteSubscription:
    """Of a subscription with all of its invoices."""
    attributes = found["attributes"]
    status = _STATUSES[attributes["status"]]
    billed = _billed(invoices)
    is_trial = status is SubscriptionStatus.TRIALING
    trial = _period(attributes["created_at"], attributes.get("trial_ends_at"))
    is_paid = is_trial or bool(billed and billed[-1]["attributes"]["status"] in _PAID)
    began = billed[-1]["attributes"]["created_at"] if billed else None
    return RemoteSubscription(
        id=str(found["id"]),
        customer_id=str(attributes["customer_id"]),
        status=status,
        price_id=str(attributes["variant_id"]),
        quantity=(attributes.get("first_subscription_item") or {}).get("quantity") or 1,
        period=trial if is_trial else _period(began, attributes.get("ends_at") or attributes.get("renews_at")),
        is_paid=is_paid,
        cancel_at_period_end=attributes["status"] == "cancelled",
        trial=trial,
        email=attributes.get("user_email"),
    )


def read_invoices(found: Resource, invoices: Sequence[Resource]) -> tuple[RemotePayment, ...]:
    """The payments of a subscription; a period ends where the next begins."""
    attributes = found["attributes"]
    begins = [each["attributes"]["created_at"] for each in _billed(invoices)]
    ends: dict[str, Any] = dict(pairwise([*begins, attributes.get("ends_at") or attributes.get("renews_at")]))
    return tuple(_read_invoice(found, each, ends) for each in invoices)


def read_order(found: Resource) -> RemotePayment:
    """An order outside any subscription."""
    attributes = found["attributes"]
    currency = attributes["currency"].upper()
    item = attributes.get("first_order_item") or {}
    return RemotePayment(
        id=f"{ORDER_PREFIX}{found['id']}",
        customer_id=str(attributes["customer_id"]),
        subscription_id=None,
        status=_status(attributes["status"]),
        amount=from_minor(attributes["total"], currency),
        subtotal=from_minor(_full_price(attributes), currency),
        currency=currency,
        price_id=str(item.get("variant_id") or ""),
        refunds=_refunds(f"{ORDER_PREFIX}{found['id']}", attributes, currency),
        occurred_at=instant(attributes["created_at"]),
        email=attributes.get("user_email"),
    )


def write_discount(discount: Discount) -> tuple[str, dict[str, Any]]:
    """The code of a discount, and its attributes; codes have capitals and digits only.

    https://docs.lemonsqueezy.com/api/discounts/create-discount. Raises ProviderRefused for a part of a percent.
    """
    percent, code = discount.percent_off, re.sub("[^A-Z0-9]", "", discount.code)
    if percent is not None and percent != int(percent):
        reason = f"Lemon Squeezy takes off whole percents only, and not {percent}"
        raise ProviderRefused(reason)
    off = to_minor(discount.amount_off or Decimal(0), discount.currency) if percent is None else int(percent)
    duration: dict[str, Any] = {"duration": "once"}
    if discount.months is not None:
        duration = {"duration": "repeating", "duration_in_months": discount.months}
    return code, {
        "name": discount.name,
        "code": code,
        "amount": off,
        "amount_type": "fixed" if percent is None else "percent",
        "is_limited_to_products": True,
        "is_limited_redemptions": True,
        "max_redemptions": 1,
        "expires_at": written(discount.expires_at),
        **duration,
    }


def written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def instant(text: str | None) -> datetime | None:
    """In UTC, which a time without a zone is taken for. Raises ValueError and OverflowError for what is no time."""
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def changed_at(found: Resource) -> datetime | None:
    return instant(found["attributes"].get("updated_at"))


def _billed(invoices: Sequence[Resource]) -> list[Resource]:
    """The invoices for a whole period, oldest first."""
    whole = [each for each in invoices if each["attributes"].get("billing_reason") in _BILLED_PERIODS]
    return sorted(whole, key=lambda each: (each["attributes"]["created_at"], int(each["id"])))


def _read_invoice(subscription: Resource, found: Resource, ends: Mapping[str, Any]) -> RemotePayment:
    attributes, owner = found["attributes"], subscription["attributes"]
    currency = attributes["currency"].upper()
    payment_id = f"{INVOICE_PREFIX}{found['id']}"
    is_whole = attributes.get("billing_reason") in _BILLED_PERIODS
    subtotal = from_minor(_without_tax(attributes), currency)
    return RemotePayment(
        id=payment_id,
        customer_id=str(attributes.get("customer_id") or owner["customer_id"]),
        subscription_id=str(subscription["id"]),
        status=_status(attributes["status"]),
        amount=from_minor(attributes["total"], currency),
        subtotal=subtotal,
        currency=currency,
        price_id=str(owner["variant_id"]),
        period=_period(attributes["created_at"], ends.get(attributes["created_at"])) if is_whole else None,
        refunds=_refunds(payment_id, attributes, currency),
        method=f"card:{attributes['card_brand']}" if attributes.get("card_brand") else None,
        error="the payment failed" if attributes["status"] in ("void", "pending") and _is_overdue(owner) else None,
        occurred_at=instant(attributes["created_at"]),
        email=attributes.get("user_email"),
        invoice=_invoice(payment_id, attributes, subtotal, currency),
    )


def _full_price(attributes: Mapping[str, Any]) -> int:
    """Before discounts, and before tax unless the prices of the store include it."""
    if not attributes.get("tax_inclusive"):
        return int(attributes["subtotal"])
    return int(attributes["total"] + (attributes.get("discount_total") or 0))


def _without_tax(attributes: Mapping[str, Any]) -> int:
    """After discounts; the subtotal includes the tax, or not, as the prices of the store do."""
    if attributes.get("tax_inclusive"):
        return int(attributes["total"] - (attributes.get("tax") or 0))
    return int(attributes["subtotal"] - (attributes.get("discount_total") or 0))


def _status(status: str) -> PaymentStatus:
    if status in _PAID:
        return PaymentStatus.COMPLETED
    return PaymentStatus.FAILED if status in ("failed", "void", "fraudulent") else PaymentStatus.PENDING


def _is_overdue(subscription: Mapping[str, Any]) -> bool:
    return subscription["status"] in ("past_due", "unpaid")


def _refunds(payment_id: str, attributes: Mapping[str, Any], currency: str) -> tuple[RemoteRefund, ...]:
    """Refunds have no ids here, only a sum; without a sum the whole amount was refunded."""
    if not (attributes.get("refunded") or attributes.get("refunded_amount")):
        return ()
    amount = attributes.get("refunded_amount") or attributes["total"]
    return (RemoteRefund(f"{payment_id}-refund", from_minor(amount, currency), instant(attributes.get("refunded_at"))),)


def _invoice(payment_id: str, attributes: Mapping[str, Any], subtotal: Decimal, currency: str) -> RemoteInvoice:
    is_paid = attributes["status"] in _PAID
    return RemoteInvoice(
        id=payment_id,
        number=None,
        status="paid" if is_paid else "void" if attributes["status"] == "void" else "open",
        lines=(Line(f"Subscription ({attributes.get('billing_reason')})", 1, None, subtotal),),
        subtotal=subtotal,
        tax=from_minor(attributes["total"], currency) - subtotal,
        issued_at=instant(attributes["created_at"]),
        paid_at=instant(attributes.get("updated_at")) if is_paid else None,
        url=(attributes.get("urls") or {}).get("invoice_url"),
    )


def _period(start: str | None, end: str | None) -> Period | None:
    begins, ends = instant(start), instant(end)
    return Period(begins, ends) if begins and ends and begins < ends else None
