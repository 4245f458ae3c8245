"""What can be imported: the sections of a mapping, in the order in which they are read, with their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.importing import values
from gateway.importing.values import Convert
from policies.billing.providers import ID_FIELDS, PROVIDERS
from policies.model import KeyScheme, Outcome, SubscriptionStatus


class Section(StrEnum):
    """In this order: each refers to rows of those before it only."""

    PRODUCTS = "products"
    PLANS = "plans"
    USERS = "users"
    SUBSCRIPTIONS = "subscriptions"
    CREDITS = "credits"
    KEYS = "keys"
    PAYMENTS = "payments"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field. `refers_to` is the section whose rows it names by their key."""

    convert: Convert
    about: str
    is_required: bool = False
    refers_to: Section | None = None


# Stripe's words, Lemon Squeezy's, and what people write.
_STATUSES = {
    "cancelled": "canceled",
    "ended": "expired",
    "inactive": "expired",
    "incomplete_expired": "expired",
    "on_trial": "trialing",
    "trial": "trialing",
    "unpaid": "expired",
}
_PAYMENT_STATUSES = {
    "complete": "completed",
    "paid": "completed",
    "success": "completed",
    "succeeded": "completed",
    "failure": "failed",
    "open": "pending",
    "processing": "pending",
    "refund": "refunded",
    "partial_refund": "partially_refunded",
}
_PAYMENT_TYPES = {"credit_purchase": "credits", "credit": "credits", "one_time": "credits", "purchase": "credits"}
_OUTCOMES = {
    "success": "succeeded",
    "ok": "succeeded",
    "completed": "succeeded",
    "error": "upstream_error",
    "failed": "upstream_error",
    "failure": "upstream_error",
    "timeout": "upstream_timeout",
}
_INTERVALS = {"monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "weekly": "week"} | {
    "daily": "day",
    "months": "month",
    "years": "year",
}


def _user(about: str = "Whose it is.") -> FieldSpec:
    return FieldSpec(values.reference, about, is_required=True, refers_to=Section.USERS)


def _plan(*, is_required: bool = False) -> FieldSpec:
    return FieldSpec(values.reference, "The plan.", is_required, refers_to=Section.PLANS)


_PLAN_LIMITS = {
    name: FieldSpec(values.small_count, about)
    for name, about in (
        ("requests_per_minute", "Calls in any minute; NULL: no limit."),
        ("requests_per_hour", "Calls in any hour; NULL: no limit."),
        ("max_api_calls_per_day", "Calls in any 24 hours; NULL: no limit."),
        ("max_concurrent_requests", "Calls at the same time; NULL: no limit."),
        ("max_products_per_batch", "Items of one call; NULL: no limit."),
    )
}
_USAGE_COUNTS = {
    name: FieldSpec(values.count, about)
    for name, about in (
        ("tokens_used", "All tokens together."),
        ("input_tokens", "All input."),
        ("cached_input_tokens", "Input that was read from a cache."),
        ("output_tokens", "All output."),
        ("reasoning_tokens", "Output that nobody sees."),
        ("request_bytes", "Length of the request's body."),
        ("response_bytes", "Length of the response's body."),
        ("file_size_bytes", "Length of the file."),
    )
}

