"""When a customer's credits are topped up by themselves, and what keeps that within what the customer allowed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

# Stripe keeps the answers to requests for a day; from before then on it is only asked what became of a payment.
ASKED_AGAIN_FOR = timedelta(hours=20)
FIRST_RETRY = timedelta(seconds=30)
LAST_RETRY = timedelta(hours=1)

STOPPED, CARD_REMOVED = "top_up.stopped", "top_up.card_removed"


class TopUpStatus(StrEnum):
    """Of the customer's settings. `stopped`: something went wrong, and only the customer starts it again."""

    OFF = "off"
    AWAITING_CARD = "awaiting_card"
    ON = "on"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Spent:
    """What top-ups took, those under way included."""

    today: Decimal
    this_month: Decimal


def day_and_month(now: datetime) -> tuple[datetime, datetime]:
    """When the day and the month began, in UTC."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day, day.replace(day=1)


def exceeds_ceiling(price: Decimal, *, spent: Spent, daily: Decimal, monthly: Decimal) -> bool:
    return spent.today + price > daily or spent.this_month + price > monthly


def retry_after(attempts: int) -> timedelta:
    """How long after an attempt without an answer the next one is due."""
    return min(FIRST_RETRY * (1 << max(0, min(attempts - 1, 10))), LAST_RETRY)
