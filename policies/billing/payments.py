"""What payment providers say, in words of ours, and what follows from it for access, credits and retries.

Events only say that something changed. What holds is the provider's object as it is fetched afterwards, so neither the
order nor the number of events decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from policies.billing.invoicing import Line, Period
from policies.billing.money import EXACT, rounded
from policies.model import SubscriptionStatus as Status


class About(StrEnum):
    """What an event is about: which object is to be fetched."""

    CHECKOUT = "checkout"
    SUBSCRIPTION = "subscription"
    INVOICE = "invoice"
    CHARGE = "charge"
    ORDER = "order"
    CUSTOMER = "customer"


class PaymentStatus(StrEnum):
    """Of money asked for. What was given back since is in the refunds and disputes."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class DisputeStatus(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Subject:
    """The object an event is about, by the provider's id."""

    about: About
    id: str


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a provider. `reference` is our checkout's id, where the message itself carries it.

    `subject` None: nothing to do. `foreign` says why the message is not for us, None where it is.
    """

    id: str
    type: str
    subject: Subject | None
    occurred_at: datetime | None
    reference: str | None = None
    foreign: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteSubscription:
    """A subscription as the provider has it. `is_paid`: its present period is paid for, or on trial."""

    id: str
    customer_id: str
    status: Status
    price_id: str
    quantity: int
    period: Period | None
    is_paid: bool
    cancel_at_period_end: bool = False
    trial: Period | None = None
    reference: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteRefund:
    id: str
    amount: Decimal
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RemoteDispute:
    id: str
    amount: Decimal
    status: DisputeStatus
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteInvoice:
    """The provider's own invoice; `status` is one of draft, open, paid, void, uncollectible."""

    id: str
    number: str | None
    status: str
    lines: tuple[Line, ...]
    subtotal: Decimal
    tax: Decimal
    issued_at: datetime | None
    paid_at: datetime | None
    url: str | None


@dataclass(frozen=True, slots=True)
class RemotePayment:
    """Money asked for once: for a period of a subscription, or, without one, for a pack of credits.

    `subtotal` is before tax, after discounts. `period` is what it pays for; None where that is no whole period, as of a
    change of plan.
    """

    id: str
    customer_id: str
    subscription_id: str | None
    status: PaymentStatus
    amount: Decimal
    subtotal: Decimal
    currency: str
    price_id: str | None = None
    period: Period | None = None
    refunds: tuple[RemoteRefund, ...] = ()
    disputes: tuple[RemoteDispute, ...] = ()
    method: str | None = None
    error: str | None = None
    occurred_at: datetime | None = None
    reference: str | None = None
    email: str | None = None
    invoice: RemoteInvoice | None = None


