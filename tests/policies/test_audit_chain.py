"""Verification locates every manipulation of a chain; erasing personal data is none."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.audit_chain import (
    GENESIS,
    ChainBreak,
    ChainWalk,
    Entry,
    Head,
    Personal,
    SealedRow,
    canonical,
    chain_key,
    seal,
    seal_head,
    split_personal,
)

KEYS = {1: chain_key(b"pepper"), 2: chain_key(b"newer pepper")}
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
TEXT = st.text(max_size=8)
NUMBER = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DOCUMENT = st.none() | st.dictionaries(st.sampled_from(("email", "name", "price", "status")), JSON, max_size=4)
STATED = st.tuples(TEXT, TEXT, TEXT, TEXT, DOCUMENT, DOCUMENT, st.none() | TEXT)

EDITS: tuple[tuple[str, st.SearchStrategy[Any]], ...] = (
    *((field, TEXT) for field in ("actor", "action", "entity", "entity_id", "reason")),
    *((field, DOCUMENT) for field in ("before", "after")),
    ("created_at", st.datetimes(timezones=st.just(UTC))),
)


def spelt(value: Any) -> bytes:
    return canonical(str(value) if isinstance(value, datetime) else value)


def chain(stated: list[Any], *, versions: list[int] | None = None) -> tuple[list[SealedRow], Head]:
    """Rows as the ledger writes them, with all values personal."""
    rows: list[SealedRow] = []
    last, version = GENESIS, 1
    for number, (actor, action, entity, entity_id, before, after, reason) in enumerate(stated, 1):
        version = versions[number % len(versions)] if versions else 1
        salt = number.to_bytes(16)
        kept_before, personal_before = split_personal(before, salt)
        kept_after, personal_after = split_personal(after, salt)
        entry = Entry(
            id=number,
            actor=actor,
            action=action,
            entity=entity,
            entity_id=entity_id,
            before=kept_before,
            after=kept_after,
            reason=reason,
            created_at=NOON + timedelta(microseconds=number),
        )
        previous, last = last, seal(KEYS[version], last, entry)
        personal = None
        if personal_before or personal_after:
            personal = Personal(salt, personal_before, personal_after)
        rows.append(SealedRow(entry, previous, last, version, personal))
    mac = seal_head(KEYS[version], len(rows), last, unsealed_until=0) if rows else None
    return rows, Head(len(rows), last, 0, mac, version if rows else None)


def walk(rows: list[SealedRow], head: Head, **options: Any) -> ChainBreak | None:
    walking = ChainWalk(KEYS, head, **options)
    return next((broken for row in rows if (broken := walking.step(row))), None) or walking.finish()


@given(st.lists(STATED, max_size=6), st.lists(st.sampled_from((1, 2)), min_size=1, max_size=3))
def test_untouched_chain_holds_across_peppers(stated: list[Any], versions: list[int]) -> None:
    assert walk(*chain(stated, versions=versions)) is None


@given(st.lists(STATED, min_size=1, max_size=6), st.data())
def test_edited_row_is_located(stated: list[Any], data: st.DataObject) -> None:
    rows, head = chain(stated)
    number = data.draw(st.integers(0, len(rows) - 1))
    row = rows[number]
    field, values = data.draw(st.sampled_from(EDITS))
    value: Any = data.draw(values)
    edited = replace(row, entry=replace(row.entry, **{field: value}))
    assume(spelt(value) != spelt(getattr(row.entry, field)))
    broken = walk([*rows[:number], edited, *rows[number + 1 :]], head)
    assert broken is not None
    assert broken.id == row.entry.id


@given(st.lists(STATED, min_size=1, max_size=6), st.data())
def test_removed_row_is_located(stated: list[Any], data: st.DataObject) -> None:
    """Also the newest row, since the head has the count."""
    rows, head = chain(stated)
    number = data.draw(st.integers(0, len(rows) - 1))
    broken = walk(rows[:number] + rows[number + 1 :], head)
    assert broken is not None
    assert broken.id == min(number + 2, len(rows))


@given(st.lists(STATED, min_size=2, max_size=6), st.booleans(), st.data())
def test_swapped_rows_are_detected(stated: list[Any], keeps_ids: bool, data: st.DataObject) -> None:
    rows, head = chain(stated)
    one, other = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2, unique=True))
    if keeps_ids:
        swapped = replace(rows[one], entry=replace(rows[one].entry, id=other + 1))
        swap_with = replace(rows[other], entry=replace(rows[other].entry, id=one + 1))
    else:
        swapped, swap_with = rows[one], rows[other]
    rows[one], rows[other] = swap_with, swapped
    assert walk(rows, head) is not None


@given(st.lists(STATED, min_size=1, max_size=4), st.lists(STATED, min_size=1, max_size=3), st.data())
def test_inserted_row_is_detected(stated: list[Any], forged: list[Any], data: st.DataObject) -> None:
    rows, head = chain(stated)
    foreign, _ = chain(forged)
    number = data.draw(st.integers(0, len(rows)))
    assert walk([*rows[:number], foreign[-1], *rows[number:]], head) is not None


@given(st.lists(STATED, min_size=2, max_size=5), st.data())
def test_truncation_with_a_forged_head_is_detected(stated: list[Any], data: st.DataObject) -> None:
    rows, head = chain(stated)
    kept = data.draw(st.integers(1, len(rows) - 1))
    last = rows[kept - 1].hash
    assert last is not None
    assert walk(rows[:kept], replace(head, last_id=kept, hash=last)) == ChainBreak(0, "the head was changed")
    assert walk(rows[:kept], replace(head, last_id=kept, hash=last, mac=None)) == ChainBreak(
        0, "the head carries no seal"
    )


def test_restored_older_head_is_detected_by_an_anchor() -> None:
    rows, head = chain([("a", "b", "c", "d", None, None, None)] * 3)
    kept, older = chain([("a", "b", "c", "d", None, None, None)] * 2)
    assert walk(kept, older) is None
    assert walk(kept, older, anchor=older.anchor) is None
    assert walk(rows, head, anchor=older.anchor) is None
    broken = walk(kept, older, anchor=head.anchor)
    assert broken is not None
    assert broken.id == 3


def test_personal_values_can_be_erased_but_not_changed() -> None:
    rows, head = chain([("a", "users.change", "user", "d", {"email": "ada@example.com", "role": "user"}, None, None)])
    personal = rows[0].personal
    assert personal is not None
    assert "ada" not in json.dumps(rows[0].entry.before)
    assert walk([replace(rows[0], personal=None)], head) is None
    for forged in ({"email": "eve@example.com"}, {}, {"email": "ada@example.com", "name": "Eve"}):
        broken = walk([replace(rows[0], personal=replace(personal, before=forged))], head)
        assert broken == ChainBreak(1, "its personal data was changed")


def test_rows_before_the_chain_are_accepted_and_none_is_added() -> None:
    rows, head = chain([("a", "b", "c", "d", None, None, None)] * 2)
    old = [replace(row, previous=None, hash=None, key_version=None) for row in rows]
    assert walk(old, Head(2, GENESIS, 2, None, None)) is None
    assert walk([old[0], rows[1]], head) == ChainBreak(1, "it carries no seal")


@pytest.mark.parametrize(
    ("one", "other"),
    [(5, 5.0), (10**20, 1e20), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (0, -0.0), (1.50, 1.5)],
)
def test_equal_jsonb_has_equal_canonical_form(one: Any, other: Any) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"), [(5, "5"), (1, True), (None, "null"), ([1, 2], [[1], 2]), ({"a": None}, {}), (1.5, 1.6)]
)
def test_different_jsonb_has_different_canonical_form(one: Any, other: Any) -> None:
    assert canonical(one) != canonical(other)
