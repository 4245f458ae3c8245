"""The checks of a call in their one order: first what is known of the caller, then what its state still allows.

The admission controller makes the first half of the checks; the meter makes the second half and changes the state in
one step. A dry run makes both halves on a snapshot. A key of None stands for the account itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from policies.access import authorization, key_budgets, keys
from policies.access.key_budgets import Cap
from policies.access.limits import Limits
from policies.model import Account, FeatureValue, Key, Plan, Refusal, Refused, Route, Subscription, Window
from policies.wording import counted


class AccountSnapshot(NamedTuple):
    """What an account has used and has left. `used` and `reset_seconds` are in the order of limits.WINDOWS.

    `violated` are the windows without room for one more call, and `retry_after_seconds` until all have room again.
    `spent` is what counts against the cap of the key that was asked about; None where it has none.
    """

    balance: int
    in_flight: int
    used: tuple[int, ...]
    reset_seconds: tuple[int, ...]
    retry_after_seconds: int
    violated: tuple[Window, ...]
    spent: int | None = None


def check_caller(
    key: Key | None,
    account: Account,
    route: Route | None,
    *,
    now: datetime,
    client_ip: str | None,
    size_bytes: int | None,
    grace: timedelta,
    offered: Mapping[str, Mapping[str, FeatureValue]],
) -> Subscription:
    """The subscription that pays for the call; raises Refused by the first check that fails.

    `client_ip` None is an address that nobody asked about, `route` None a call to no route in particular.
    """
    subscription = paying_subscription(key, account, now=now, client_ip=client_ip, grace=grace)
    if route is not None:
        check_request(route, key, subscription.plan, size_bytes=size_bytes, offered=offered)
    return subscription


def paying_subscription(
    key: Key | None, account: Account, *, now: datetime, client_ip: str | None, grace: timedelta
) -> Subscription:
    """The subscription that pays for what the caller does; raises Refused as `check_caller`."""
    if key is not None:
        keys.check(key, now, client_ip=client_ip)
    return authorization.check_account(account, now, grace=grace)


def lasting_subscription(key: Key, account: Account, *, now: datetime) -> Subscription | None:
    """The subscription that pays whenever and wherever the caller calls; None where that depends on either."""
    subscription = account.subscription
    if subscription is None or authorization.is_ending(subscription) or keys.is_bound(key):
        return None
    try:
        return paying_subscription(key, account, now=now, client_ip=None, grace=timedelta(0))
    except Refused:
        return None


def check_request(
    route: Route,
    key: Key | None,
    plan: Plan,
    *,
    size_bytes: int | None,
    offered: Mapping[str, Mapping[str, FeatureValue]],
) -> None:
    """Raises Refused where the route is out of reach, or the body too large."""
    authorization.check_route(route, key, plan, offered=offered)
    if size_bytes:
        authorization.check_size(size_bytes, authorization.max_body_bytes(route, plan))


def check_snapshot(
    snapshot: AccountSnapshot, limits: Limits, plan: Plan, *, required: int, cap: Cap | None = None
) -> None:
    """Raises Refused where an admission would: limits, calls in flight, credits, the key's cap, in this order."""
    if snapshot.violated:
        raise rate_limited(plan, snapshot.violated, retry_after_seconds=snapshot.retry_after_seconds)
    if limits.in_flight is not None and snapshot.in_flight >= limits.in_flight:
        raise too_many_in_flight(plan)
    if required > 0 and (available := snapshot.balance + limits.overage) < required:
        raise insufficient_credits(required, available)
    if required > 0 and cap is not None and (left := key_budgets.left(cap, snapshot.spent or 0)) < required:
        raise key_budgets.exhausted(cap, required, available=left)


def rate_limited(plan: Plan, violated: Sequence[Window], *, retry_after_seconds: int) -> Refused:
    names = tuple([str(window) for window in violated])
    return Refused(
        Refusal.RATE_LIMITED,
        f"The limit per {' and per '.join(names)} of the plan {plan.name!r} is used up; "
        f"retry in {retry_after_seconds} s.",
        violated_policies=names,
        retry_after=retry_after_seconds,
    )


def too_many_in_flight(plan: Plan) -> Refused:
    limit = plan.max_concurrent_requests
    return Refused(
        Refusal.TOO_MANY_IN_FLIGHT,
        f"The plan {plan.name!r} allows {counted(limit or 0, 'call')} at a time.",
        limit=limit,
    )


def insufficient_credits(required: int, available: int) -> Refused:
    return Refused(
        Refusal.INSUFFICIENT_CREDITS,
        f"This call needs {counted(required, 'credit')}; {counted(available, 'credit')} left.",
        required=required,
        available=available,
    )
