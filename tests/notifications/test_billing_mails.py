"""Each mail about payments and subscriptions says what happened, how much, until when, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.notifications.email_templates import TemplateContext, render
from policies.billing import news

PAYMENT = {"amount": "29.99", "currency": "EUR", "description": "Subscription: Pro", "error": None}
SUBSCRIPTION = {
    "plan_id": "pro",
    "plan": "Pro",
    "quantity": 3,
    "current_period_end": "2026-07-15T12:00:00+00:00",
    "kept_plan_id": "basic",
    "price": "39.99",
    "previous_price": "29.99",
    "currency": "EUR",
    "effective_at": "2026-07-15T12:00:00+00:00",
    "access_ends_at": "2026-07-15T12:00:00+00:00",
    "is_unpaid": False,
}


@pytest.mark.parametrize("kind", sorted(news.MAILED))
def test_kind_has_a_text_of_its_own(kind: str) -> None:
    about_payment = kind.startswith("payment.")
    email = mail(kind, PAYMENT if about_payment else SUBSCRIPTION)
    assert ":" not in email.subject
    assert ("29.99 EUR" if about_payment else "Pro" if kind != news.PAID_TWICE else "basic") in email.text
    assert "Hello Ada," in email.text
    assert "quantity:" not in email.text  # the raw payload


@pytest.mark.parametrize(
    "kind", [news.CANCELLED, news.CONTINUED, news.TRIAL_ENDS, news.PRICE_CHANGED, news.ACCESS_ENDS, news.RENEWS]
)
def test_mail_about_an_end_names_its_day(kind: str) -> None:
    assert "2026-07-15" in mail(kind, SUBSCRIPTION).text


def test_mail_about_a_price_names_both() -> None:
    assert "from 29.99 to 39.99 EUR" in mail(news.PRICE_CHANGED, SUBSCRIPTION).text
    assert "from 39.99" not in mail(news.PRICE_CHANGED, {**SUBSCRIPTION, "previous_price": "39.99"}).text


def test_mail_about_a_failed_payment_gives_the_reason() -> None:
    assert "The reason given: card declined." in mail(news.FAILED, {**PAYMENT, "error": "card declined"}).text


@pytest.mark.parametrize(
    ("percent", "subject"), [(80, "80 % of your credits are used"), (100, "The credits of this period are used up")]
)
def test_mail_about_low_credits_is_a_sentence(percent: int, subject: str) -> None:
    payload = {
        "percent": percent,
        "period_credits": 1000,
        "credits_used_this_period": 800,
        "current_credits": 200,
        "period_start": "2026-03-01T12:01:13.389579+00:00",
        "period_end": "2026-03-28T12:01:13.389579+00:00",
    }
    email = mail("credits.threshold", payload)
    assert email.subject == subject
    fact = "You have used 800 of the 1000 credits of the period, which ends on 2026-03-28. 200 are left."
    assert fact in email.text


def mail(kind: str, payload: dict[str, Any]) -> Any:
    return render(kind, payload, name="Ada", context=TemplateContext(secret="s" * 32))
