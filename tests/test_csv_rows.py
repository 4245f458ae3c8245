"""Rows of CSV keep what they hold, and no cell is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gateway.csv_rows import CsvWriter


def written(*row: object) -> list[str]:
    text = io.StringIO()
    CsvWriter(text).write(row)
    return next(csv.reader(io.StringIO(text.getvalue(), newline="")))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-", "=cmd|' /C calc'!A0", "-1e9"]
)
def test_formula_is_text_to_a_spreadsheet(text: str) -> None:
    assert written(text) == [f"'{text}"]


@pytest.mark.parametrize(
    ("value", "cell"),
    [(-5, "-5"), (Decimal("-0.25"), "-0.25"), ("-5", "-5"), ("-5.25", "-5.25"), ("1-1", "1-1"), ("a=b", "a=b")],
)
def test_number_and_harmless_text_stay_as_they_are(value: object, cell: str) -> None:
    assert written(value) == [cell]


def test_null_is_empty_a_map_is_json_and_an_instant_is_iso_8601() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert written(None, {"a": "é"}, noon) == ["", '{"a": "é"}', "2026-01-01T12:00:00+00:00"]


def test_text_with_quotes_commas_and_lines_is_read_back() -> None:
    awkward = 'a "quoted", comma\nand a line: é'
    assert written(awkward, 1) == [awkward, "1"]
