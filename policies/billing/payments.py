"""The objects of payment providers as common values, and what follows from them for access, credits and retries.

An event only says that an object changed. The object as it is fetched afterwards decides, so the order and number of
events have no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from policies.billing.invoicing import Line, Period
from policies.billing.money import EXACT, rounded
from policies.model import SubscriptionStatus as Status


class ObjectKind(StrEnum):
    """The kind of object that an event is about, and that is fetched for it."""

    CHECKOUT = "checkout"
    SUBSCRIPTION = "subscription"
    INVOICE = "invoice"
    CHARGE = "charge"
    ORDER = "order"
    INTENT = "intent"
    CARD = "card"
    CUSTOMER = "customer"


class PaymentStatus(StrEnum):
    """Of the charge alone; refunds and disputes are listed apart."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class Settlement(StrEnum):
    """What became of the payment of the provider's present period. An advance begins the period before it is paid.

    Dropped: the subscription ended, or stopped, before its invoice was charged.
    """

    PAID = "paid"
    ADVANCED = "advanced"
    UNPAID = "unpaid"
    DROPPED = "dropped"


class DisputeStatus(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A provider's object by its id."""

    kind: ObjectKind
    id: str


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One message of a provider. `reference` is the gateway's checkout id, where the message itself carries it.

    `subject` None: nothing to do. `unrelated_reason` says why the message concerns another account; None: it does not.
    """

    id: str
    type: str
    subject: ObjectRef | None
    occurred_at: datetime | None
    reference: str | None = None
    unrelated_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """What a subscription sells, now or from its next period on."""

    price_id: str
    quantity: int
    period: Period | None = None


@dataclass(frozen=True, slots=True)
class RemoteSubscription:
    """A provider's subscription. `is_paid`: the present period is paid for or on trial.

    `is_pending`: its payment is neither settled nor failed, as while Stripe keeps the invoice a draft for an hour.
    Of several `items`, price, quantity and period are those of the first until `with_item` chooses another.
    `next_items` are what a schedule makes of them with the next period; empty without one.
    """

    id: str
    customer_id: str
    status: Status
    price_id: str
    quantity: int
    period: Period | None
    is_paid: bool
    is_pending: bool = False
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None
    trial: Period | None = None
    reference: str | None = None
    email: str | None = None
    items: tuple[RemoteItem, ...] = ()
    next_items: tuple[RemoteItem, ...] = ()

    @property
    def is_ending(self) -> bool:
        """Whether it ends with its period; a `cancel_at` beyond the period ends a later one."""
        if self.cancel_at is None:
            return self.cancel_at_period_end
        return self.cancel_at_period_end or self.period is None or self.cancel_at <= self.period.end

    def with_item(self, item: RemoteItem) -> RemoteSubscription:
        return replace(self, price_id=item.price_id, quantity=item.quantity, period=item.period)


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
    """A provider's invoice; `status` is draft, open, paid, void or uncollectible."""

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
class SoldLine:
    """What a payment is for; `period` None: not a whole period. `quantity` None: the provider does not tell."""

    price_id: str
    amount: Decimal
    period: Period | None
    quantity: int | None = None


@dataclass(frozen=True, slots=True)
class RemotePayment:
    """One charge: for a period of a subscription or, without a subscription, for a pack of credits.

    `subtotal` is before tax, and after discounts but for packs. `period` is the whole period that it pays for; None for
    anything less, such as a change of plan. Of several `lines`, price and period are those of the first.
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
    lines: tuple[SoldLine, ...] = ()

    @property
    def quantity(self) -> int | None:
        """The seats of its period, in all tiers of the price; None where the provider does not tell."""
        sold = [line.quantity for line in self.lines if (line.price_id, line.period) == (self.price_id, self.period)]
        return sum(filter(None, sold)) or None

    def with_line(self, line: SoldLine) -> RemotePayment:
        return replace(self, price_id=line.price_id, period=line.period)


@dataclass(frozen=True, slots=True)
class RemoteCheckout:
    """`is_over`: it expired, or its payment failed. `is_complete`: it is paid, or there was nothing to pay."""

    id: str
    reference: str
    is_over: bool
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A card that a customer has saved at a checkout for it. `title` is for people, such as `visa 4242`."""

    id: str
    customer_id: str
    checkout_id: str
    title: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present state of an event's object and of the objects that depend on it."""

    subscriptions: tuple[RemoteSubscription, ...] = ()
    payments: tuple[RemotePayment, ...] = ()
    checkout: RemoteCheckout | None = None
    gone_customer_id: str | None = None
    saved_card: SavedCard | None = None
    gone_card_id: str | None = None


# Stripe charges no draft of these by itself.
_STOPPED = (Status.PAUSED, Status.CANCELED, Status.EXPIRED)
FIRST_RETRY = timedelta(seconds=5)
LAST_RETRY = timedelta(hours=6)
# Together about three days, as long as Stripe itself tries to deliver.
MAX_ATTEMPTS = 24


def retry_after(attempts: int) -> timedelta | None:
    """The delay after so many failed attempts; None: only an operator starts another."""
    if attempts >= MAX_ATTEMPTS:
        return None
    doublings = max(0, min(attempts - 1, 20))
    return min(FIRST_RETRY * (1 << doublings), LAST_RETRY)


def refunded(payment: RemotePayment) -> Decimal:
    """The sum of the refunds, at most the amount paid."""
    return min(payment.amount, sum((refund.amount for refund in payment.refunds), Decimal(0)))


def withdrawn(payment: RemotePayment) -> Decimal:
    """The part of the amount that was refunded, or is disputed and not won."""
    disputed = (dispute.amount for dispute in payment.disputes if dispute.status is not DisputeStatus.WON)
    return min(payment.amount, refunded(payment) + sum(disputed, Decimal(0)))


def credits_withdrawn(awarded: int, payment: RemotePayment) -> int:
    """How many of the awarded credits to claw back in all, rounded down in the customer's favour.

    Not those that the customer's balance at the provider paid for, which goes back with no refund and no dispute. All
    where the payment turned out to be none, as an order that the provider found to be a fraud.
    """
    if payment.status is PaymentStatus.FAILED:
        return awarded
    if payment.status is not PaymentStatus.COMPLETED or payment.amount <= 0:
        return 0
    invoice = payment.invoice
    price = payment.amount if invoice is None else max(payment.amount, invoice.subtotal + invoice.tax)
    return int(EXACT.divide(awarded * withdrawn(payment), price))


def status_of_payment(payment: RemotePayment) -> str:
    """The value of `payment_transactions.status`."""
    if payment.status is not PaymentStatus.COMPLETED:
        return payment.status
    if any(dispute.status is not DisputeStatus.WON for dispute in payment.disputes):
        return "disputed"
    back = refunded(payment)
    if back <= 0:
        return "completed"
    return "refunded" if back >= payment.amount else "partially_refunded"


def price_mismatch(payment: RemotePayment, *, price: Decimal, currency: str) -> str | None:
    """Why the payment does not cover the price; None where it does. Tax comes on top; a discount does not count."""
    if payment.currency != currency:
        return f"paid in {payment.currency}, asked for in {currency}"
    if payment.subtotal < rounded(price, currency):
        return f"paid {payment.subtotal} {currency} before tax, asked for {price}"
    return None


def is_advance(
    remote: RemoteSubscription, *, stored: Status, paid_until: Period, serves_past_due: bool = False
) -> bool:
    """Whether the next period has begun unpaid, and its credits are to be advanced.

    That is while its payment is under way, and where the plan serves those who are past due.
    """
    if remote.is_paid or remote.period is None or remote.period.start < paid_until.end:
        return False
    if serves_past_due and is_served(remote, stored=stored):
        return True
    return remote.status is Status.ACTIVE and stored is Status.ACTIVE and remote.is_pending


def is_served(remote: RemoteSubscription, *, stored: Status) -> bool:
    """Whether a plan that serves those who are past due serves this one: its grace is not over."""
    return remote.status is Status.PAST_DUE and stored in (Status.ACTIVE, Status.PAST_DUE)


def settlement_of(
    remote: RemoteSubscription, *, stored: Status, paid_until: Period, serves_past_due: bool = False
) -> Settlement | None:
    """What became of the payment of the provider's present period; None while an advance is to stay as it is."""
    if remote.is_paid:
        return Settlement.PAID
    if is_advance(remote, stored=stored, paid_until=paid_until, serves_past_due=serves_past_due):
        return Settlement.ADVANCED
    if remote.is_pending and remote.status in _STOPPED:
        return Settlement.DROPPED
    if remote.is_pending or (serves_past_due and is_served(remote, stored=stored)):
        return None
    return Settlement.UNPAID


def access_of(
    remote: RemoteSubscription, *, stored: Status, paid_until: Period, serves_past_due: bool = False
) -> tuple[Status, Period]:
    """The status and the period of the gateway's subscription.

    The period is the last one paid for, or one whose credits are advanced (`is_advance`): credits are granted for it.
    A subscription that was never paid for does not become active, whatever the provider's status.
    """
    is_open = remote.is_paid or is_advance(
        remote, stored=stored, paid_until=paid_until, serves_past_due=serves_past_due
    )
    if is_open and remote.period is not None:
        return remote.status, remote.period
    if remote.status in (Status.ACTIVE, Status.TRIALING) and stored is Status.INCOMPLETE:
        return Status.INCOMPLETE, paid_until
    return remote.status, paid_until
