"""Whatever a client sends, its record is one line of COPY text that reads back as it was written, in every version."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.usage import records
from policies.usage.records import (
    CHARGE_COLUMNS,
    COLUMNS,
    CURRENT,
    IDENTITY_COLUMNS,
    NULL,
    PREFIX_COLUMNS,
    PREFIXES,
    SUFFIX_COLUMNS,
    SUFFIXES,
    RecordVersion,
    copy_line,
    field_of,
    identity,
    join,
    mark,
    parse_field,
    parse_line,
    prefix_of,
    suffix_of,
    text,
    upgrade_prefix,
    upgrade_suffix,
)

# PostgreSQL text holds no NUL; everything else that UTF-8 can write may come.
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
AWKWARD = st.text(st.sampled_from("\\\t\n\rNtnr.ab\v\b\x1e\u2028"), max_size=12)
VALUE = st.none() | TEXT | AWKWARD
HALVES = (*PREFIX_COLUMNS, *SUFFIX_COLUMNS)
FIELD = field_of(CURRENT).encode()


def _line(values: Mapping[str, str | None]) -> str:
    escaped = {name: text(value) for name, value in values.items()}
    prefix = prefix_of({name: escaped[name] for name in PREFIX_COLUMNS if name in escaped})
    suffix = suffix_of({name: escaped[name] for name in SUFFIX_COLUMNS if name in escaped})
    return copy_line(FIELD, join(prefix, suffix).encode()).decode()


@given(st.fixed_dictionaries(dict.fromkeys(HALVES, VALUE)))
def test_record_reads_back_as_it_was_written(values: dict[str, str | None]) -> None:
    assert parse_line(_line(values)) == {**values, "balance_after": None}


@given(st.fixed_dictionaries(dict.fromkeys(HALVES, VALUE)))
def test_record_is_one_line_of_its_columns(values: dict[str, str | None]) -> None:
    line = _line(values)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert "\r" not in line
    assert line.count("\t") == len(COLUMNS) - 1


@given(AWKWARD)
@example("\\N")
@example("\\.")
@example("N")
def test_text_is_never_taken_for_null_or_for_the_end_marker(value: str) -> None:
    assert text(value) != NULL
    assert not text(value).startswith("\\.")


@given(st.text(st.characters(codec="utf-8")))
def test_text_loses_nul_and_nothing_else(value: str) -> None:
    assert parse_line(_line({"request_id": value}))["request_id"] == value.replace("\0", "")


@pytest.mark.parametrize("count", [0, 1, len(COLUMNS) - 1, len(COLUMNS) + 1])
def test_line_of_other_columns_is_not_read(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        parse_line("\t".join(["x"] * count) + "\n")


def test_unknown_column_is_refused() -> None:
    with pytest.raises(ValueError, match="no column of this version: colour"):
        suffix_of({"colour": "red"})


JOINED: dict[str, Any] = {
    "caller": records.caller_columns,
    "route": records.route_columns,
    "labels": records.label_columns,
    "usage": records.usage_columns,
    "file": records.file_columns,
}


def column_names(write: Any) -> list[str]:
    """The parameters, those that are columns joined beforehand as the parameters of what joins them."""
    names = inspect.signature(write).parameters
    return [each for name in names for each in (column_names(JOINED[name]) if name in JOINED else [name])]


def written_names(write: Any) -> str:
    """What is written where each column holds its own name."""
    names = inspect.signature(write).parameters
    given = {name: written_names(JOINED[name]) if name in JOINED else name for name in names}
    positional = [given.pop(name) for name, each in names.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    return str(write(*positional, **given))


@pytest.mark.parametrize(
    ("write", "columns"), [(records.prefix, PREFIX_COLUMNS), (records.suffix, SUFFIX_COLUMNS)], ids=["prefix", "suffix"]
)
def test_writer_names_the_columns_in_their_order(write: Any, columns: tuple[str, ...]) -> None:
    """Every parameter is a column, or columns joined beforehand by a function whose parameters are."""
    assert tuple(column_names(write)) == columns
    assert written_names(write) == "\t".join(columns)


def test_every_version_begins_with_what_other_releases_read() -> None:
    assert all(columns[: len(IDENTITY_COLUMNS)] == IDENTITY_COLUMNS for columns in PREFIXES.values())
    assert all(columns[: len(CHARGE_COLUMNS)] == CHARGE_COLUMNS for columns in SUFFIXES.values())
    assert sorted(PREFIXES) == list(range(1, len(PREFIXES) + 1))
    assert sorted(SUFFIXES) == list(range(1, len(SUFFIXES) + 1))


@pytest.mark.parametrize(
    ("field", "version"),
    [
        (b"r", RecordVersion(1, 1)),
        (b"r1.1", RecordVersion(1, 1)),
        (b"r1.12", RecordVersion(1, 12)),
        (FIELD, CURRENT),
        (b"r0.1", None),
        (b"r1", None),
        (b"r1.1x", None),
        (b"k", None),
        (b"", None),
    ],
)
def test_field_of_an_entry_names_its_version(field: bytes, version: RecordVersion | None) -> None:
    assert parse_field(field) == version
    assert version is None or field == b"r" or field_of(version).encode() == field


def test_newer_version_is_unknown_but_tells_its_charge() -> None:
    newer = RecordVersion(CURRENT.prefix, max(SUFFIXES) + 1)
    assert not newer.is_known
    assert newer.credits_column == COLUMNS.index("credits_charged")
    assert RecordVersion(max(PREFIXES) + 1, CURRENT.suffix).credits_column is None
    with pytest.raises(KeyError):
        _ = newer.columns


def test_unversioned_record_without_a_balance_is_a_line_with_null() -> None:
    record = "\t".join(map(str, range(len(PREFIXES[1]) + len(SUFFIXES[1])))).encode()
    assert copy_line(b"r", record) == record + b"\t\\N\n"
    assert copy_line(b"r", record + b"\t7") == record + b"\t7\n"
    assert copy_line(b"r1.1", record) == record + b"\n"


def test_identity_is_read_from_a_prefix_of_any_version() -> None:
    named = {"request_id": "id", "created_at": "7", "user_id": "user", "api_key_id": "key"}
    assert identity(prefix_of(named)) == named
    assert identity(mark(9) + "id\t7\tuser\tkey\tmore\tand more") == named
    with pytest.raises(ValueError, match="zip"):
        identity("id\t7")


def test_halves_of_an_older_version_are_rewritten_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = (*CHARGE_COLUMNS, "colour", "tokens_used")
    version = CURRENT.suffix + 1
    monkeypatch.setitem(SUFFIXES, version, newer)
    monkeypatch.setattr(records, "CURRENT", RecordVersion(1, version))
    monkeypatch.setattr(records, "SUFFIX_COLUMNS", newer)
    old = "\t".join(SUFFIXES[1])
    assert upgrade_suffix(old, 1) == "\t".join([*CHARGE_COLUMNS, NULL, "tokens_used"])
    assert upgrade_suffix("as it is", version) == "as it is"
    assert upgrade_prefix("as it is") == "as it is"
    with pytest.raises(KeyError):
        upgrade_suffix(old, version + 1)
    with pytest.raises(KeyError):
        upgrade_prefix(mark(9) + "x")
