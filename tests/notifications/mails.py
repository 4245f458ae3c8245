"""A payload of each kind of mail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_END = "2026-07-15T12:00:00+00:00"
_TOKEN = {"token_id": "0198c0de-0000-4000-8000-000000000001", "expires_at": "2026-03-15T12:30:00+00:00"}
_PAYMENT = {
    "payment_id": "0198c0de-0000-4000-8000-000000000002",
    "amount": "29.99",
    "currency": "EUR",
    "description": "Subscription: Pro",
    "plan_id": "pro",
    "error": None,
}
_SUBSCRIPTION = {"plan_id": "pro", "plan": "Pro", "status": "active", "quantity": 3, "current_period_end": _END}
_TOP_UP = {
    "reason": "Your card was declined.",
    "pack_id": "pack-100",
    "amount": "5.00",
    "currency": "EUR",
    "payment_method": "visa 4242",
}
_PRICE = {"price": "39.99", "previous_price": "29.99", "currency": "EUR", "effective_at": _END}

MAILS: Mapping[str, Mapping[str, Any]] = {
    "account.verify_email": _TOKEN,
    "account.reset_password": _TOKEN,
    "account.password_changed": {},
    "account.email_changed": {},
    "account.registered_again": {},
    "account.token_reused": {},
    "credits.threshold": {
        "percent": 80,
        "period_credits": 1000,
        "credits_used_this_period": 812,
        "current_credits": 188,
        "period_start": "2026-06-15T12:00:00+00:00",
        "period_end": _END,
    },
    "credits.low": {"balance_below": 500, "current_credits": 488},
    "invoice.issued": {
        "invoice_id": "0198c0de-0000-4000-8000-000000000003",
        "number": "INV-2026-000012",
        "total": "27.75",
        "currency": "EUR",
        "due_on": "2026-07-29",
        "corrects_id": None,
    },
    "top_up.stopped": _TOP_UP,
    "top_up.card_removed": {**_TOP_UP, "reason": "the card was removed"},
    "payment.received": _PAYMENT,
    "payment.failed": {**_PAYMENT, "error": "Your card was declined"},
    "payment.refunded": {**_PAYMENT, "amount": "9.99"},
    "subscription.changed": {**_SUBSCRIPTION, "previous_plan_id": "basic"},
    "subscription.price_changed": {**_SUBSCRIPTION, **_PRICE},
    "subscription.terms_changed": {**_SUBSCRIPTION, "effective_at": _END},
    "subscription.cancelled": _SUBSCRIPTION,
    "subscription.continued": _SUBSCRIPTION,
    "subscription.ended": _SUBSCRIPTION,
    "subscription.access_ends": {**_SUBSCRIPTION, "access_ends_at": _END, "is_unpaid": True},
    "subscription.renews": {**_SUBSCRIPTION, "price": "299", "currency": "EUR"},
    "subscription.trial_ends": _SUBSCRIPTION,
    "subscription.paid_twice": {**_SUBSCRIPTION, "kept_plan_id": "basic"},
}