SECTIONS: Mapping[Section, Mapping[str, FieldSpec]] = {
    Section.PRODUCTS: {
        "name": FieldSpec(values.line, "Unique; a product of this name is used as it is.", is_required=True),
        "description": FieldSpec(values.text, "For buyers."),
        "is_active": FieldSpec(values.flag, "Whether it is sold."),
    },
    Section.PLANS: {
        "id": FieldSpec(values.line, "Its id here; left out: made of the name. A plan of this id is used as it is."),
        "name": FieldSpec(values.line, "Unique; a plan of this name is used as it is.", is_required=True),
        "description": FieldSpec(values.text, "For buyers."),
        "product": FieldSpec(values.reference, "Its product.", refers_to=Section.PRODUCTS),
        "price": FieldSpec(values.amount, "Price of an interval, in units of the currency.", is_required=True),
        "currency": FieldSpec(values.currency, "Left out: USD."),
        "billing_interval": FieldSpec(
            values.one_of(frozenset({"day", "week", "month", "year"}), _INTERVALS), "day, week, month or year."
        ),
        "billing_interval_count": FieldSpec(values.small_count, "Intervals of a period; left out: 1."),
        "trial_period_days": FieldSpec(values.small_count, "Days before the first payment."),
        "credits_per_period": FieldSpec(values.count, "Credits of a period."),
        "credits_rollover": FieldSpec(values.flag, "Whether credits outlive their period."),
        **_PLAN_LIMITS,
        "max_file_size_bytes": FieldSpec(values.count, "Longest request body; NULL: no limit."),
        "features": FieldSpec(values.features, "Names, or a JSON object of names and values."),
        "permissions": FieldSpec(values.words, "Names, as an array, JSON or separated by commas; created if missing."),
        "is_active": FieldSpec(values.flag, "Whether new subscriptions can start."),
        "sort_order": FieldSpec(values.small_count, "Place in lists."),
        **{name: FieldSpec(values.token, "The provider's id, as in `plans` of gateway.yaml.") for name in ID_FIELDS},
    },
    Section.USERS: {
        "email": FieldSpec(values.email, "Unique, whatever its case.", is_required=True),
        "external_id": FieldSpec(values.line, "The id in your own system; left out: the key."),
        "name": FieldSpec(values.line, "What to call them."),
        "company": FieldSpec(values.line, "Their business."),
        "status": FieldSpec(
            values.one_of(frozenset({"active", "suspended"}), {"disabled": "suspended", "blocked": "suspended"}),
            "active or suspended.",
        ),
        "password_hash": FieldSpec(
            values.text, "Argon2id as a PHC string; for others the user sets a new password by mail."
        ),
        "email_verified_at": FieldSpec(values.moment, "When the address was proven."),
        "is_email_verified": FieldSpec(values.flag, "The same as a flag: proven when the account was created."),
        "time_zone": FieldSpec(values.line, "IANA name, for the boundaries of periods."),
        "billing_address": FieldSpec(values.text, "For invoices."),
        "vat_id": FieldSpec(values.line, "For invoices."),
        "metadata": FieldSpec(values.document, "A JSON object."),
        "created_at": FieldSpec(values.moment, "When they signed up."),
        **{
            f"{name}_customer_id": FieldSpec(values.token, f"Their customer id at {names.title}.")
            for name, names in PROVIDERS.items()
        },
    },
    Section.SUBSCRIPTIONS: {
        "user": _user(),
        "plan": _plan(is_required=True),
        "status": FieldSpec(
            values.one_of(SubscriptionStatus, _STATUSES),
            "One of the gateway's, Stripe's or Lemon Squeezy's words; NULL: active.",
        ),
        "quantity": FieldSpec(values.small_count, "Seats; left out: 1."),
        "provider": FieldSpec(values.provider, "Who renews it: stripe, lemon_squeezy, or manual: this gateway."),
        "provider_subscription_id": FieldSpec(values.token, "The provider's id; with it, the provider renews it."),
        "current_period_start": FieldSpec(values.moment, "Exactly as the provider has it.", is_required=True),
        "current_period_end": FieldSpec(values.moment, "Left out: one interval of the plan later."),
        "cancel_at_period_end": FieldSpec(values.flag, "Whether it ends with the period."),
        "canceled_at": FieldSpec(values.moment, "When it was canceled."),
        "trial_start": FieldSpec(values.moment, "An account has one trial."),
        "trial_end": FieldSpec(values.moment, "When the trial ended or will."),
        "created_at": FieldSpec(values.moment, "When it began."),
    },
    Section.CREDITS: {
        "user": _user("Whose balance it is: one row for each user."),
        "balance": FieldSpec(values.credits, "What can be spent; negative: what is owed.", is_required=True),
        "purchased": FieldSpec(values.count, "How much of that was bought and never expires."),
    },
    Section.KEYS: {
        "user": _user(),
        "key": FieldSpec(values.token, "The key, where it is stored in the clear: this or `digest`."),
        "digest": FieldSpec(values.digest, "Its digest, in hexadecimal or as 32 bytes."),
        "algorithm": FieldSpec(values.one_of(KeyScheme), "Of the digest: sha256, or hmac-sha256; left out: sha256."),
        "pepper_version": FieldSpec(values.small_count, "Of hmac-sha256: which of the configured peppers."),
        "prefix": FieldSpec(values.token, "How the key begins, exactly: one for all, such as `acme_`. With a digest."),
        "last4": FieldSpec(values.token, "Its last four characters."),
        "name": FieldSpec(values.line, "What it is for."),
        "status": FieldSpec(
            values.one_of(frozenset({"active", "disabled", "revoked"}), {"inactive": "disabled"}),
            "active, disabled or revoked.",
        ),
        "permissions": FieldSpec(values.words, "NULL or left out: all of the plan's."),
        "allowed_ips": FieldSpec(values.networks, "Addresses and CIDRs; none: from anywhere."),
        "credit_cap": FieldSpec(values.count, "Credits that it may spend in a period."),
        "expires_at": FieldSpec(values.moment, "When it stops working."),
        "last_used_at": FieldSpec(values.moment, "When it was used last."),
        "created_at": FieldSpec(values.moment, "When it was made."),
    },
    Section.PAYMENTS: {
        "user": _user(),
        "subscription": FieldSpec(values.reference, "What it paid for.", refers_to=Section.SUBSCRIPTIONS),
        "plan": _plan(),
        "provider": FieldSpec(values.provider, "Who took it; left out: `imported`."),
        "provider_payment_id": FieldSpec(values.token, "The provider's id; left out: the table and the key."),
        "transaction_type": FieldSpec(
            values.one_of(frozenset({"subscription", "credits", "refund", "dispute"}), _PAYMENT_TYPES),
            "subscription, credits, refund or dispute; left out: subscription.",
        ),
        "status": FieldSpec(
            values.one_of(
                frozenset({"pending", "completed", "failed", "refunded", "partially_refunded", "disputed"}),
                _PAYMENT_STATUSES,
            ),
            "Left out: completed.",
        ),
        "amount": FieldSpec(values.amount, "In units of the currency.", is_required=True),
        "refunded_amount": FieldSpec(values.amount, "How much of it went back."),
        "currency": FieldSpec(values.currency, "Left out: USD."),
        "payment_method": FieldSpec(values.line, "Such as card."),
        "credits_awarded": FieldSpec(values.count, "Credits that it gave. They are in the balance already."),
        "description": FieldSpec(values.text, "What customers read."),
        "error_message": FieldSpec(values.text, "Why it failed."),
        "processed_at": FieldSpec(values.moment, "When the money came; left out: `created_at`."),
        "created_at": FieldSpec(values.moment, "When it was begun."),
    },
    Section.USAGE: {
        "user": _user(),
        "key": FieldSpec(values.reference, "The API key.", refers_to=Section.KEYS),
        "plan": _plan(),
        "created_at": FieldSpec(values.moment, "When the call came.", is_required=True),
        "endpoint": FieldSpec(values.line, "The route; left out: `imported`."),
        "method": FieldSpec(values.line, "Left out: POST."),
        "path": FieldSpec(values.text, "Left out: /."),
        "usage_type": FieldSpec(values.line, "Left out: the endpoint. `analysis` is history too."),
        "outcome": FieldSpec(
            values.one_of(Outcome, _OUTCOMES),
            "How it ended; left out: by `status_code`, else succeeded.",
        ),
        "status_code": FieldSpec(values.small_count, "The HTTP status."),
        "error_code": FieldSpec(values.line, "What went wrong."),
        "credits_charged": FieldSpec(values.count, "What it cost. The balance has paid it already."),
        "product_count": FieldSpec(values.small_count, "Items; left out: 1."),
        "model": FieldSpec(values.line, "The model that answered."),
        **_USAGE_COUNTS,
        "cost_usd": FieldSpec(values.amount, "What the upstream charged."),
        "response_time_ms": FieldSpec(values.small_count, "Milliseconds."),
        "language_code": FieldSpec(values.line, "Language of the content."),
        "category": FieldSpec(values.line, "Category of the content."),
        "batch_id": FieldSpec(values.line, "What ties calls together."),
        "client_ip": FieldSpec(values.line, "The caller's address."),
        "client_request_id": FieldSpec(values.line, "The caller's id of the call."),
        "metadata": FieldSpec(values.document, "A JSON object."),
    },
}
