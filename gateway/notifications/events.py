"""Every event of users: what its `data` has, and whether it is mailed. The operator's webhook gets all but mails' own.

`python -m gateway.notifications.events` prints docs/reference/events.md; `make reference` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Fields = Mapping[str, str]

_SUBSCRIPTION: Fields = {
    "subscription_id": "",
    "plan_id": "",
    "plan": "The plan's name.",
    "status": "",
    "quantity": "Seats.",
    "current_period_start": "",
    "current_period_end": "",
    "cancel_at_period_end": "",
}
_TERMS: Fields = {
    "subscription_id": "",
    "plan_id": "",
    "plan": "The plan's name.",
    "previous_price": "",
    "price": "",
    "currency": "",
    "effective_at": "From when on.",
}
_PAYMENT: Fields = {
    "payment_id": "",
    "amount": "",
    "currency": "",
    "description": "null where it has none.",
    "plan_id": "null of credits.",
    "subscription_id": "null of credits.",
    "refers_to_id": "The payment that a refund or dispute is of.",
    "error": "Why it failed.",
}
_TOP_UP: Fields = {
    "reason": "Why, for people.",
    "pack_id": "",
    "amount": "What each top-up costs.",
    "currency": "",
    "payment_method": "The card, such as `visa 4242`.",
}
_KEY: Fields = {"key_id": "", "name": "", "prefix": "", "last4": "", "expires_at": "null: never."}
_TOKEN: Fields = {"token_id": "", "expires_at": ""}


@dataclass(frozen=True, slots=True)
class Event:
    """`fields` of its data beside `user_id`, with what is not plain from the name."""

    about: str
    fields: Fields = field(default_factory=dict)
    is_mailed: bool = False
    is_posted: bool = True


def _mail(about: str, fields: Fields | None = None, *, is_posted: bool = True) -> Event:
    return Event(about, fields or {}, is_mailed=True, is_posted=is_posted)


EVENTS: Mapping[str, Event] = MappingProxyType(
    {
        "account.registered": Event("Somebody opened an account."),
        "account.email_verified": Event("The address was proven."),
        "account.verify_email": _mail("The address is to be proven.", _TOKEN, is_posted=False),
        "account.reset_password": _mail("A new password was asked for.", _TOKEN, is_posted=False),
        "account.password_changed": _mail("By its owner, or by a link."),
        "account.email_changed": _mail("To the former address.", {"recipient": "That address."}, is_posted=False),
        "account.registered_again": _mail("Somebody opened an account with an address that has one.", is_posted=False),
        "account.token_reused": _mail("A session was ended, because its refresh token was used twice."),
        "account.deleted": Event("Its data is erased; nothing more comes of this user."),
        "key.created": Event("A key was made or imported.", _KEY),
        "key.rotated": Event(
            "A key has a successor.",
            {**_KEY, "rotated_from": "The key before.", "retires_at": "Until then the key before works."},
        ),
        "key.revoked": Event("A key works no more.", _KEY),
        "credits.threshold": _mail(
            "So much of the period's credits is used.",
            {
                "percent": "80 and 100, or what the customer chose.",
                "period_credits": "",
                "credits_used_this_period": "",
                "current_credits": "What is left.",
                "period_start": "",
                "period_end": "",
            },
        ),
        "credits.low": _mail(
            "A call took the balance below what the customer chose.",
            {"balance_below": "What was chosen.", "current_credits": "What is left."},
        ),
        "payment.received": _mail("A payment was made, also a bank transfer that was recorded.", _PAYMENT),
        "payment.failed": _mail("A payment failed.", _PAYMENT),
        "payment.refunded": _mail("Money went back.", _PAYMENT),
        "payment.disputed": Event("A dispute began.", _PAYMENT),
        "payment.dispute_closed": Event("A dispute was decided.", _PAYMENT),
        "top_up.stopped": _mail("Automatic top-ups have stopped: a payment failed, or the pack has changed.", _TOP_UP),
        "top_up.card_removed": _mail("Automatic top-ups have stopped: their card was removed.", _TOP_UP),
        "invoice.issued": _mail(
            "The gateway issued an invoice or a credit note.",
            {
                "invoice_id": "",
                "number": "",
                "total": "Negative of a credit note.",
                "currency": "",
                "due_on": "null: nothing is to be paid.",
                "corrects_id": "The invoice that a credit note corrects.",
            },
        ),
        "subscription.started": Event("It gives access.", _SUBSCRIPTION),
        "subscription.renewed": Event("The next period began.", _SUBSCRIPTION),
        "subscription.past_due": Event("A payment is missing.", _SUBSCRIPTION),
        "subscription.recovered": Event("It was paid after all.", _SUBSCRIPTION),
        "subscription.paused": Event("", _SUBSCRIPTION),
        "subscription.resumed": Event("", _SUBSCRIPTION),
        "subscription.changed": _mail(
            "It has another plan or other seats.", {**_SUBSCRIPTION, "previous_plan_id": "The plan before."}
        ),
        "subscription.price_changed": _mail(
            "Its plan has another price, which is this subscription's from a day on.",
            _TERMS,
        ),
        "subscription.terms_changed": _mail(
            "It kept an older version of its plan, and was moved to the present one at the same price.", _TERMS
        ),
        "subscription.cancelled": _mail("It ends with its period.", _SUBSCRIPTION),
        "subscription.continued": _mail("It does not end with its period any more.", _SUBSCRIPTION),
        "subscription.ended": _mail("It gives no access any more.", _SUBSCRIPTION),
        "subscription.trial_ends": _mail("In three days a trial ends and is charged.", _SUBSCRIPTION),
        "subscription.renews": _mail(
            "In 21 days a period of more than 180 days ends, and the next begins.",
            {
                **_SUBSCRIPTION,
                "price": "null where only the renewal will tell.",
                "currency": "",
            },
        ),
        "subscription.access_ends": _mail(
            "In three days access ends.",
            {**_SUBSCRIPTION, "access_ends_at": "", "is_unpaid": "true: unless a payment comes; false: cancelled."},
        ),
        "subscription.paid_twice": _mail(
            "Another subscription was paid for, and this one has ended.",
            {**_SUBSCRIPTION, "kept_subscription_id": "The one that goes on.", "kept_plan_id": "Its plan."},
        ),
    }
)

_HEAD = """\
# Events

What is POSTed to `notices.webhook_url`, signed by [Standard Webhooks](https://www.standardwebhooks.com/), and
[mailed](../mail.md) to the customer. Written by `make reference`.

The body is `{"type": "payment.received", "timestamp": "2026-10-01T12:00:00+00:00", "data": {"user_id": "…", …}}`; the
header `webhook-id` is the same at every attempt. `data` has `user_id`, and the fields below; later versions add fields.
Times are ISO 8601, amounts are text."""


def markdown() -> str:
    return "\n".join((_HEAD, *_summary(), *_details())) + "\n"


def _summary() -> Iterator[str]:
    yield "\n| event | webhook | mail | |\n|---|---|---|---|"
    for kind, event in EVENTS.items():
        yield f"| `{kind}` | {_yes(event.is_posted)} | {_yes(event.is_mailed)} | {event.about} |"


def _details() -> Iterator[str]:
    for kind, event in EVENTS.items():
        if event.is_posted and event.fields:
            yield f"\n## {kind}\n\n| field | |\n|---|---|"
            yield from (f"| `{name}` | {meaning} |" for name, meaning in event.fields.items())


def _yes(whether: bool) -> str:
    return "yes" if whether else ""


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - its output is the page
