"""What is decided of a caller once, for all its calls, is what each call would be told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest

from policies.access.admission import lasting_subscription, paying_subscription
from policies.model import Account, AccountStatus, Key, KeyStatus, Plan, Refused, Subscription, SubscriptionStatus

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
GRACE = timedelta(days=3)
MOMENTS = [NOW + timedelta(days=days) for days in (-400, -4, -2, 0, 2, 4, 400)]
ADDRESSES = ["192.0.2.1", "198.51.100.1", "", None]
PLAN = Plan("plan_1", "pro", 1, {})
ENDS = (None, NOW - timedelta(days=1), NOW + timedelta(days=1))


def _subscriptions() -> Iterator[Subscription | None]:
    yield None
    for status, end, is_canceled, unpaid_since in product(SubscriptionStatus, ENDS, (False, True), ENDS):
        yield Subscription(UUID(int=3), status, PLAN, end, is_canceled, unpaid_since)


def _keys() -> Iterator[Key]:
    for status, ips, expires_at in product(KeyStatus, ((), ("192.0.2.0/24",)), ENDS):
        yield Key(UUID(int=2), status, "gw_live_abcd", "wxyz", allowed_ips=ips, expires_at=expires_at)


ACCOUNTS = [
    Account(UUID(int=4), status, subscription) for status, subscription in product(AccountStatus, _subscriptions())
]
PLAIN_KEY = Key(UUID(int=2), KeyStatus.ACTIVE, "gw_live_abcd", "wxyz")


def test_lasting_subscription_pays_at_any_moment_and_from_any_address() -> None:
    lasting = 0
    for key, account in product(_keys(), ACCOUNTS):
        found = lasting_subscription(key, account, now=NOW)
        if found is not None:
            lasting += 1
            for now, client_ip in product(MOMENTS, ADDRESSES):
                assert paying_subscription(key, account, now=now, client_ip=client_ip, grace=GRACE) is found
    assert lasting


@pytest.mark.parametrize("status", [SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING])
@pytest.mark.parametrize("end", ENDS)
def test_subscription_in_force_lasts_beyond_its_period(status: SubscriptionStatus, end: datetime | None) -> None:
    subscription = Subscription(UUID(int=3), status, PLAN, end)
    account = Account(UUID(int=4), AccountStatus.ACTIVE, subscription)
    assert lasting_subscription(PLAIN_KEY, account, now=NOW) is subscription


def test_caller_that_is_refused_has_no_lasting_subscription() -> None:
    for account in ACCOUNTS:
        try:
            paying_subscription(PLAIN_KEY, account, now=NOW, client_ip=None, grace=GRACE)
        except Refused:
            assert lasting_subscription(PLAIN_KEY, account, now=NOW) is None
