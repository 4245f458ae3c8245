"""A slow oracle for billing periods: walks dates day by day and finds instants by trying offsets."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)


def boundaries(anchor: datetime, interval: str, count: int, *, zone: ZoneInfo, until: datetime) -> list[datetime]:
    """The boundaries from the anchor up to the first one after `until`."""
    local = anchor.astimezone(zone)
    found, day = [anchor.astimezone(UTC)], local.date()
    while found[-1] <= until:
        day = _next(day, local.date(), interval, count)
        found.append(instant(datetime.combine(day, local.time()), zone))
    return found


def instant(wanted: datetime, zone: ZoneInfo) -> datetime:
    """The first instant with this local time; in a gap, by the offset before it."""
    wanted = wanted.replace(fold=0)
    before, after = (_offset((wanted + shift).replace(tzinfo=UTC), zone) for shift in (-2 * DAY, 2 * DAY))
    tried = sorted((wanted - offset).replace(tzinfo=UTC) for offset in {before, after})
    shown = [at for at in tried if at.astimezone(zone).replace(tzinfo=None, fold=0) == wanted]
    return shown[0] if shown else (wanted - before).replace(tzinfo=UTC)


def _next(day: date, first: date, interval: str, count: int) -> date:
    """Walks to the next day that corresponds to the anchor's day."""
    if interval in ("day", "week"):
        return day + count * (7 if interval == "week" else 1) * DAY
    months = count * (12 if interval == "year" else 1)
    passed = 0
    day = day.replace(day=1)
    while passed < months:
        before, day = day, day + DAY
        passed += day.month != before.month
    while day.day < first.day and (day + DAY).month == day.month:
        day += DAY
    return day


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()
