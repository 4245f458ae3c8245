"""What the e-mails about payments and subscriptions say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from policies.billing import news

Payload = Mapping[str, Any]
_PORTAL = "Cards and payments are looked after where you subscribed: POST /me/billing/portal gives the page."
_MINE = "You find your payments in your account: GET /me/payments."


def describe(kind: str, payload: Payload) -> tuple[str, ...] | None:
    """Subject and paragraphs; None for a kind that is none of billing."""
    told = _TEXTS.get(kind)
    return None if told is None else told(payload)


def day(instant: str) -> str:
    """Of an ISO 8601 time."""
    return instant[:10]


def _received(payload: Payload) -> tuple[str, ...]:
    return "We received your payment", f"{_amount(payload)} were paid{_purpose(payload)}. Thank you.", _MINE


def _failed(payload: Payload) -> tuple[str, ...]:
    reason = f" The reason given: {payload['error']}." if payload["error"] else ""
    fact = f"The payment of {_amount(payload)}{_purpose(payload)} failed.{reason}"
    return "Your payment failed", fact, "Please pay another way, or calls may be refused. " + _PORTAL


def _refunded(payload: Payload) -> tuple[str, ...]:
    fact = f"{_amount(payload)} went back to you. The credits that they paid for are taken back."
    return "We refunded your payment", fact, _MINE


def _changed(payload: Payload) -> tuple[str, ...]:
    seats = f", with {payload['quantity']} seats" if payload["quantity"] > 1 else ""
    fact = f"Your subscription is to {payload['plan']}{seats} from now on."
    return "Your subscription was changed", fact, "GET /subscriptions/me shows it. " + _NOT_YOU


def _price_changed(payload: Payload) -> tuple[str, ...]:
    prices = f"from {payload['previous_price']} to {payload['price']} {payload['currency']}"
    since = f"From {day(payload['effective_at'])} on your subscription to {payload['plan']} has other prices"
    fact = f"{since}." if payload["previous_price"] == payload["price"] else f"{since}: {prices}."
    return "Prices of your subscription change", fact, "GET /plans shows them. You can cancel before: " + _CANCEL


def _terms_changed(payload: Payload) -> tuple[str, ...]:
    fact = f"Since {day(payload['effective_at'])} your subscription to {payload['plan']} has the plan's present terms."
    return "Terms of your subscription change", fact, "GET /plans shows its limits, credits and features. " + _CANCEL


def _cancelled(payload: Payload) -> tuple[str, ...]:
    end = day(payload["current_period_end"])
    fact = f"Your subscription to {payload['plan']} ends on {end}. You have access until then, and pay nothing more."
    return "Your subscription will end", fact, "To keep it: POST /subscriptions/{id}/undo-cancel. " + _NOT_YOU


def _continued(payload: Payload) -> tuple[str, ...]:
    fact = f"Your subscription to {payload['plan']} does not end, but renews on {day(payload['current_period_end'])}."
    return "Your subscription goes on", fact, _NOT_YOU


def _ended(payload: Payload) -> tuple[str, ...]:
    fact = f"Your subscription to {payload['plan']} has ended, and calls that need it are refused."
    return "Your subscription has ended", fact, "GET /plans lists the plans on offer."


def _trial_ends(payload: Payload) -> tuple[str, ...]:
    end = day(payload["current_period_end"])
    fact = f"Your trial of {payload['plan']} ends on {end}. The plan goes on then and is charged."
    return "Your trial ends soon", fact, "If you do not want that: " + _CANCEL


def _paid_twice(payload: Payload) -> tuple[str, ...]:
    fact = (
        f"You have paid for two subscriptions. An account has one at a time: that to {payload['kept_plan_id']} goes on,"
        f" the one to {payload['plan_id']} has ended and is charged no more. The credits of both are yours."
    )
    return "You have paid twice", fact, "If you did not mean to, ask us to refund one of the payments. " + _MINE


_CANCEL = "DELETE /subscriptions/{id} ends it with its period."
_NOT_YOU = "If it was not you, change your password."
_TEXTS: Mapping[str, Callable[[Payload], tuple[str, ...]]] = {
    news.RECEIVED: _received,
    news.FAILED: _failed,
    news.REFUNDED: _refunded,
    news.CHANGED: _changed,
    news.PRICE_CHANGED: _price_changed,
    news.TERMS_CHANGED: _terms_changed,
    news.CANCELLED: _cancelled,
    news.CONTINUED: _continued,
    news.ENDED: _ended,
    news.TRIAL_ENDS: _trial_ends,
    news.PAID_TWICE: _paid_twice,
}


def _amount(payload: Payload) -> str:
    return f"{payload['amount']} {payload['currency']}"


def _purpose(payload: Payload) -> str:
    return f" ({payload['description']})" if payload["description"] else ""
