"""The state machine of subscriptions: the status that each event leads to from each status.

The state includes whether the subscription ends with its period, since the end of a period renews it or expires it.
`policies/access/admission.py` decides what a status allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from policies.model import SubscriptionStatus as Status

# The default lifetime of a Stripe Checkout session (https://docs.stripe.com/api/checkout/sessions).
CHECKOUT_LIFETIME = timedelta(hours=24)


class SubscriptionEvent(StrEnum):
    """A request, a payment, or an event that the clock makes due."""

    ACTIVATE = "activate"
    START_TRIAL = "start_trial"
    CANCEL_NOW = "cancel_now"
    CANCEL_AT_PERIOD_END = "cancel_at_period_end"
    UNDO_CANCEL = "undo_cancel"
    PAUSE = "pause"
    RESUME = "resume"
    CHANGE_PLAN = "change_plan"
    CHANGE_QUANTITY = "change_quantity"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_RECOVERED = "payment_recovered"
    CHECKOUT_ABANDONED = "checkout_abandoned"
    TRIAL_ENDED = "trial_ended"
    PERIOD_ENDED = "period_ended"
    GRACE_ENDED = "grace_ended"


# The events that a user or an administrator can request.
REQUESTS = (
    SubscriptionEvent.CANCEL_NOW,
    SubscriptionEvent.CANCEL_AT_PERIOD_END,
    SubscriptionEvent.UNDO_CANCEL,
    SubscriptionEvent.PAUSE,
    SubscriptionEvent.RESUME,
    SubscriptionEvent.CHANGE_PLAN,
    SubscriptionEvent.CHANGE_QUANTITY,
)


@dataclass(frozen=True, slots=True)
class State:
    """`is_ending`: the subscription ends with its period."""

    status: Status
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class IllegalEvent:
    """The event is illegal in this state; `legal` are the requests that are not."""

    state: State
    event: SubscriptionEvent
    legal: tuple[SubscriptionEvent, ...]

    def __str__(self) -> str:
        ending = " and ends with its period" if self.state.is_ending else ""
        would = f"possible: {', '.join(self.legal)}" if self.legal else "nothing changes it any more; start another"
        return f"This subscription is {self.state.status}{ending}, so it cannot {self.event}; {would}."


_UNCHANGED: Mapping[Status, Status] = {status: status for status in (Status.TRIALING, Status.ACTIVE)}
_LIVING = (Status.TRIALING, Status.ACTIVE, Status.PAST_DUE, Status.PAUSED)

TRANSITIONS: Mapping[SubscriptionEvent, Mapping[Status, Status]] = {
    SubscriptionEvent.ACTIVATE: {Status.INCOMPLETE: Status.ACTIVE, Status.TRIALING: Status.ACTIVE},
    SubscriptionEvent.START_TRIAL: {Status.INCOMPLETE: Status.TRIALING},
    SubscriptionEvent.CANCEL_NOW: dict.fromkeys((Status.INCOMPLETE, *_LIVING), Status.CANCELED),
    SubscriptionEvent.CANCEL_AT_PERIOD_END: {status: status for status in _LIVING},
    SubscriptionEvent.PAUSE: {Status.ACTIVE: Status.PAUSED},
    SubscriptionEvent.RESUME: {Status.PAUSED: Status.ACTIVE},
    SubscriptionEvent.CHANGE_PLAN: _UNCHANGED,
    SubscriptionEvent.CHANGE_QUANTITY: _UNCHANGED,
    SubscriptionEvent.PAYMENT_FAILED: dict.fromkeys((Status.TRIALING, Status.ACTIVE, Status.PAST_DUE), Status.PAST_DUE),
    SubscriptionEvent.PAYMENT_RECOVERED: {Status.PAST_DUE: Status.ACTIVE},
    SubscriptionEvent.CHECKOUT_ABANDONED: {Status.INCOMPLETE: Status.EXPIRED},
    SubscriptionEvent.TRIAL_ENDED: {Status.TRIALING: Status.ACTIVE},
    SubscriptionEvent.PERIOD_ENDED: {Status.ACTIVE: Status.ACTIVE},
    SubscriptionEvent.GRACE_ENDED: {Status.PAST_DUE: Status.EXPIRED},
}

# The transitions of a subscription that ends with its period.
TRANSITIONS_WHEN_ENDING: Mapping[SubscriptionEvent, Mapping[Status, Status]] = {
    **TRANSITIONS,
    SubscriptionEvent.UNDO_CANCEL: {status: status for status in _LIVING},
    SubscriptionEvent.PAUSE: {},
    SubscriptionEvent.CHANGE_PLAN: {},
    SubscriptionEvent.CHANGE_QUANTITY: {},
    SubscriptionEvent.TRIAL_ENDED: {Status.TRIALING: Status.EXPIRED},
    SubscriptionEvent.PERIOD_ENDED: dict.fromkeys(_LIVING, Status.EXPIRED),
}


def transition(state: State, event: SubscriptionEvent) -> State | IllegalEvent:
    """The state after the event, or IllegalEvent."""
    status = _transitions(state).get(event, {}).get(state.status)
    if status is None:
        return IllegalEvent(state, event, legal_requests(state))
    is_ending = event is SubscriptionEvent.CANCEL_AT_PERIOD_END or (
        state.is_ending and event is not SubscriptionEvent.UNDO_CANCEL
    )
    return State(status, is_ending and status in _LIVING)


def legal_requests(state: State) -> tuple[SubscriptionEvent, ...]:
    return tuple(event for event in REQUESTS if state.status in _transitions(state).get(event, {}))


def state_from_provider(status: Status, *, is_ending: bool) -> State:
    """The state of a subscription that a provider bills: the provider's status, whatever the state before."""
    return State(status, is_ending and status in _LIVING)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times that make events due. `is_manual`: no payment provider renews the subscription."""

    created_at: datetime
    period_end: datetime
    past_due_since: datetime | None
    is_manual: bool


def due_event(state: State, times: Schedule, *, now: datetime, grace: timedelta) -> SubscriptionEvent | None:
    """The earliest event that is due by `now`, or None."""
    if state.status is Status.INCOMPLETE:
        return SubscriptionEvent.CHECKOUT_ABANDONED if now >= times.created_at + CHECKOUT_LIFETIME else None
    if state.status not in _LIVING:
        return None
    if state.status is Status.PAST_DUE and now >= (times.past_due_since or times.period_end) + grace:
        return SubscriptionEvent.GRACE_ENDED
    if now < times.period_end or not (state.is_ending or times.is_manual):
        return None
    event = SubscriptionEvent.TRIAL_ENDED if state.status is Status.TRIALING else SubscriptionEvent.PERIOD_ENDED
    return None if isinstance(transition(state, event), IllegalEvent) else event


def _transitions(state: State) -> Mapping[SubscriptionEvent, Mapping[Status, Status]]:
    return TRANSITIONS_WHEN_ENDING if state.is_ending else TRANSITIONS
