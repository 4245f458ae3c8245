"""What is told of a change of a subscription, and of a payment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from gateway.config.operation.notifications import BillingMail
from policies.billing import news
from policies.billing.news import SubscriptionFacts, payment_news
from policies.model import SubscriptionStatus as Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MONTH = timedelta(days=31)
ACTIVE = SubscriptionFacts(Status.ACTIVE, "pro", 1, NOON, NOON + MONTH, is_ending=False)
NEXT = {"period_start": NOON + MONTH, "period_end": NOON + 2 * MONTH}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, {"status": Status.INCOMPLETE}, []),
        (None, {}, ["started"]),
        ({"status": Status.INCOMPLETE}, {"status": Status.TRIALING}, ["started"]),
        ({"status": Status.INCOMPLETE}, {"status": Status.EXPIRED}, []),
        ({}, {}, []),
        ({}, NEXT, ["renewed"]),
        ({}, {"period_end": NOON + 2 * MONTH}, []),
        ({"status": Status.TRIALING}, NEXT, ["renewed"]),
        ({}, {**NEXT, "plan_id": "basic"}, ["changed", "renewed"]),
        ({}, {"quantity": 2}, ["changed"]),
        ({}, {"is_ending": True}, ["cancelled"]),
        ({"is_ending": True}, {}, ["continued"]),
        ({"is_ending": True}, {"status": Status.CANCELED}, ["ended"]),
        ({}, {"status": Status.PAST_DUE}, ["past_due"]),
        ({"status": Status.PAST_DUE}, {}, ["recovered"]),
        ({"status": Status.PAST_DUE}, NEXT, ["renewed", "recovered"]),
        ({"status": Status.PAST_DUE}, {"status": Status.EXPIRED}, ["ended"]),
        ({"status": Status.EXPIRED}, {"status": Status.CANCELED}, []),
        ({"status": Status.EXPIRED}, NEXT, ["renewed", "recovered"]),
        ({}, {"status": Status.PAUSED}, ["paused"]),
        ({"status": Status.PAUSED}, {}, ["resumed"]),
    ],
)
def test_change_of_a_subscription_is_told_by_kind(
    before: dict[str, Any] | None, after: dict[str, Any], told: list[str]
) -> None:
    found = news.news(None if before is None else replace(ACTIVE, **before), replace(ACTIVE, **after))
    assert found == tuple(f"subscription.{each}" for each in told)


@pytest.mark.parametrize(
    ("transaction_type", "before", "after", "told"),
    [
        ("subscription", None, "completed", news.RECEIVED),
        ("credits", "pending", "completed", news.RECEIVED),
        ("subscription", "failed", "completed", news.RECEIVED),
        ("subscription", "completed", "completed", None),
        ("subscription", "disputed", "completed", None),
        ("subscription", "completed", "refunded", None),
        ("subscription", "partially_refunded", "completed", None),
        ("subscription", None, "pending", None),
        ("subscription", "pending", "failed", news.FAILED),
        ("refund", None, "completed", news.REFUNDED),
        ("refund", "completed", "failed", None),
        ("dispute", None, "disputed", news.DISPUTED),
        ("dispute", "disputed", "completed", news.DISPUTE_CLOSED),
    ],
)
def test_status_of_a_payment_is_told_once(
    transaction_type: str, before: str | None, after: str, told: str | None
) -> None:
    assert payment_news(transaction_type, before=before, after=after) == told


def test_every_mail_about_billing_can_be_turned_off() -> None:
    assert set(get_args(BillingMail)) == news.MAILED | {"invoice.issued"}
