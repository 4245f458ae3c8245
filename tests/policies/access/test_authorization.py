"""An account, its subscription and its plan allow exactly what they say, at the instant that is asked about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from policies.access.authorization import (
    check_account,
    check_route,
    check_size,
    effective_status,
    has_feature,
    max_body_bytes,
    may,
)
from policies.model import (
    Account,
    AccountStatus,
    FeatureValue,
    Key,
    KeyStatus,
    Plan,
    Refusal,
    Refused,
    Route,
    Subscription,
    SubscriptionStatus,
)
from policies.pricing.price import Price

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
GRACE = timedelta(days=3)
PLAN = Plan(
    "plan_1", "pro", 1, {"analysis": True, "seats": 5, "export": False, "tier": ""}, frozenset({"read", "write"})
)
ROUTE = Route("analyze", "/v1/analyze", frozenset({"POST"}), "ai", "analysis", Price(Decimal(1)))
KEY = Key(UUID(int=2), KeyStatus.ACTIVE, "gw_live_abcd", "wxyz")
S = SubscriptionStatus


def _subscription(status: S, end: datetime | None = None, *, cancel: bool = False) -> Subscription:
    return Subscription(UUID(int=3), status, PLAN, end, cancel)


def _account(subscription: Subscription | None, status: AccountStatus = AccountStatus.ACTIVE) -> Account:
    return Account(UUID(int=4), status, subscription)


PAST, FUTURE = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("subscription", "status"),
    [
        (_subscription(S.ACTIVE), S.ACTIVE),
        (_subscription(S.ACTIVE, PAST), S.ACTIVE),  # renewing late is our fault
        (_subscription(S.ACTIVE, PAST, cancel=True), S.EXPIRED),
        (_subscription(S.ACTIVE, NOW, cancel=True), S.EXPIRED),
        (_subscription(S.ACTIVE, FUTURE, cancel=True), S.ACTIVE),
        (_subscription(S.ACTIVE, cancel=True), S.ACTIVE),
        (_subscription(S.TRIALING, FUTURE), S.TRIALING),
        (_subscription(S.TRIALING, PAST, cancel=True), S.EXPIRED),
        (_subscription(S.PAST_DUE), S.PAST_DUE),
        (_subscription(S.PAST_DUE, PAST), S.PAST_DUE),
        (_subscription(S.PAST_DUE, NOW - GRACE + timedelta(seconds=1)), S.PAST_DUE),
        (_subscription(S.PAST_DUE, NOW - GRACE), S.EXPIRED),
        (_subscription(S.PAST_DUE, PAST, cancel=True), S.EXPIRED),
        # A provider's period moves on before it is paid for; the grace begins with the failed payment all the same.
        (replace(_subscription(S.PAST_DUE, FUTURE), past_due_since=NOW - GRACE), S.EXPIRED),
        (replace(_subscription(S.PAST_DUE, PAST), past_due_since=NOW - GRACE + timedelta(seconds=1)), S.PAST_DUE),
        (_subscription(S.PAUSED, PAST, cancel=True), S.PAUSED),
        (_subscription(S.CANCELED, FUTURE), S.CANCELED),
    ],
)
def test_a_status_is_what_it_is_by_now(subscription: Subscription, status: S) -> None:
    assert effective_status(subscription, NOW, GRACE) is status


@pytest.mark.parametrize("status", [S.TRIALING, S.ACTIVE, S.PAST_DUE])
def test_a_subscription_in_force_pays(status: S) -> None:
    subscription = _subscription(status, FUTURE)
    assert check_account(_account(subscription), NOW, grace=GRACE) is subscription


@pytest.mark.parametrize(
    ("account", "code", "extras"),
    [
        (_account(None), Refusal.SUBSCRIPTION_INACTIVE, {"subscription_status": "none"}),
        *(
            (_account(_subscription(status)), Refusal.SUBSCRIPTION_INACTIVE, {"subscription_status": str(status)})
            for status in (S.INCOMPLETE, S.PAUSED, S.CANCELED, S.EXPIRED)
        ),
        (
            _account(_subscription(S.ACTIVE, PAST, cancel=True)),
            Refusal.SUBSCRIPTION_INACTIVE,
            {"subscription_status": "expired"},
        ),
        (_account(_subscription(S.ACTIVE), AccountStatus.SUSPENDED), Refusal.ACCOUNT_SUSPENDED, {}),
        (_account(None, AccountStatus.SUSPENDED), Refusal.ACCOUNT_SUSPENDED, {}),
    ],
)
def test_an_account_that_may_not_call_is_told_why(account: Account, code: Refusal, extras: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        check_account(account, NOW, grace=GRACE)
    assert (refused.value.code, refused.value.extras) == (code, extras)


@pytest.mark.parametrize("feature", [None, "analysis", "seats"])
@pytest.mark.parametrize("permission", [None, "read"])
def test_a_route_within_reach_passes(feature: str | None, permission: str | None) -> None:
    check_route(replace(ROUTE, feature=feature, permission=permission), KEY, PLAN, offered={})


@pytest.mark.parametrize("feature", ["export", "tier", "unheard_of"])
def test_a_feature_the_plan_lacks_is_refused_with_the_plans_that_have_it(feature: str) -> None:
    offered: dict[str, dict[str, FeatureValue]] = {
        "free": {feature: 0},
        "max": {feature: True},
        "team": {feature: 5},
        "x": {},
    }
    with pytest.raises(Refused) as refused:
        check_route(replace(ROUTE, feature=feature), KEY, PLAN, offered=offered)
    assert refused.value.code is Refusal.FEATURE_NOT_IN_PLAN
    assert refused.value.extras == {"feature": feature, "plan": "pro", "plans_with_feature": ["max", "team"]}


def test_a_permission_is_checked_before_the_feature() -> None:
    with pytest.raises(Refused) as refused:
        check_route(replace(ROUTE, feature="export", permission="admin"), KEY, PLAN, offered={})
    assert (refused.value.code, refused.value.extras) == (Refusal.PERMISSION_DENIED, {"permission": "admin"})


@pytest.mark.parametrize(
    ("of_key", "permission", "allowed"),
    [
        (None, "read", True),
        (None, "admin", False),
        (frozenset({"read"}), "read", True),
        (frozenset({"read"}), "write", False),
        (frozenset({"admin"}), "admin", False),  # a key never widens its plan
        (frozenset(), "read", False),
    ],
)
def test_a_key_narrows_what_its_plan_permits(of_key: frozenset[str] | None, permission: str, allowed: bool) -> None:
    assert may(replace(KEY, permissions=of_key), PLAN, permission) is allowed


@pytest.mark.parametrize(
    ("value", "counts"),
    [(True, True), (False, False), (5, True), (0, False), ("gold", True), ("", False), (None, False)],
)
def test_a_feature_counts_when_it_is_truthy(value: FeatureValue | None, counts: bool) -> None:
    assert has_feature(value) is counts


@pytest.mark.parametrize(
    ("of_route", "of_plan", "limit"), [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (7, 5, 5), (0, 5, 0)]
)
def test_the_smaller_body_limit_holds(of_route: int | None, of_plan: int | None, limit: int | None) -> None:
    route, plan = replace(ROUTE, max_body_bytes=of_route), replace(PLAN, max_file_size_bytes=of_plan)
    assert max_body_bytes(route, plan) == limit


@pytest.mark.parametrize(("size", "limit"), [(None, 5), (5, 5), (0, 0), (6, None), (None, None)])
def test_a_body_that_fits_passes(size: int | None, limit: int | None) -> None:
    check_size(size, limit)


def test_a_body_too_large_is_told_the_limit() -> None:
    with pytest.raises(Refused) as refused:
        check_size(6, 5)
    assert (refused.value.code, refused.value.extras) == (Refusal.PAYLOAD_TOO_LARGE, {"max_bytes": 5})
