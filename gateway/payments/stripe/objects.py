"""Parses Stripe's objects of older and newer API versions, which have periods and links in different places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from policies.billing.invoicing import Line, Period, PriceTier
from policies.billing.money import EXACT, exponent
from policies.billing.payments import (
    DisputeStatus,
    PaymentStatus,
    RemoteCheckout,
    RemoteDispute,
    RemoteInvoice,
    RemoteItem,
    RemotePayment,
    RemoteRefund,
    RemoteSubscription,
    SoldLine,
)
from policies.billing.price_checks import RemotePrice
from policies.model import SubscriptionStatus

Object = Mapping[str, Any]

# The metadata field that carries the gateway's checkout id.
REFERENCE = "gateway_checkout"

# Where Stripe's smallest unit is not that of ISO 4217: https://docs.stripe.com/currencies#special-cases
_DIGITS: Mapping[str, int] = MappingProxyType({"ISK": 2, "UGX": 2, "MGA": 0})

# https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses. An unpaid subscription gives no access
# until it is paid, which is what paused means here.
_STATUSES: Mapping[str, SubscriptionStatus] = MappingProxyType(
    {
        "incomplete": SubscriptionStatus.INCOMPLETE,
        "incomplete_expired": SubscriptionStatus.EXPIRED,
        "trialing": SubscriptionStatus.TRIALING,
        "active": SubscriptionStatus.ACTIVE,
        "past_due": SubscriptionStatus.PAST_DUE,
        "unpaid": SubscriptionStatus.PAUSED,
        "paused": SubscriptionStatus.PAUSED,
        "canceled": SubscriptionStatus.CANCELED,
    }
)
_TIER_PARTS = ("unit_amount", "flat_amount")
_DISPUTES_WON = frozenset({"won", "prevented"})
_WHOLE_PERIOD = frozenset({"subscription_create", "subscription_cycle"})


def read_subscription(found: Object, payment: RemotePayment | None) -> RemoteSubscription:
    """Of an object with `schedule` expanded, and the payment of its latest invoice for a whole period."""
    items = tuple(_item(found, each) for each in data(found.get("items")) or [{}])
    status = _STATUSES[found["status"]]
    return RemoteSubscription(
        id=found["id"],
        customer_id=id_of(found["customer"]),
        status=status,
        price_id=items[0].price_id,
        quantity=items[0].quantity,
        period=items[0].period,
        is_paid=status == "trialing" or payment is None or payment.status is PaymentStatus.COMPLETED,
        is_pending=_is_pending(found, payment),
        cancel_at_period_end=bool(found.get("cancel_at_period_end")),
        cancel_at=instant(found.get("cancel_at")),
        trial=_period(found.get("trial_start"), found.get("trial_end")),
        reference=(found.get("metadata") or {}).get(REFERENCE),
        items=items,
        next_items=tuple(
            RemoteItem(price_of_item(each), each.get("quantity") or 1) for each in next_phase(found.get("schedule"))
        ),
    )


def _item(subscription: Object, item: Object) -> RemoteItem:
    """Older API versions have period, price and quantity on the subscription."""
    names = ("current_period_start", "current_period_end")
    return RemoteItem(
        price_id=price_of_item(item) or id_of(subscription.get("plan")),
        quantity=item.get("quantity") or subscription.get("quantity") or 1,
        period=_period(*(item.get(name) or subscription.get(name) for name in names)),
    )


def next_phase(schedule: Any) -> list[Object]:
    """The items of the phase after the present one, where a schedule has one."""
    if not isinstance(schedule, Mapping) or schedule.get("status") != "active":
        return []
    ends_at = (schedule.get("current_phase") or {}).get("end_date")
    for phase in schedule.get("phases") or ():
        if ends_at is not None and phase["start_date"] >= ends_at:
            return list(phase["items"])
    return []


def read_invoice_payment(
    invoice: Object, *, intent: Object | None, refunds: Iterable[Object], disputes: Iterable[Object]
) -> RemotePayment:
    """Of the intent that pays it, with `latest_charge` expanded."""
    charge = charge_of(intent or {})
    currency = invoice["currency"].upper()
    is_paid = invoice["status"] == "paid"
    lines = _sold(invoice, currency)
    return RemotePayment(
        id=invoice["id"],
        customer_id=id_of(invoice["customer"]),
        subscription_id=subscription_of(invoice) or None,
        status=_status_of_invoice(invoice, intent),
        amount=amount(invoice.get("amount_paid" if is_paid else "amount_due"), currency),
        subtotal=_subtotal(invoice, currency),
        currency=currency,
        price_id=lines[0].price_id if lines else None,
        period=lines[0].period if lines else None,
        lines=lines,
        refunds=_refunds(refunds, currency),
        disputes=_disputes(disputes, currency),
        method=_method(charge),
        error=(charge or {}).get("failure_message"),
        occurred_at=instant(invoice.get("created") or invoice.get("date")),
        invoice=_invoice(invoice, currency),
    )


def read_intent_payment(intent: Object, *, refunds: Iterable[Object], disputes: Iterable[Object]) -> RemotePayment:
    """A payment outside a subscription, of an intent with `latest_charge` expanded."""
    currency = intent["currency"].upper()
    total = amount(intent["amount"], currency)
    failure = intent.get("last_payment_error") or {}
    return RemotePayment(
        id=intent["id"],
        customer_id=id_of(intent.get("customer")),
        subscription_id=None,
        status=_status_of_intent(intent),
        amount=total,
        subtotal=total,
        currency=currency,
        refunds=_refunds(refunds, currency),
        disputes=_disputes(disputes, currency),
        method=_method(charge_of(intent)),
        error=failure.get("message"),
        occurred_at=instant(intent.get("created")),
        reference=(intent.get("metadata") or {}).get(REFERENCE),
    )


def read_checkout(session: Object, payments: Iterable[RemotePayment] = ()) -> RemoteCheckout:
    """With the payments that it led to. A debit takes days after the session is complete, and may fail."""
    is_unpaid = session["status"] == "complete" and session.get("payment_status") == "unpaid"
    has_failed = is_unpaid and {each.status for each in payments} == {PaymentStatus.FAILED}
    return RemoteCheckout(
        session["id"],
        session.get("client_reference_id") or "",
        is_over=session["status"] == "expired" or has_failed,
        is_complete=session["status"] == "complete" and not is_unpaid,
    )


def read_free_checkout(session: Object) -> tuple[RemotePayment, ...]:
    """The payment of nothing for a pack whose price a promotion code took off; empty for any other checkout."""
    outcome = session.get("mode"), session["status"], session.get("payment_status")
    if outcome != ("payment", "complete", "no_payment_required"):
        return ()
    currency = session["currency"].upper()
    return (
        RemotePayment(
            id=session["id"],
            customer_id=id_of(session.get("customer")),
            subscription_id=None,
            status=PaymentStatus.COMPLETED,
            amount=Decimal(0),
            subtotal=amount(session.get("amount_subtotal"), currency),
            currency=currency,
            occurred_at=instant(session.get("created")),
            reference=session.get("client_reference_id"),
        ),
    )


def read_price(found: Object) -> RemotePrice:
    currency, recurring = found["currency"].upper(), found.get("recurring") or {}
    exact = found.get("unit_amount_decimal")  # in minor units too, but perhaps a fraction of one
    digits = _DIGITS.get(currency, exponent(currency))
    return RemotePrice(
        amount=None if exact is None else Decimal(exact).scaleb(-digits, EXACT),
        currency=currency,
        interval=(recurring["interval"], recurring.get("interval_count") or 1) if recurring else None,
        is_metered=recurring.get("usage_type") == "metered",
        is_active=bool(found.get("active", True)),
        tiers=_tiers(found, digits),
        tiers_mode=found.get("tiers_mode"),
    )


def _tiers(price: Object, digits: int) -> tuple[PriceTier, ...] | None:
    """None where they were not expanded."""
    if price.get("billing_scheme") != "tiered":
        return ()
    found = price.get("tiers")
    if found is None:
        return None
    return tuple(PriceTier(each.get("up_to"), *(_part(each, name, digits) for name in _TIER_PARTS)) for each in found)


def _part(tier: Object, name: str, digits: int) -> Decimal:
    exact = tier.get(f"{name}_decimal")
    return Decimal(tier.get(name) or 0 if exact is None else exact).scaleb(-digits, EXACT)


def subscription_of(invoice: Object) -> str:
    parent = (invoice.get("parent") or {}).get("subscription_details") or {}
    return id_of(invoice.get("subscription")) or id_of(parent.get("subscription"))


def intent_of(invoice: Object) -> str:
    """The payment intent that pays the invoice, the first of several; empty for none."""
    return next(iter(intents_of(invoice)), "")


def intents_of(invoice: Object) -> list[str]:
    """Those that have paid a part of the invoice; where none has, those that may, else all.

    Newer API versions list payments, canceled ones too; older ones name one intent.
    """
    listed = data(invoice.get("payments"))
    paid = [each for each in listed if each.get("status") == "paid"]
    may_pay = [each for each in listed if each.get("status") != "canceled"]
    named = [id_of((each.get("payment") or {}).get("payment_intent")) for each in paid or may_pay or listed]
    return [intent for intent in (*named, id_of(invoice.get("payment_intent"))) if intent]


def charge_of(intent: Object) -> Object | None:
    charge = intent.get("latest_charge")
    return charge if isinstance(charge, Mapping) else None


def instant(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def amount(minor: int | None, currency: str) -> Decimal:
    return Decimal(minor or 0).scaleb(-_DIGITS.get(currency, exponent(currency)), EXACT)


def minor_units(total: Decimal, currency: str) -> int:
    return int(total.scaleb(_DIGITS.get(currency, exponent(currency)), EXACT))


def id_of(found: Any) -> str:
    """The id of an expanded object, or of one given by its id alone; empty for neither."""
    named = found.get("id") if isinstance(found, Mapping) else found
    return named or ""


def price_of_item(item: Object) -> str:
    return id_of(item.get("price")) or id_of(item.get("plan"))


def data(found: Any) -> list[Object]:
    """The objects of a list, as far as it is there."""
    return list((found or {}).get("data") or ())


def _period(start: int | None, end: int | None) -> Period | None:
    begins, ends = instant(start), instant(end)
    return Period(begins, ends) if begins and ends and begins < ends else None


def _is_pending(subscription: Object, payment: RemotePayment | None) -> bool:
    """Whether Stripe charges the invoice, or is about to: not while the seller has paused the collection."""
    if subscription.get("pause_collection") or payment is None:
        return False
    return payment.status is PaymentStatus.PENDING


def _price_of(line: Object) -> str:
    details = (line.get("pricing") or {}).get("price_details") or {}
    return id_of(details.get("price")) or id_of(line.get("price")) or id_of(line.get("plan"))


def is_for_period(invoice: Object) -> bool:
    """Whether it is for a whole period of a subscription, not for a change within one."""
    reason = invoice.get("billing_reason") or "subscription_cycle"
    return reason in _WHOLE_PERIOD and bool(subscription_of(invoice))


def _sold(invoice: Object, currency: str) -> tuple[SoldLine, ...]:
    """The lines with a price: of an invoice for a period those that are no proration, else the dearest first.

    A change to another interval begins a period, so its invoice has a line for all of that one.
    """
    is_whole = is_for_period(invoice)
    found = [
        SoldLine(
            price,
            amount(line.get("amount"), currency),
            None if _is_proration(line) else _span(line),
            line.get("quantity"),
        )
        for line in data(invoice.get("lines"))
        if (price := _price_of(line)) and not (is_whole and _is_proration(line))
    ]
    return tuple(found if is_whole else sorted(found, key=lambda line: line.amount, reverse=True))


def _span(line: Object) -> Period | None:
    span = line.get("period") or {}
    return _period(span.get("start"), span.get("end"))


def _is_proration(line: Object) -> bool:
    details = (line.get("parent") or {}).get("subscription_item_details") or {}
    return bool(line.get("proration") or details.get("proration"))


def _subtotal(invoice: Object, currency: str) -> Decimal:
    total = invoice.get("total_excluding_tax")
    return amount(invoice.get("subtotal") if total is None else total, currency)


def _status_of_invoice(invoice: Object, intent: Object | None) -> PaymentStatus:
    """A debit of a bank account is an attempt too, whose outcome comes days later."""
    if invoice["status"] == "paid":
        return PaymentStatus.COMPLETED
    has_failed = bool(invoice.get("attempted")) and (intent or {}).get("status") != "processing"
    if invoice["status"] in ("void", "uncollectible") or (invoice["status"] == "open" and has_failed):
        return PaymentStatus.FAILED
    return PaymentStatus.PENDING


def _status_of_intent(intent: Object) -> PaymentStatus:
    if intent["status"] == "succeeded":
        return PaymentStatus.COMPLETED
    if intent["status"] == "canceled" or intent.get("last_payment_error"):
        return PaymentStatus.FAILED
    return PaymentStatus.PENDING


def _refunds(found: Iterable[Object], currency: str) -> tuple[RemoteRefund, ...]:
    return tuple(
        RemoteRefund(each["id"], amount(each["amount"], currency), instant(each.get("created")))
        for each in found
        if each.get("status") not in ("failed", "canceled")
    )


def _disputes(found: Iterable[Object], currency: str) -> tuple[RemoteDispute, ...]:
    """Without inquiries (`warning_…`), which take no money and are none until they become disputes."""
    return tuple(
        RemoteDispute(each["id"], amount(each["amount"], currency), _dispute_status(each["status"]), each.get("reason"))
        for each in found
        if not each["status"].startswith("warning_")
    )


def _dispute_status(status: str) -> DisputeStatus:
    if status in _DISPUTES_WON:
        return DisputeStatus.WON
    return DisputeStatus.LOST if status == "lost" else DisputeStatus.OPEN


def _method(charge: Object | None) -> str | None:
    details = (charge or {}).get("payment_method_details") or {}
    kind = details.get("type")
    brand = (details.get(kind) or {}).get("brand") if kind else None
    return f"{kind}:{brand}" if brand else kind


def _invoice(invoice: Object, currency: str) -> RemoteInvoice:
    transitions = invoice.get("status_transitions") or {}
    subtotal, total = _subtotal(invoice, currency), amount(invoice.get("total"), currency)
    return RemoteInvoice(
        id=invoice["id"],
        number=invoice.get("number"),
        status=invoice["status"],
        lines=tuple(_line(line, currency) for line in data(invoice.get("lines"))),
        subtotal=subtotal,
        tax=total - subtotal,
        issued_at=instant(transitions.get("finalized_at")),
        paid_at=instant(transitions.get("paid_at")),
        url=invoice.get("hosted_invoice_url"),
    )


def _line(line: Object, currency: str) -> Line:
    return Line(line.get("description") or "", line.get("quantity") or 1, None, amount(line["amount"], currency))
