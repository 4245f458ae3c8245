"""E-mail templates by kind of notification; a kind without a template is rendered as its name and payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from gateway.notifications import billing_emails
from policies.access.tokens import Purpose, one_time
from policies.billing.money import CreditValue, plain


@dataclass(frozen=True, slots=True)
class Email:
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateContext:
    """What templates need beyond the payload: the secret that derives tokens, and the pages that accept them.

    A link contains `{token}`. Without a link the e-mail names the API request that accepts the token. `credit_value`
    shows credits as money beside the credits.
    """

    secret: str = field(repr=False)
    verify_link: str | None = None
    reset_link: str | None = None
    credit_value: CreditValue | None = None


def _email(subject: str, *paragraphs: str) -> Email:
    return Email(subject, "\n\n".join(paragraphs))


_TEMPLATES: Mapping[str, Email] = {
    "account.verify_email": _email(
        "Verify your e-mail address",
        "Please confirm that this address is yours:",
        "{action}",
        "If you opened no account, ignore this message.",
    ),
    "account.reset_password": _email(
        "Set a new password",
        "Somebody, presumably you, asked for a new password for your account:",
        "{action}",
        "If it was not you, ignore this message; your password stays as it is.",
    ),
    "account.password_changed": _email(
        "Your password was changed",
        "The password of your account was changed just now, and other sessions were ended.",
        "If it was not you, ask for a new password at once and revoke your API keys.",
    ),
    "account.email_changed": _email(
        "Your e-mail address was changed",
        "Your account has another e-mail address since just now, and this is the last message to the one before.",
        "If it was not you, tell the operator of this service at once: whoever did it knew your password.",
    ),
    "account.registered_again": _email(
        "You have an account already",
        "Somebody, presumably you, opened an account with this address, which has one already. Nothing was changed.",
        "Log in with the password that you have, or ask for a new one. If it was not you, ignore this message.",
    ),
    "account.token_reused": _email(
        "A session was ended",
        "A refresh token of your account was used twice, which happens when one is stolen. The session was ended.",
        "Log in again. If you did not copy the token yourself, change your password and revoke your API keys.",
    ),
}
_CREDITS = frozenset({"period_credits", "credits_used_this_period", "current_credits", "balance_below"})
_MAX_NAME = 60
_LINK = re.compile(r"[:/@\\]|www|\w\.\w\w")
_ONE_TIME = {
    "account.verify_email": (Purpose.VERIFY_EMAIL, "verify_link", "POST /auth/verify-email"),
    "account.reset_password": (Purpose.RESET_PASSWORD, "reset_link", "POST /auth/reset-password"),
}


def render(kind: str, payload: Mapping[str, Any], *, name: str | None, context: TemplateContext) -> Email:
    """The e-mail for a notification. `name` is None while the address is unverified."""
    email = _TEMPLATES.get(kind) or _of_payload(kind, payload, context.credit_value)
    text = email.text
    if kind in _ONE_TIME:
        text = text.replace("{action}", _action(kind, payload, context))
    return Email(email.subject, f"{_greeting(name)}\n\n{text}\n")


def _greeting(name: str | None) -> str:
    """Without a name that could pass for a message of the operator's: several lines, a link, an address."""
    is_name = name and name.isprintable() and len(name) <= _MAX_NAME and not _LINK.search(name)
    return f"Hello {name}," if is_name else "Hello,"


def _action(kind: str, payload: Mapping[str, Any], context: TemplateContext) -> str:
    purpose, link_name, request = _ONE_TIME[kind]
    token = one_time(context.secret, purpose, UUID(payload["token_id"]))
    link: str | None = getattr(context, link_name)
    action = f"{request} with the token\n{token}" if link is None else link.replace("{token}", token)
    return f"{action}\n\nThis is good once, until {payload['expires_at'][:16].replace('T', ' ')} UTC."


def _of_payload(kind: str, payload: Mapping[str, Any], credit_value: CreditValue | None) -> Email:
    """A payload that another version wrote may lack what the text names, and is shown as it is."""
    try:
        return _told(kind, payload, credit_value)
    except KeyError:
        return _plain(kind, payload, credit_value)


def _told(kind: str, payload: Mapping[str, Any], credit_value: CreditValue | None) -> Email:
    if kind == "invoice.issued":
        return _invoice(payload)
    if kind == "credits.threshold":
        return _credits(payload, credit_value)
    if kind == "credits.low":
        return _low_balance(payload, credit_value)
    told = billing_emails.describe(kind, payload)
    return _plain(kind, payload, credit_value) if told is None else _email(*told)


def _credits(payload: Mapping[str, Any], credit_value: CreditValue | None) -> Email:
    used, of_period, left = (
        _shown(name, payload, credit_value)
        for name in ("credits_used_this_period", "period_credits", "current_credits")
    )
    title = f"{payload['percent']} % of your credits are used"
    if payload["percent"] >= 100:
        title = "The credits of this period are used up"
    return _email(
        title,
        f"You have used {used} of the {of_period} credits of the period, which ends on"
        f" {billing_emails.day(payload['period_end'])}. {left} are left.",
        "Once none are left, calls are refused until the next period begins, or you have more: GET /plans lists what is"
        " on offer.",
    )


def _low_balance(payload: Mapping[str, Any], credit_value: CreditValue | None) -> Email:
    limit, left = (_shown(name, payload, credit_value) for name in ("balance_below", "current_credits"))
    return _email(
        f"Fewer than {payload['balance_below']} credits are left",
        f"You asked to be told when fewer than {limit} credits are left: {left} are.",
        "GET /plans lists what is on offer. PATCH /me/alerts changes when you are told.",
    )


def _invoice(payload: Mapping[str, Any]) -> Email:
    """Without the file, which the account's pages and the API give."""
    amount = f"{payload['total'].removeprefix('-')} {payload['currency']}"
    if payload["corrects_id"] is not None or payload["total"].startswith("-"):
        title, fact = f"Credit note {payload['number']}", f"{amount} were credited to you."
    elif payload["due_on"] is None:
        title, fact = f"Invoice {payload['number']}", "There is nothing to pay."
    else:
        title, fact = f"Invoice {payload['number']}", f"{amount} are due by {payload['due_on']}."
    return _email(title, fact, "You find it among the invoices of your account: GET /me/invoices.")


def _plain(kind: str, payload: Mapping[str, Any], credit_value: CreditValue | None) -> Email:
    """`credits.threshold` with {percent: 80} reads: Credits: threshold / percent: 80."""
    about, _, what = kind.partition(".")
    title = f"{about.capitalize()}: {what.replace('_', ' ').replace('.', ' ')}" if what else about.capitalize()
    facts = "\n".join(f"{name.replace('_', ' ')}: {_shown(name, payload, credit_value)}" for name in payload)
    return Email(title, facts or title)


def _shown(name: str, payload: Mapping[str, Any], credit_value: CreditValue | None) -> str:
    """`20`, and where it is a balance of credits that are worth something `20 (0.20 USD)`."""
    value = payload[name]
    if credit_value is None or name not in _CREDITS or not isinstance(value, int):
        return str(value)
    return f"{value} ({plain(credit_value.amount(value))} {credit_value.currency})"
