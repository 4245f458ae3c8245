"""A chart of differences with their intervals, one below the other around nothing, as SVG without styles or scripts.

It is drawn as the charts of `charts.py`; the page beside it has the same numbers as a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from math import floor, log10
from typing import NamedTuple

from markupsafe import Markup

WIDTH, ROW = 960, 44
LEFT, RIGHT, BOTTOM = 330, 30, 40
_LEAST_REACH = 0.01
_ids = count(1)


class Relative(NamedTuple):
    """A difference and its interval, as parts of what it is the difference to."""

    label: str
    low: float
    value: float
    high: float
    is_significant: bool


def interval_chart(title: str, rows: Sequence[Relative]) -> Markup:
    """A row for each difference, green where it is significant and above nothing, red where it is below."""
    name = f"intervals-{next(_ids)}"
    height = ROW * len(rows) + BOTTOM
    reach = _rounded(max([_LEAST_REACH, *(abs(edge) for row in rows for edge in (row.low, row.high))]))
    drawing = Markup("").join((*_axis(reach, height), *(_row(row, at, reach) for at, row in enumerate(rows))))
    return Markup(
        '<figure class="figure"><figcaption>{}</figcaption><svg class="chart" viewBox="0 0 {} {}" role="img" '
        'aria-labelledby="{}-title {}-desc"><title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>'
        "</figure>"
    ).format(title, WIDTH, height, name, name, name, title, name, "; ".join(map(told, rows)) or "Nothing yet", drawing)


def told(row: Relative) -> str:
    """`other, conversion: +12 %, from -3 % to +27 %`."""
    return f"{row.label}: {percent(row.value)}, from {percent(row.low)} to {percent(row.high)}"


def percent(part: float) -> str:
    return f"{part:+.1%}".replace("%", " %").replace("-", "\u2212")


def _rounded(reach: float) -> float:
    """Up to a number that reads well, as its half does."""
    power: float = 10 ** floor(log10(reach))
    return next(step * power for step in (1, 2, 3, 4, 6, 8, 10) if step * power >= reach)


def _x(value: float, reach: float) -> str:
    middle, half = (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 2
    return f"{middle + half * value / reach:.1f}"


def _axis(reach: float, height: int) -> Iterator[Markup]:
    bottom = height - BOTTOM
    for value in (-reach, -reach / 2, 0.0, reach / 2, reach):
        x = _x(value, reach)
        kind = "grid zero" if value == 0 else "grid"
        yield Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="{}"/>').format(kind, x, x, bottom)
        minor = "" if value == 0 or abs(value) == reach else " minor"
        anchor = "end" if value == reach else "middle"
        text = "the control" if value == 0 else percent(value).replace(".0 %", " %")
        yield Markup('<text class="tick{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            minor, x, height - 12, anchor, text
        )


def _row(row: Relative, at: int, reach: float) -> Markup:
    y = ROW * at + ROW // 2
    tone = "sure-less" if row.value < 0 else "sure-more"
    drawn = "interval " + (tone if row.is_significant else "unsure")
    return Markup(
        '<g class="{}"><title>{}</title><text class="tick" x="0" y="{}" dy="4">{}</text>'
        '<line x1="{}" x2="{}" y1="{}" y2="{}"/><circle cx="{}" cy="{}" r="6"/></g>'
    ).format(drawn, told(row), y, row.label, _x(row.low, reach), _x(row.high, reach), y, y, _x(row.value, reach), y)
