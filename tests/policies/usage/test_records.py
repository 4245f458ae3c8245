"""Whatever a client sends, its record is one line of COPY text that reads back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.usage.records import COLUMNS, HEAD_COLUMNS, NULL, TAIL_COLUMNS, head, line, parse, part, tail, text

RECORD = len(HEAD_COLUMNS) + len(TAIL_COLUMNS)
# PostgreSQL text holds no NUL; everything else that UTF-8 can write may come.
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
AWKWARD = st.text(st.sampled_from("\\\t\n\rNtnr.ab\v\b\x1e\u2028"), max_size=12)
VALUE = st.none() | TEXT | AWKWARD


def _written(values: list[str | None]) -> str:
    escaped = [text(value) for value in values]
    first, last = head(*escaped[: len(HEAD_COLUMNS)]), tail(*escaped[len(HEAD_COLUMNS) : RECORD])
    return line(part(first, last, *escaped[RECORD:]).encode()).decode()


@given(st.lists(VALUE, min_size=len(COLUMNS), max_size=len(COLUMNS)))
def test_a_record_reads_back_as_it_was_written(values: list[str | None]) -> None:
    assert parse(_written(values)) == dict(zip(COLUMNS, values, strict=True))


@given(st.lists(VALUE, min_size=len(COLUMNS), max_size=len(COLUMNS)))
def test_a_record_is_one_line_of_its_columns(values: list[str | None]) -> None:
    written = _written(values)
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert "\r" not in written
    assert written.count("\t") == len(COLUMNS) - 1


@given(AWKWARD)
@example("\\N")
@example("\\.")
@example("N")
def test_no_text_is_taken_for_null_or_for_the_end(value: str) -> None:
    assert text(value) != NULL
    assert not text(value).startswith("\\.")


@given(st.text(st.characters(codec="utf-8")))
def test_nul_is_dropped_and_nothing_else(value: str) -> None:
    padding = [None] * (len(COLUMNS) - 1)
    assert parse(_written([value, *padding]))["request_id"] == value.replace("\0", "")


def test_numbers_are_written_as_they_are_and_nothing_as_null() -> None:
    written = line(part(head(*range(len(HEAD_COLUMNS))), tail(*[None] * len(TAIL_COLUMNS)), 7).encode()).decode()
    record = parse(written)
    assert record["request_id"] == "0"
    assert record["outcome"] is None
    assert record["balance_after"] == "7"
    assert written.endswith("\t\\N\t7\n")


def test_a_record_without_the_balance_is_a_line_all_the_same() -> None:
    written = line(part(*range(RECORD)).encode())
    assert written.endswith(b"\t\\N\n")
    assert parse(written.decode())["balance_after"] is None


@pytest.mark.parametrize("count", [0, 1, len(COLUMNS) - 1, len(COLUMNS) + 1])
def test_a_record_of_other_columns_is_not_read(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        parse("\t".join(["x"] * count) + "\n")


def test_a_part_made_beforehand_joins_as_its_columns_do() -> None:
    assert head("a", part("b", None), "c") == head("a", "b", None, "c")
