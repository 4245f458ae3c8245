"""The state machine of subscriptions is closed, only final states are dead ends, and due events are legal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.billing.subscriptions import (
    REQUESTS,
    IllegalEvent,
    Schedule,
    State,
    SubscriptionEvent,
    due_event,
    legal_requests,
    state_from_provider,
    transition,
)
from policies.model import SubscriptionStatus as Status

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
GRACE = timedelta(days=3)
OVER = (Status.CANCELED, Status.EXPIRED)
STATES = [State(status, is_ending) for status, is_ending in product(Status, (False, True))]

states = st.sampled_from(STATES)
events = st.sampled_from(tuple(SubscriptionEvent))


@pytest.mark.parametrize("state", [State(status) for status in OVER])
def test_ended_subscription_is_revived_by_its_provider_only(state: State) -> None:
    assert [event for event in SubscriptionEvent if not isinstance(transition(state, event), IllegalEvent)] == []
    assert state_from_provider(Status.ACTIVE, is_ending=False) == State(Status.ACTIVE)
    assert "start another" in str(transition(state, SubscriptionEvent.RESUME))


@given(path=st.lists(events, max_size=30))
def test_reachable_states_are_consistent(path: list[SubscriptionEvent]) -> None:
    state = State(Status.INCOMPLETE)
    for event in path:
        after = transition(state, event)
        if isinstance(after, IllegalEvent):
            assert event not in after.legal
            continue
        state = after
        assert not (state.is_ending and state.status in (*OVER, Status.INCOMPLETE))


@given(state=states)
def test_legal_requests_are_legal(state: State) -> None:
    for event in REQUESTS:
        assert (event in legal_requests(state)) == (not isinstance(transition(state, event), IllegalEvent))


@pytest.mark.parametrize("status", [Status.TRIALING, Status.ACTIVE, Status.PAST_DUE, Status.PAUSED])
def test_ending_subscription_can_be_kept_until_its_end(status: Status) -> None:
    ending = transition(State(status), SubscriptionEvent.CANCEL_AT_PERIOD_END)
    assert ending == State(status, is_ending=True)
    assert transition(State(status, is_ending=True), SubscriptionEvent.UNDO_CANCEL) == State(status)
    over = SubscriptionEvent.TRIAL_ENDED if status is Status.TRIALING else SubscriptionEvent.PERIOD_ENDED
    assert transition(State(status, is_ending=True), over) == State(Status.EXPIRED)
    assert isinstance(transition(State(status), SubscriptionEvent.UNDO_CANCEL), IllegalEvent)


@given(
    state=states,
    is_manual=st.booleans(),
    ended=st.timedeltas(timedelta(days=-9), timedelta(days=9)),
    unpaid=st.none() | st.timedeltas(timedelta(days=-9), timedelta(days=9)),
    made=st.timedeltas(timedelta(days=-9), timedelta(days=0)),
)
def test_due_events_are_legal_and_finite(
    state: State, is_manual: bool, ended: timedelta, unpaid: timedelta | None, made: timedelta
) -> None:
    times = Schedule(NOON + made, NOON + ended, None if unpaid is None else NOON + unpaid, is_manual)
    event = due_event(state, times, now=NOON, grace=GRACE)
    if event is None:
        return
    after = transition(state, event)
    assert not isinstance(after, IllegalEvent)
    assert after.status in (Status.ACTIVE, Status.EXPIRED)
    if after.status is Status.ACTIVE:
        assert is_manual
        assert ended <= timedelta(0)


@pytest.mark.parametrize(
    ("state", "passed", "expected"),
    [
        (State(Status.PAST_DUE), GRACE - timedelta(seconds=1), None),
        (State(Status.PAST_DUE), GRACE, SubscriptionEvent.GRACE_ENDED),
        (State(Status.INCOMPLETE), timedelta(hours=23), None),
        (State(Status.INCOMPLETE), timedelta(hours=24), SubscriptionEvent.CHECKOUT_ABANDONED),
        (State(Status.TRIALING), timedelta(0), SubscriptionEvent.TRIAL_ENDED),
        (State(Status.ACTIVE), timedelta(0), SubscriptionEvent.PERIOD_ENDED),
        (State(Status.ACTIVE), -timedelta(seconds=1), None),
        (State(Status.PAUSED), timedelta(0), None),
        (State(Status.PAUSED, is_ending=True), timedelta(0), SubscriptionEvent.PERIOD_ENDED),
    ],
)
def test_due_event_of_each_state(state: State, passed: timedelta, expected: SubscriptionEvent | None) -> None:
    at = NOON - passed
    assert due_event(state, Schedule(at, at, at, is_manual=True), now=NOON, grace=GRACE) is expected