@dataclass(frozen=True, slots=True)
class RemoteCheckout:
    """`is_over`: it can be paid no more."""

    id: str
    reference: str
    is_over: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the provider says now of the object of an event and of what hangs on it."""

    subscriptions: tuple[RemoteSubscription, ...] = ()
    payments: tuple[RemotePayment, ...] = ()
    checkout: RemoteCheckout | None = None
    gone_customer_id: str | None = None


_C, _S, _I, _H, _O = About.CHECKOUT, About.SUBSCRIPTION, About.INVOICE, About.CHARGE, About.ORDER

# https://docs.stripe.com/api/events/types
STRIPE_EVENTS: Mapping[str, About] = MappingProxyType(
    {
        "checkout.session.completed": _C,
        "checkout.session.async_payment_succeeded": _C,
        "checkout.session.async_payment_failed": _C,
        "checkout.session.expired": _C,
        "customer.subscription.created": _S,
        "customer.subscription.updated": _S,
        "customer.subscription.deleted": _S,
        "customer.subscription.trial_will_end": _S,
        "customer.subscription.paused": _S,
        "customer.subscription.resumed": _S,
        "invoice.finalized": _I,
        "invoice.paid": _I,
        "invoice.payment_succeeded": _I,
        "invoice.payment_failed": _I,
        "invoice.payment_action_required": _I,
        "invoice.upcoming": _S,
        "invoice.voided": _I,
        "invoice.marked_uncollectible": _I,
        "charge.refunded": _H,
        "refund.created": _H,
        "refund.updated": _H,
        "refund.failed": _H,
        "charge.dispute.created": _H,
        "charge.dispute.updated": _H,
        "charge.dispute.closed": _H,
        "customer.deleted": About.CUSTOMER,
    }
)

# https://docs.lemonsqueezy.com/help/webhooks/event-types
LEMON_SQUEEZY_EVENTS: Mapping[str, About] = MappingProxyType(
    {
        "order_created": _O,
        "order_refunded": _O,
        "subscription_created": _S,
        "subscription_updated": _S,
        "subscription_cancelled": _S,
        "subscription_resumed": _S,
        "subscription_expired": _S,
        "subscription_paused": _S,
        "subscription_unpaused": _S,
        "subscription_plan_changed": _S,
        "subscription_payment_success": _I,
        "subscription_payment_failed": _I,
        "subscription_payment_recovered": _I,
        "subscription_payment_refunded": _I,
    }
)

# https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses. What is unpaid gives no access until it
# is paid, which is what paused means here.
STRIPE_STATUSES: Mapping[str, Status] = MappingProxyType(
    {
        "incomplete": Status.INCOMPLETE,
        "incomplete_expired": Status.EXPIRED,
        "trialing": Status.TRIALING,
        "active": Status.ACTIVE,
        "past_due": Status.PAST_DUE,
        "unpaid": Status.PAUSED,
        "paused": Status.PAUSED,
        "canceled": Status.CANCELED,
    }
)

# https://docs.lemonsqueezy.com/api/subscriptions/the-subscription-object: a cancelled one is good until `ends_at`.
LEMON_SQUEEZY_STATUSES: Mapping[str, Status] = MappingProxyType(
    {
        "on_trial": Status.TRIALING,
        "active": Status.ACTIVE,
        "cancelled": Status.ACTIVE,
        "paused": Status.PAUSED,
        "past_due": Status.PAST_DUE,
        "unpaid": Status.PAUSED,
        "expired": Status.EXPIRED,
    }
)

FIRST_RETRY = timedelta(seconds=5)
LAST_RETRY = timedelta(hours=6)
# Together about three days, as long as Stripe itself tries to deliver.
MAX_ATTEMPTS = 24


def retry_after(attempts: int) -> timedelta | None:
    """How long after so many failed attempts the next is made; None: no more, until someone asks for it."""
    if attempts >= MAX_ATTEMPTS:
        return None
    doublings = max(0, min(attempts - 1, 20))
    return min(FIRST_RETRY * (1 << doublings), LAST_RETRY)


def refunded(payment: RemotePayment) -> Decimal:
    """What was given back of its own accord; no more than was paid."""
    return min(payment.amount, sum((refund.amount for refund in payment.refunds), Decimal(0)))


def withdrawn(payment: RemotePayment) -> Decimal:
    """What of the amount is not ours any more: refunded, or disputed and not won."""
    disputed = (dispute.amount for dispute in payment.disputes if dispute.status is not DisputeStatus.WON)
    return min(payment.amount, refunded(payment) + sum(disputed, Decimal(0)))


def credits_withdrawn(awarded: int, payment: RemotePayment) -> int:
    """How many of the credits a payment gave are to be taken back in all; a part of one is left to the customer."""
    if payment.status is not PaymentStatus.COMPLETED or payment.amount <= 0:
        return 0
    return int(EXACT.divide(awarded * withdrawn(payment), payment.amount))


def status_of_payment(payment: RemotePayment) -> str:
    """The word for `payment_transactions.status`."""
    if payment.status is not PaymentStatus.COMPLETED:
        return payment.status
    if any(dispute.status is not DisputeStatus.WON for dispute in payment.disputes):
        return "disputed"
    back = refunded(payment)
    if back <= 0:
        return "completed"
    return "refunded" if back >= payment.amount else "partially_refunded"


def complaint_about_price(payment: RemotePayment, *, price: Decimal, currency: str) -> str | None:
    """Why a payment does not buy what costs this much; None where it does. Tax is on top, a discount is not ours."""
    if payment.currency != currency:
        return f"paid in {payment.currency}, asked for in {currency}"
    if payment.subtotal < rounded(price, currency):
        return f"paid {payment.subtotal} {currency} before tax, asked for {price}"
    return None


def access_of(remote: RemoteSubscription, *, stored: Status, paid_until: Period) -> tuple[Status, Period]:
    """The status and the period to keep for a subscription of ours.

    The period is the last one that was paid for: credits are granted for it, and the grace of one that is past due
    begins at its end. One that was never paid for is not active, whatever its status.
    """
    if remote.is_paid and remote.period is not None:
        return remote.status, remote.period
    if remote.status in (Status.ACTIVE, Status.TRIALING) and stored is Status.INCOMPLETE:
        return Status.INCOMPLETE, paid_until
    return remote.status, paid_until
