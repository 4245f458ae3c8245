"""Differences are drawn around nothing, told in words, and marked where they are certain."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from gateway.web.intervals import WIDTH, Relative, interval_chart

ROWS = [
    Relative("b: Paid conversion", 0.05, 0.2, 0.35, True),
    Relative("b: <Credits>", -0.1, -0.02, 0.06, False),
    Relative("c: Revenue", -0.4, -0.3, -0.2, True),
]


def test_each_row_is_told_and_drawn_where_it_is() -> None:
    figure = ElementTree.fromstring(str(interval_chart("Differences", ROWS)))  # noqa: S314 - our own
    description = figure.find(".//desc")
    assert description is not None
    assert "b: <Credits>: \u22122.0 %, from \u221210.0 % to +6.0 %" in (description.text or "")
    zero = next(float(each.attrib["x1"]) for each in figure.iter("line") if "zero" in each.get("class", ""))
    drawn = [each for each in figure.iter("g") if "interval" in each.get("class", "")]
    assert [each.attrib["class"].split()[1] for each in drawn] == ["sure-more", "unsure", "sure-less"]
    for row, group in zip(ROWS, drawn, strict=True):
        line = group.find("line")
        assert line is not None
        low, high = float(line.attrib["x1"]), float(line.attrib["x2"])
        assert 0 <= low < high <= WIDTH
        assert ((low < zero), (high < zero)) == ((row.low < 0), (row.high < 0))


def test_a_chart_has_neither_styles_nor_scripts() -> None:
    assert not re.search(r"style|script|\bon\w+=", str(interval_chart("Differences", ROWS)))
    assert "Nothing yet" in interval_chart("Differences", [])
