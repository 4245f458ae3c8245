"""The life of a subscription as one table: which event leads from which status to which.

Whether it is to end with its period is half of its state: the same end of a period renews the one and expires the
other. What a status allows is decided in `access.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from policies.model import SubscriptionStatus as Status

# As long as a Stripe Checkout session stays open by default (https://docs.stripe.com/api/checkout/sessions).
CHECKOUT_LIFETIME = timedelta(hours=24)


class Event(StrEnum):
    """What happens to a subscription: asked for, told by a payment provider, or due by the clock."""

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


# What a person can ask for; the others come of payments and of the clock.
REQUESTS = (
    Event.CANCEL_NOW,
    Event.CANCEL_AT_PERIOD_END,
    Event.UNDO_CANCEL,
    Event.PAUSE,
    Event.RESUME,
    Event.CHANGE_PLAN,
    Event.CHANGE_QUANTITY,
)


@dataclass(frozen=True, slots=True)
class State:
    """`is_ending`: it ends with its period."""

    status: Status
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class IllegalEvent:
    """The event is none of this state's; `legal` are the requests that would be."""

    state: State
    event: Event
    legal: tuple[Event, ...]

    def __str__(self) -> str:
        ending = " and ends with its period" if self.state.is_ending else ""
        would = f"possible: {', '.join(self.legal)}" if self.legal else "nothing changes it any more; start another"
        return f"This subscription is {self.state.status}{ending}, so it cannot {self.event}; {would}."


_UNCHANGED: Mapping[Status, Status] = {status: status for status in (Status.TRIALING, Status.ACTIVE)}
_LIVING = (Status.TRIALING, Status.ACTIVE, Status.PAST_DUE, Status.PAUSED)

TRANSITIONS: Mapping[Event, Mapping[Status, Status]] = {
    Event.ACTIVATE: {Status.INCOMPLETE: Status.ACTIVE, Status.TRIALING: Status.ACTIVE},
    Event.START_TRIAL: {Status.INCOMPLETE: Status.TRIALING},
    Event.CANCEL_NOW: dict.fromkeys((Status.INCOMPLETE, *_LIVING), Status.CANCELED),
    Event.CANCEL_AT_PERIOD_END: {status: status for status in _LIVING},
    Event.PAUSE: {Status.ACTIVE: Status.PAUSED},
    Event.RESUME: {Status.PAUSED: Status.ACTIVE},
    Event.CHANGE_PLAN: _UNCHANGED,
    Event.CHANGE_QUANTITY: _UNCHANGED,
    Event.PAYMENT_FAILED: dict.fromkeys((Status.TRIALING, Status.ACTIVE, Status.PAST_DUE), Status.PAST_DUE),
    Event.PAYMENT_RECOVERED: {Status.PAST_DUE: Status.ACTIVE},
    Event.CHECKOUT_ABANDONED: {Status.INCOMPLETE: Status.EXPIRED},
    Event.TRIAL_ENDED: {Status.TRIALING: Status.ACTIVE},
    Event.PERIOD_ENDED: {Status.ACTIVE: Status.ACTIVE},
    Event.GRACE_ENDED: {Status.PAST_DUE: Status.EXPIRED},
}

# Where it is otherwise for one that is to end with its period.
TRANSITIONS_WHEN_ENDING: Mapping[Event, Mapping[Status, Status]] = {
    **TRANSITIONS,
    Event.UNDO_CANCEL: {status: status for status in _LIVING},
    Event.PAUSE: {},
    Event.CHANGE_PLAN: {},
    Event.CHANGE_QUANTITY: {},
    Event.TRIAL_ENDED: {Status.TRIALING: Status.EXPIRED},
    Event.PERIOD_ENDED: dict.fromkeys(_LIVING, Status.EXPIRED),
}


def transition(state: State, event: Event) -> State | IllegalEvent:
    """The state after the event, or what would be legal instead."""
    status = _transitions(state).get(event, {}).get(state.status)
    if status is None:
        return IllegalEvent(state, event, legal_requests(state))
    is_ending = event is Event.CANCEL_AT_PERIOD_END or (state.is_ending and event is not Event.UNDO_CANCEL)
    return State(status, is_ending and status in _LIVING)


def legal_requests(state: State) -> tuple[Event, ...]:
    return tuple(event for event in REQUESTS if state.status in _transitions(state).get(event, {}))


def state_from_provider(status: Status, *, is_ending: bool) -> State:
    """The state that a payment provider tells of its own subscription: from whatever state we had, since it knows."""
    return State(status, is_ending and status in _LIVING)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a subscription is due for something. `is_manual`: no payment provider renews it."""

    created_at: datetime
    period_end: datetime
    past_due_since: datetime | None
    is_manual: bool


def due_event(state: State, times: Schedule, *, now: datetime, grace: timedelta) -> Event | None:
    """The earliest event that the clock has brought by `now`; None where nothing is due."""
    if state.status is Status.INCOMPLETE:
        return Event.CHECKOUT_ABANDONED if now >= times.created_at + CHECKOUT_LIFETIME else None
    if state.status not in _LIVING:
        return None
    if state.status is Status.PAST_DUE and now >= (times.past_due_since or times.period_end) + grace:
        return Event.GRACE_ENDED
    if now < times.period_end or not (state.is_ending or times.is_manual):
        return None
    event = Event.TRIAL_ENDED if state.status is Status.TRIALING else Event.PERIOD_ENDED
    return None if isinstance(transition(state, event), IllegalEvent) else event


def _transitions(state: State) -> Mapping[Event, Mapping[Status, Status]]:
    return TRANSITIONS_WHEN_ENDING if state.is_ending else TRANSITIONS
