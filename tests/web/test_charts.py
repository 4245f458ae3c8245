"""Charts can be read without seeing them, and carry nothing that the policy of the pages forbids."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from gateway.web.charts import HEIGHT, MAX_SERIES, WIDTH, Series, bar_chart, line_chart

LABELS = ["1 Nov", "2 Nov", "3 Nov"]
CREDITS = Series("credits", [1200, 0, 3400])


@pytest.mark.parametrize("draw", [line_chart, bar_chart])
def test_a_chart_has_a_title_a_description_and_its_table(draw: object) -> None:
    text = str(draw("Use <by> day", LABELS, [CREDITS, Series("calls", [1, 2, 3])]))  # type: ignore[operator]
    figure = ElementTree.fromstring(text)  # noqa: S314 - our own
    svg = figure.find(".//svg[@role='img']")
    assert svg is not None
    named = {each.get("id"): each.text for each in svg if each.tag in ("title", "desc")}
    assert list(named) == svg.attrib["aria-labelledby"].split()
    assert next(iter(named.values())) == "Use <by> day"
    assert "credits 4,600, calls 6" in (list(named.values())[1] or "")
    rows = [["".join(cell.itertext()) for cell in row] for row in figure.iter("tr")]
    assert rows == [["Time", "credits", "calls"], ["1 Nov", "1,200", "1"], ["2 Nov", "0", "2"], ["3 Nov", "3,400", "3"]]


@pytest.mark.parametrize("draw", [line_chart, bar_chart])
def test_a_chart_has_no_style_or_script_and_stays_on_its_drawing(draw: object) -> None:
    for values in ([0, 0, 0], [1, 1, 1], [0.001, 0, 5e12]):
        text = str(draw("x", LABELS, [Series("y", values)]))  # type: ignore[operator]
        assert not re.search(r"style|script|\bon\w+=", text)
        for axis, limit in (("x", WIDTH), ("y", HEIGHT), ("cx", WIDTH), ("cy", HEIGHT)):
            found = [float(each) for each in re.findall(rf' {axis}="([-\d.]+)"', text)]
            assert all(0 <= each <= limit for each in found), (values, axis, found)


def test_a_chart_of_nothing_says_so() -> None:
    assert "There is nothing to show." in bar_chart("x", [], [Series("y", [])])
    assert "There is nothing to show." in line_chart("x", [], [Series("y", [])])
    assert "There is nothing to show." in bar_chart("x", LABELS, [])


def test_a_chart_of_series_that_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a value for each label"):
        line_chart("x", LABELS, [Series("y", [1])])
    with pytest.raises(ValueError, match="at most"):
        bar_chart("x", LABELS, [CREDITS] * (MAX_SERIES + 1))


def test_text_of_a_chart_is_escaped() -> None:
    text = str(line_chart("<b>", ["<i>"], [Series("<script>", [1])]))
    assert "<b>" not in text
    assert "<i>" not in text
    assert "<script>" not in text
