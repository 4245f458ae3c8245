"""Charts as SVG: drawn by classes of the style sheet, with a title, a description, and the same numbers as a table.

The policy of the pages forbids inline styles and scripts (docs/decisions/0036-charts.md), so a chart has neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from math import floor, log10
from typing import NamedTuple

from markupsafe import Markup, escape

from gateway.web.formats import compact, number

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 60, 8, 12, 44
MAX_SERIES = 6  # as many as the style sheet has tones that can be told apart
_LABEL_WIDTH = 64
_TICKS = 4
_ids = count(1)


class Series(NamedTuple):
    name: str
    values: Sequence[float]


class _Frame(NamedTuple):
    """Where values are on the drawing: `step` apart for each label, up to `top`."""

    labels: Sequence[str]
    top: float
    tick: float

    @property
    def step(self) -> float:
        return (WIDTH - LEFT - RIGHT) / max(1, len(self.labels))

    def x(self, index: int) -> float:
        """The middle of the place of a label."""
        return LEFT + self.step * (index + 0.5)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / self.top)


def line_chart(title: str, labels: Sequence[str], series: Sequence[Series], *, unit: str = "") -> Markup:
    """A line for each series. ValueError for series of another length than the labels, or too many of them."""
    frame = _frame(labels, series, top=max((max(each.values, default=0) for each in series), default=0))
    return _chart(
        title, frame, series, unit, [part for index, each in enumerate(series) for part in _line(frame, each, index)]
    )


def bar_chart(title: str, labels: Sequence[str], series: Sequence[Series], *, unit: str = "") -> Markup:
    """A bar for each label, in which the series are stacked. ValueError as `line_chart`."""
    sums = [sum(values) for values in zip(*(each.values for each in series), strict=True)]
    frame = _frame(labels, series, top=max(sums, default=0))
    return _chart(title, frame, series, unit, list(_bars(frame, series)))


def _frame(labels: Sequence[str], series: Sequence[Series], *, top: float) -> _Frame:
    if len(series) > MAX_SERIES:
        raise ValueError(f"a chart has {MAX_SERIES} series at most, not {len(series)}")
    if any(len(each.values) != len(labels) for each in series):
        raise ValueError("each series has a value for each label")
    tick = _round_up(top / _TICKS) if top > 0 else 1
    ticks = max(1, -int(-top // tick))
    return _Frame(labels, tick * ticks, tick)


def _round_up(value: float) -> float:
    """1, 2 or 5 times a power of ten: what people read off an axis."""
    power: float = 10 ** floor(log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999999)


def _line(frame: _Frame, series: Series, index: int) -> Iterator[Markup]:
    points = [(frame.x(at), frame.y(value)) for at, value in enumerate(series.values)]
    if not points:
        return
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    if index == 0:
        base = frame.y(0)
        area = f"M{points[0][0]:.1f} {base:.1f}L{path}L{points[-1][0]:.1f} {base:.1f}Z"
        yield Markup('<path class="area tone-1" d="{}"/>').format(area)
    yield Markup('<path class="line tone-{}" d="M{}"/>').format(index + 1, path)
    for (x, y), label, value in zip(points, frame.labels, series.values, strict=True):
        tip = f"{label}: {number(value)} {series.name}"
        yield Markup('<circle class="dot tone-{}" cx="{}" cy="{}" r="7"><title>{}</title></circle>').format(
            index + 1, f"{x:.1f}", f"{y:.1f}", tip
        )


def _bars(frame: _Frame, series: Sequence[Series]) -> Iterator[Markup]:
    width = max(1.0, min(40.0, frame.step * 0.72))
    for at, label in enumerate(frame.labels):
        below = 0.0
        for index, each in enumerate(series):
            value = each.values[at]
            if not value:
                continue
            low, high = frame.y(below), frame.y(below + value)
            below += value
            yield Markup(
                '<rect class="bar tone-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            ).format(
                index + 1,
                f"{frame.x(at) - width / 2:.1f}",
                f"{high:.1f}",
                f"{width:.1f}",
                f"{max(0.5, low - high):.1f}",
                f"{label}: {number(value)} {each.name}",
            )


def _axes(frame: _Frame) -> Iterator[Markup]:
    for step in range(round(frame.top / frame.tick) + 1):
        value = frame.tick * step
        y = f"{frame.y(value):.1f}"
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y)
        yield Markup('<text class="tick" x="{}" y="{}" dy="4" text-anchor="end">{}</text>').format(
            LEFT - 8, y, compact(value)
        )
    every = max(1, -int(-_LABEL_WIDTH // frame.step))
    for at in range(0, len(frame.labels), every):
        kind = "tick" if at // every % 3 == 0 else "tick minor"
        yield Markup('<text class="{}" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            kind, f"{frame.x(at):.1f}", HEIGHT - 12, frame.labels[at]
        )


def _chart(title: str, frame: _Frame, series: Sequence[Series], unit: str, drawing: list[Markup]) -> Markup:
    name = f"chart-{next(_ids)}"
    svg = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}{}</svg>'
    ).format(
        *(WIDTH, HEIGHT, name, name, name, title, name, _description(frame.labels, series, unit)),
        Markup("").join(_axes(frame)),
        Markup("").join(drawing),
    )
    return Markup('<figure class="figure"><figcaption>{}</figcaption>{}{}{}</figure>').format(
        title, _legend(series), svg, _table(title, frame.labels, series)
    )


def _description(labels: Sequence[str], series: Sequence[Series], unit: str) -> str:
    """What the chart shows at large; the table has each number."""
    if not labels or not series:
        return "There is nothing to show."
    sums = ", ".join(f"{each.name} {number(sum(each.values))}" for each in series)
    return f"From {labels[0]} to {labels[-1]}, in all: {f'{sums} {unit}'.strip()}. A table with each number follows."


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) < 2:
        return Markup("")
    items = Markup("").join(
        Markup('<li class="tone-{}"><svg class="key" viewBox="0 0 9 9" aria-hidden="true">{}</svg>{}</li>').format(
            index + 1, Markup('<rect width="9" height="9" rx="2"/>'), each.name
        )
        for index, each in enumerate(series)
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _table(title: str, labels: Sequence[str], series: Sequence[Series]) -> Markup:
    head = Markup("").join(Markup('<th scope="col" class="num">{}</th>').format(each.name) for each in series)
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            label,
            Markup("").join(Markup('<td class="num">{}</td>').format(number(each.values[at])) for each in series),
        )
        for at, label in enumerate(labels)
    )
    return Markup(
        '<details class="numbers"><summary>Show the numbers</summary><div class="scroll" tabindex="0" role="region" '
        'aria-label="{}"><table><caption class="unseen">{}</caption><thead><tr><th scope="col">Time</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div></details>"
    ).format(title, escape(title), head, rows)
