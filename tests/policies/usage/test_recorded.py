"""Usage is recorded in columns that hold it, whatever an upstream reports, and reads back as it was."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.pricing.model_costs import Flag
from policies.usage import recorded, records
from policies.usage.counts import MAX_COUNT, Usage, UsageClass, UsageSource
from policies.usage.recorded import MAX_COST_USD, MAX_MODEL_LENGTH, MAX_TOKENS, NO_USAGE, UsageRecord

COUNTS = st.dictionaries(st.sampled_from(UsageClass), st.integers(0, MAX_COUNT))
SECONDS = st.none() | st.decimals("0.001", 10**6, places=3)
TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["req_1-a.b", 'a"b', "a\\b", "\t\n", "\ud800", "\u2028", "{}"]
)
COSTS = st.none() | st.decimals(0, MAX_COST_USD, places=6)


def record(
    usage: Usage | None = None, *, asked: str | None = "m", served: str | None = None, cost: Decimal | None = None
) -> UsageRecord:
    return recorded.usage_record(
        UsageSource.REPORTED, usage, asked=asked, served=served, cost_usd=cost, flags=["maximum_reached"]
    )


def read(found: UsageRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    values = records.parse_line(
        records.join(
            records.prefix_of({}),
            records.suffix_of(dict(zip(records.USAGE_COLUMNS, found.columns.split("\t"), strict=True))),
        )
    )
    columns: dict[str, Any] = {name: values[name] for name in records.USAGE_COLUMNS}
    columns |= {name: int(columns[name]) for name in recorded.COLUMN_OF.values() if columns[name] is not None}
    return columns, {} if found.metadata is None else json.loads(found.metadata.replace("\\\\", "\\"))


@given(COUNTS, SECONDS, COSTS)
def test_usage_reads_back_from_columns_and_metadata(
    counts: dict[UsageClass, int], seconds: Decimal | None, cost: Decimal | None
) -> None:
    usage = Usage(counts, seconds, cost)
    columns, metadata = read(record(usage, cost=cost))
    assert recorded.read_usage(columns, cost, metadata) == usage
    assert not set(metadata.get("usage", {})) & {str(kind) for kind in recorded.COLUMN_OF}


@given(
    st.dictionaries(st.sampled_from(UsageClass), st.integers(0, 2**70)), SECONDS, st.none() | TEXTS, st.none() | TEXTS
)
def test_metadata_is_json_as_the_standard_library_writes_it(
    counts: dict[UsageClass, int], seconds: Decimal | None, served: str | None, upstream_id: str | None
) -> None:
    found = recorded.usage_record(
        UsageSource.REPORTED,
        Usage(counts, seconds),
        asked="m",
        served=served,
        cost_usd=None,
        flags=[Flag.MAXIMUM_REACHED, Flag.MAXIMUM_REACHED, 'a"b\\'],
        upstream_request_id=upstream_id,
    )
    metadata = json.loads(found.metadata.replace("\\\\", "\\")) if found.metadata else {}
    assert found.metadata == records.text(json.dumps(metadata))
    assert metadata.get("upstream_request_id") == (upstream_id or None)
    assert metadata["flags"][:2] == ["maximum_reached", 'a"b\\']


def test_zero_of_a_class_without_a_column_is_reported() -> None:
    assert (
        record(Usage({UsageClass.INPUT_AUDIO: 0})).metadata
        == '{"usage": {"input_audio": 0}, "flags": ["maximum_reached"]}'
    )


def test_usage_of_a_row_that_has_it_in_its_metadata_reads_back() -> None:
    metadata = {"usage": {"input": 7, "cached_input": 3, "input_audio": 1}}
    counts = {UsageClass.INPUT: 7, UsageClass.CACHED_INPUT: 3, UsageClass.INPUT_AUDIO: 1}
    assert recorded.read_usage({}, None, metadata) == Usage(counts)


@pytest.mark.parametrize(
    ("asked", "served", "column", "kept"),
    [
        ("a", "a", "a", None),
        ("a", "b", "a", "b"),
        (None, "b", "b", None),
        (None, None, None, None),
        ("a", None, "a", None),
    ],
)
def test_model_is_the_one_asked_for_and_another_that_answered_is_kept(
    asked: str | None, served: str | None, column: str | None, kept: str | None
) -> None:
    columns, metadata = read(record(asked=asked, served=served))
    assert (columns["model"], metadata.get("model_served")) == (column, kept)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\ud800b", "\u00e4" * 256, "tab\tnewline\n"])
def test_model_name_fits_its_column_whatever_it_holds(name: str) -> None:
    columns, metadata = read(record(asked="m", served=name))
    served = metadata["model_served"]
    assert "\0" not in served
    assert len(served) <= MAX_MODEL_LENGTH
    served.encode()
    assert ("model_cut" in metadata["flags"]) == (len(name) > MAX_MODEL_LENGTH)
    columns, _ = read(record(asked=name))
    assert columns["model"] == served


@pytest.mark.parametrize(
    ("cost", "kept", "is_cut"),
    [
        (Decimal("999999.9999999"), MAX_COST_USD, True),
        (Decimal("1e30"), MAX_COST_USD, True),
        (Decimal("1e-999999"), Decimal("0.000000"), False),
        (Decimal("0.0000015"), Decimal("0.000002"), False),
    ],
)
def test_cost_fits_its_column_and_is_flagged_if_cut(cost: Decimal, kept: Decimal, is_cut: bool) -> None:
    found = record(cost=cost)
    assert found.cost_usd == kept
    assert ("cost_cut" in read(found)[1]["flags"]) == is_cut


def test_count_that_no_column_holds_is_cut_and_flagged() -> None:
    columns, metadata = read(record(Usage({UsageClass.INPUT: 2**70})))
    assert columns["input_tokens"] == MAX_TOKENS
    assert metadata["flags"] == ["maximum_reached", "count_cut"]


def test_call_without_usage_says_none() -> None:
    assert read(NO_USAGE)[0] == dict.fromkeys(records.USAGE_COLUMNS) | {"usage_source": "none"}
