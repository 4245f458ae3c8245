"""What a change of a subscription or a payment means to its owner, by kind of notification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from policies.model import SubscriptionStatus as Status

_SERVED = (Status.TRIALING, Status.ACTIVE)
_LIVING = (*_SERVED, Status.PAST_DUE, Status.PAUSED)
_OVER = (Status.CANCELED, Status.EXPIRED)

STARTED, RENEWED = "subscription.started", "subscription.renewed"
CHANGED, CANCELLED, CONTINUED = "subscription.changed", "subscription.cancelled", "subscription.continued"
PAST_DUE, RECOVERED, ENDED = "subscription.past_due", "subscription.recovered", "subscription.ended"
PAUSED, RESUMED = "subscription.paused", "subscription.resumed"
TRIAL_ENDS, PAID_TWICE = "subscription.trial_ends", "subscription.paid_twice"
RENEWS, ACCESS_ENDS = "subscription.renews", "subscription.access_ends"
PRICE_CHANGED, TERMS_CHANGED = "subscription.price_changed", "subscription.terms_changed"

RECEIVED, FAILED, REFUNDED = "payment.received", "payment.failed", "payment.refunded"
DISPUTED, DISPUTE_CLOSED = "payment.disputed", "payment.dispute_closed"

# The others are for the operator's system alone: what they tell the owner has done, or a mail about a payment tells.
MAILED = frozenset(
    (
        *(CHANGED, PRICE_CHANGED, TERMS_CHANGED, CANCELLED, CONTINUED, ENDED, TRIAL_ENDS, RENEWS, ACCESS_ENDS),
        *(PAID_TWICE, RECEIVED, FAILED, REFUNDED),
    )
)


@dataclass(frozen=True, slots=True)
class SubscriptionFacts:
    """Of a subscription at a time."""

    status: Status
    plan_id: str
    quantity: int
    period_start: datetime
    period_end: datetime
    is_ending: bool


def news(before: SubscriptionFacts | None, after: SubscriptionFacts) -> tuple[str, ...]:
    """The kinds of notifications that the change is worth; `before` None: the subscription is new."""
    if before is None or before.status is Status.INCOMPLETE:
        return (STARTED,) if after.status in _SERVED else ()
    return tuple(_news(before, after))


def _news(before: SubscriptionFacts, after: SubscriptionFacts) -> Iterator[str]:
    if before.status in _LIVING and after.status in _OVER:
        yield ENDED
    if after.status not in _LIVING:
        return
    if (before.plan_id, before.quantity) != (after.plan_id, after.quantity):
        yield CHANGED
    if after.status in _SERVED and after.period_start >= before.period_end:
        yield RENEWED
    yield from _news_of_status(before.status, after.status)
    if before.is_ending != after.is_ending:
        yield CANCELLED if after.is_ending else CONTINUED


def _news_of_status(before: Status, after: Status) -> Iterator[str]:
    if before is after:
        return
    if after is Status.PAST_DUE:
        yield PAST_DUE
    elif after is Status.PAUSED:
        yield PAUSED
    elif before is Status.PAST_DUE or before in _OVER:
        yield RECOVERED
    elif before is Status.PAUSED:
        yield RESUMED


def payment_news(transaction_type: str, *, before: str | None, after: str) -> str | None:
    """The kind of notification that a payment's new status is worth; `before` None: the payment is new."""
    if before == after:
        return None
    if transaction_type == "refund":
        return REFUNDED if after == "completed" else None
    if transaction_type == "dispute":
        return DISPUTED if after == "disputed" else DISPUTE_CLOSED
    if after == "failed":
        return FAILED
    return RECEIVED if after == "completed" and before in (None, "pending", "failed") else None
