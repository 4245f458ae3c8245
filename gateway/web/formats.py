"""How values are written on pages: numbers in groups, times in the reader's zone with the instant for machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

from markupsafe import Markup

from policies.billing.money import exponent, plain

NOTHING = "\u2013"
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_ACRONYMS = {word.lower(): word for word in ("AI", "API", "CSV", "IP", "PDF", "VAT")}
_LONG_NUMBER = re.compile(r"(?<![\d.])\d{4,}")
_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def number(value: float | Decimal | None) -> str:
    """1234567 as 1,234,567; a fraction keeps its digits, and a float six of them."""
    if value is None:
        return NOTHING
    return f"{value:,.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"


def compact(value: float) -> str:
    """1,234,567 as 1.2M, for the axis of a chart."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def money(amount: str | Decimal | None, currency: str = "") -> str:
    """`1234.5` of USD as 1,234.50 USD, `0.010` as 0.01 USD; without a currency with the digits that it has."""
    if amount is None:
        return NOTHING
    exact = Decimal(amount)
    if not currency:
        return f"{exact:,f}"
    digits = len(plain(exact).rstrip("0").partition(".")[2]) if "." in plain(exact) else 0
    return f"{exact:,.{max(exponent(currency), digits)}f} {currency}"


def size(value: int | None) -> str:
    if value is None:
        return NOTHING
    return next((f"{value / unit:.3g} {name}" for unit, name in _SIZES if value >= unit), f"{value} B")


def duration(seconds: float) -> str:
    """5400 as 1 hour, cut to the largest unit."""
    for length, name in _SPANS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'' if count == 1 else 's'}"
    count = int(seconds)
    return f"{count} second{'' if count == 1 else 's'}"


def zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError):
        return UTC


def instant(value: datetime | None, where: tzinfo = UTC) -> str | Markup:
    """As a `time` element: minutes in the zone of the reader."""
    return _time(value, f"{value.astimezone(where):%d %b %Y, %H:%M}") if value else NOTHING


def day(value: datetime | date | None, where: tzinfo = UTC) -> str | Markup:
    if value is None:
        return NOTHING
    shown = value.astimezone(where) if isinstance(value, datetime) else value
    return _time(value, f"{shown:%d %b %Y}")


def _time(value: datetime | date, text: str) -> Markup:
    exact = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(value, datetime) else value.isoformat()
    return Markup('<time datetime="{}">{}</time>').format(exact, text)


def words(code: str) -> str:
    """`partially_refunded` as Partially refunded."""
    text = " ".join(_ACRONYMS.get(word, word) for word in code.replace("_", " ").replace("-", " ").split())
    return text[:1].upper() + text[1:]


def plainly(text: str) -> str:
    """Prose of the API reference without its quotes of code."""
    return text.replace("`", "")


def legible(text: str) -> str:
    """How a charge came about, as API answers have it: numbers in groups, `cached_input` as cached input."""
    return _LONG_NUMBER.sub(lambda found: f"{int(found[0]):,}", text).replace("_", " ")


def several(count: int, noun: str) -> str:
    """`1 credit`, `1,200 credits`."""
    return f"{count:,} {noun_of(count, noun)}"


def noun_of(count: int, noun: str) -> str:
    """`credit` of 1, else `credits`."""
    return noun if count == 1 else f"{noun}s"


FILTERS: Mapping[str, object] = {
    "number": number,
    "money": money,
    "noun_of": noun_of,
    "size": size,
    "duration": duration,
    "instant": instant,
    "day": day,
    "words": words,
    "plainly": plainly,
    "legible": legible,
    "several": several,
}
