"""Whether an account, its subscription and its plan allow a call to a route."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from policies.model import (
    Account,
    AccountStatus,
    FeatureValue,
    Key,
    PastDue,
    Plan,
    Refusal,
    Refused,
    Route,
    Subscription,
    SubscriptionStatus,
)
from policies.wording import counted

_OPEN = frozenset({SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE})


def check_account(account: Account, now: datetime, *, grace: timedelta) -> Subscription:
    """The subscription that pays for a call at `now`; raises Refused if there is none that does."""
    if account.status is AccountStatus.SUSPENDED:
        raise Refused(Refusal.ACCOUNT_SUSPENDED, "This account is suspended.")
    subscription = account.subscription
    if subscription is None:
        raise _inactive("This account has no subscription.", account, subscription_status="none")
    status = effective_status(subscription, now, grace)
    if status in _OPEN or subscription.is_fallback:
        return subscription
    if status is SubscriptionStatus.PAST_DUE and subscription.plan.past_due is not PastDue.STOP:
        return subscription
    raise _ended(subscription, status, account)


def _ended(subscription: Subscription, status: SubscriptionStatus, account: Account) -> Refused:
    since, name = subscription.past_due_since, subscription.plan.name
    if since is None:
        return _inactive(f"The subscription to {name} is {status}.", account, subscription_status=str(status))
    detail = (
        f"The payment for {name} failed on {since.date()}, so the subscription is {status}. "
        "POST /me/billing/portal gives the page to pay it at."
    )
    return _inactive(detail, account, subscription_status=str(status), payment_failed_at=since.isoformat())


def _inactive(detail: str, account: Account, **extras: object) -> Refused:
    waiting = account.waiting_credits
    if waiting > 0:
        verb = "waits" if waiting == 1 else "wait"
        detail = f"{detail} {counted(waiting, 'credit')} {verb} for a plan: GET /plans lists those on offer."
        extras["credits_waiting"] = waiting
    return Refused(Refusal.SUBSCRIPTION_INACTIVE, detail, **extras)


def effective_status(subscription: Subscription, now: datetime, grace: timedelta) -> SubscriptionStatus:
    """The status that holds at `now`, whether or not a worker has written it down yet.

    A subscription that was to end with its period has expired once the period is over; a past-due one once the grace
    is, which begins with the failed payment, or with the period's end where that is all we know. An active one outlives
    its period: renewing it late is our fault, not the customer's.
    """
    end, is_past_due = subscription.current_period_end, subscription.status is SubscriptionStatus.PAST_DUE
    unpaid_since = subscription.past_due_since or end
    if is_past_due and unpaid_since is not None and now >= unpaid_since + grace:
        return SubscriptionStatus.EXPIRED
    is_ending = subscription.cancel_at_period_end and (is_past_due or subscription.status in _OPEN)
    if is_ending and end is not None and now >= end:
        return SubscriptionStatus.EXPIRED
    return subscription.status


def is_ending(subscription: Subscription) -> bool:
    """Whether the status that holds may become another by the passing of time alone."""
    return subscription.status is SubscriptionStatus.PAST_DUE or subscription.cancel_at_period_end


def check_route(
    route: Route, key: Key | None, plan: Plan, *, offered: Mapping[str, Mapping[str, FeatureValue]]
) -> None:
    """Raises Refused if the key's permissions or the plan's features do not reach the route; no key narrows nothing.

    `offered` are the features of the plans on offer, by plan name, so that the refusal can say which plans would do.
    """
    if route.permission is not None and not may(key, plan, route.permission):
        raise Refused(
            Refusal.PERMISSION_DENIED,
            f"This API key lacks the permission {route.permission!r}."
            if route.permission in plan.permissions
            else f"The plan {plan.name!r} does not grant the permission {route.permission!r}.",
            permission=route.permission,
        )
    if route.feature is not None:
        check_feature(route.feature, plan, offered=offered)


def check_feature(feature: str, plan: Plan, *, offered: Mapping[str, Mapping[str, FeatureValue]]) -> None:
    """Raises Refused if the plan is without a feature; `offered` as for `check_route`."""
    if has_feature(plan.features.get(feature)):
        return
    raise Refused(
        Refusal.FEATURE_NOT_IN_PLAN,
        f"The plan {plan.name!r} does not include {feature!r}.",
        feature=feature,
        plan=plan.name,
        plans_with_feature=[name for name, flags in offered.items() if has_feature(flags.get(feature))],
    )


def may(key: Key | None, plan: Plan, permission: str) -> bool:
    """A plan grants permissions; a key may narrow them, never widen them."""
    narrowed = None if key is None else key.permissions
    return permission in plan.permissions and (narrowed is None or permission in narrowed)


def has_feature(value: FeatureValue | None) -> bool:
    """A feature flag counts when it is truthy."""
    return bool(value)


def max_body_bytes(route: Route, plan: Plan) -> int | None:
    """The largest body that may pass: the route's limit or the plan's, whichever is lower."""
    of_route, of_plan = route.max_body_bytes, plan.max_file_size_bytes
    if of_route is None or of_plan is None:
        return of_plan if of_route is None else of_route
    return min(of_route, of_plan)


def check_size(size_bytes: int | None, max_bytes: int | None) -> None:
    """Raises Refused for a body larger than may pass. An unannounced size (None) is checked as it arrives."""
    if size_bytes is not None and max_bytes is not None and size_bytes > max_bytes:
        raise Refused(Refusal.PAYLOAD_TOO_LARGE, f"The body may hold {max_bytes} bytes at most.", max_bytes=max_bytes)
