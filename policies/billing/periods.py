"""Billing periods by the calendar of the account's time zone.

All boundaries are counted from one anchor, the local time at which the first period started, so a short month shortens
one period and shifts none: 31 January, 28 February, 31 March. Around clock changes a boundary follows RFC 5545 section
3.3.5: a local time in a gap uses the offset before the gap, and an ambiguous one is the first occurrence.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal
from zoneinfo import ZoneInfo

Interval = Literal["day", "week", "month", "year"]

_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


# Three years, and trials of two: as long as payment providers bill in one.
LONGEST: Mapping[str, int] = MappingProxyType({"day": 1095, "week": 156, "month": 36, "year": 3})
LONGEST_TRIAL_DAYS = 730


@dataclass(frozen=True, slots=True)
class PeriodLength:
    """The length of a period: `count` times the interval."""

    interval: Interval
    count: int = 1


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """`start` is inclusive, `end` exclusive, both UTC; boundaries are counted from `anchor`."""

    anchor: datetime
    start: datetime
    end: datetime


def nth_period(anchor: datetime, span: PeriodLength, *, zone: ZoneInfo, number: int) -> BillingPeriod:
    """The period of this number; number 0 starts at the anchor."""
    return BillingPeriod(
        anchor, boundary(anchor, span, zone=zone, number=number), boundary(anchor, span, zone=zone, number=number + 1)
    )


def next_period(anchor: datetime, span: PeriodLength, *, zone: ZoneInfo, end: datetime) -> BillingPeriod:
    """The period after the one that ends at `end`.

    If `end` is no boundary, because the length or the zone has changed, `end` becomes the anchor, so that no period is
    shorter than its length.
    """
    number = _number(anchor, span, zone=zone, at=end)
    if boundary(anchor, span, zone=zone, number=number) == end:
        return BillingPeriod(anchor, end, boundary(anchor, span, zone=zone, number=number + 1))
    return nth_period(end, span, zone=zone, number=0)


def boundary(anchor: datetime, span: PeriodLength, *, zone: ZoneInfo, number: int) -> datetime:
    """The start of period `number`, in UTC."""
    if number == 0:
        return anchor.astimezone(UTC)  # exact, even for the second of two equal local times
    local = anchor.astimezone(zone).replace(tzinfo=None, fold=0)
    if span.interval in _DAYS:
        moved = local + timedelta(days=number * span.count * _DAYS[span.interval])
    else:
        moved = _months_later(local, number * span.count * _MONTHS[span.interval])
    return moved.replace(tzinfo=zone).astimezone(UTC)


def _number(anchor: datetime, span: PeriodLength, *, zone: ZoneInfo, at: datetime) -> int:
    """The number of the last period that has started at `at`."""
    first, last = anchor.astimezone(zone), at.astimezone(zone)
    if span.interval in _DAYS:
        passed = (last.date() - first.date()).days // _DAYS[span.interval]
    else:
        passed = ((last.year - first.year) * 12 + last.month - first.month) // _MONTHS[span.interval]
    number = (
        passed // span.count + 1
    )  # an estimate by dates: at most one too many, or two too few in a zone that skips days
    while boundary(anchor, span, zone=zone, number=number + 1) <= at:
        number += 1
    while boundary(anchor, span, zone=zone, number=number) > at:
        number -= 1
    return number


def _months_later(local: datetime, months: int) -> datetime:
    """The same day of the month, or the last day of a shorter month."""
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    return local.replace(year=year, month=month + 1, day=min(local.day, monthrange(year, month + 1)[1]))
