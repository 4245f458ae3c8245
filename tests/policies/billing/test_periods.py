"""Periods keep their day of the month in the account's time zone, across short months and clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.billing.periods import Interval, PeriodLength, boundary, next_period, nth_period
from tests.policies.billing.calendar_oracle import boundaries

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo")
INTERVALS: tuple[Interval, ...] = ("day", "week", "month", "year")
MONTH = PeriodLength("month")


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc] # year, month, day and so on


anchors = st.datetimes(min_value=datetime(2024, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
spans = st.builds(PeriodLength, st.sampled_from(INTERVALS), st.integers(1, 14))
zones = st.sampled_from(ZONES).map(ZoneInfo)


@settings(max_examples=60, deadline=None)
@given(anchor=anchors, span=spans, zone=zones)
@example(anchor=at(2024, 10, 27, 1, 30), span=PeriodLength("day"), zone=BERLIN)  # the second 02:30 of that day
def test_boundaries_equal_those_of_a_walked_calendar(anchor: datetime, span: PeriodLength, zone: ZoneInfo) -> None:
    walked = boundaries(anchor, span.interval, span.count, zone=zone, until=anchor + timedelta(days=800))
    for number, (start, end) in enumerate(pairwise(walked)):
        found = nth_period(anchor, span, zone=zone, number=number)
        assert (found.start, found.end) == (start, end)


@settings(max_examples=60, deadline=None)
@given(anchor=anchors, span=spans, zone=zones, number=st.integers(0, 60))
def test_periods_have_no_gap_or_overlap(anchor: datetime, span: PeriodLength, zone: ZoneInfo, number: int) -> None:
    this = nth_period(anchor, span, zone=zone, number=number)
    after = next_period(anchor, span, zone=zone, end=this.end)
    assert after == nth_period(anchor, span, zone=zone, number=number + 1)
    assert this.start < this.end == after.start


@settings(max_examples=60, deadline=None)
@given(anchor=anchors, before=spans, after=spans, zones=st.tuples(zones, zones), number=st.integers(0, 20))
def test_changed_length_or_zone_never_shortens_a_period(
    anchor: datetime, before: PeriodLength, after: PeriodLength, zones: tuple[ZoneInfo, ZoneInfo], number: int
) -> None:
    old, new = zones
    end = boundary(anchor, before, zone=old, number=number)
    following_it = next_period(anchor, after, zone=new, end=end)
    shortest = {"day": 1, "week": 7, "month": 28, "year": 365}[after.interval] * after.count
    assert following_it.start == end
    assert following_it.end - end >= timedelta(days=shortest) - timedelta(hours=1)  # of a day when clocks go forward


@pytest.mark.parametrize(
    ("anchor", "span", "zone", "ends"),
    [
        (at(2026, 1, 31, 8), MONTH, "UTC", [at(2026, 2, 28, 8), at(2026, 3, 31, 8), at(2026, 4, 30, 8)]),
        (at(2028, 1, 31), MONTH, "UTC", [at(2028, 2, 29), at(2028, 3, 31)]),
        (
            at(2028, 2, 29),
            PeriodLength("year"),
            "UTC",
            [at(2029, 2, 28), at(2030, 2, 28), at(2031, 2, 28), at(2032, 2, 29)],
        ),
        # Noon in Berlin stays noon in Berlin.
        (at(2026, 3, 1, 11), MONTH, "Europe/Berlin", [at(2026, 4, 1, 10), at(2026, 5, 1, 10)]),
        # 02:30 on 29 March 2026 does not exist there, and 25 October 2026 has it twice.
        (
            at(2026, 3, 28, 1, 30),
            PeriodLength("day"),
            "Europe/Berlin",
            [at(2026, 3, 29, 1, 30), at(2026, 3, 30, 0, 30)],
        ),
        (
            at(2026, 10, 24, 0, 30),
            PeriodLength("day"),
            "Europe/Berlin",
            [at(2026, 10, 25, 0, 30), at(2026, 10, 26, 1, 30)],
        ),
        # The 31st in New York is the 1st in UTC.
        (at(2026, 2, 1, 3), MONTH, "America/New_York", [at(2026, 3, 1, 3), at(2026, 4, 1, 2)]),
    ],
)
def test_boundaries_of_known_dates(anchor: datetime, span: PeriodLength, zone: str, ends: list[datetime]) -> None:
    found = [nth_period(anchor, span, zone=ZoneInfo(zone), number=number).end for number in range(len(ends))]
    assert found == ends


def test_skipped_day_makes_no_empty_period() -> None:
    """Samoa went from 29 to 31 December 2011."""
    zone, anchor = ZoneInfo("Pacific/Apia"), at(2011, 12, 25, 20)
    ends, start = [], anchor
    for _ in range(8):
        found = next_period(anchor, PeriodLength("day"), zone=zone, end=start)
        assert found.end > found.start
        ends.append(found.end)
        start = found.end
    assert ends == sorted(set(ends))
