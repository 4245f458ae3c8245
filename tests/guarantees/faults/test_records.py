"""The invariants of the records find each planted fault, and none in sound records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.guarantees.faults.records import Book, Call, Records, Row, violations

ALICE = UUID(int=1)
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
SUCCEEDED = Row("a", ALICE, NOON, "succeeded", 1)
ABANDONED = Row("b", ALICE, NOON, "abandoned", 0)
SOUND = Records(
    calls={"a": Call(ALICE, 200, is_whole=True), "b": Call(ALICE, None, is_whole=False), "c": Call(ALICE, 429, True)},
    reached=Counter(["a", "b"]),
    rows=[SUCCEEDED, ABANDONED],
    books={ALICE: Book(granted=10, booked=9, used=1, current=9, remaining=9, hot=9, in_flight=0)},
    open_holds=0,
    journaled=0,
    limits={ALICE: 2},
)
BOOK = SOUND.books[ALICE]
SOON = replace(SUCCEEDED, created_at=NOON + timedelta(seconds=50))


def test_records_that_are_sound_have_no_violations() -> None:
    assert violations(SOUND) == []


@pytest.mark.parametrize(
    "unsound",
    {
        "a row is doubled": replace(SOUND, rows=[*SOUND.rows, ABANDONED]),
        "a row is lost": replace(SOUND, rows=[SUCCEEDED]),
        "a row of nobody's": replace(SOUND, calls={"a": SOUND.calls["a"]}),
        "an answer that stands as abandoned": replace(SOUND, rows=[replace(SUCCEEDED, outcome="abandoned"), ABANDONED]),
        "a charge of another amount": replace(SOUND, rows=[replace(SUCCEEDED, credits=2), ABANDONED]),
        "a charge for nothing": replace(SOUND, reached=Counter(["b"])),
        "a refusal with a row": replace(SOUND, rows=[*SOUND.rows, replace(ABANDONED, client_request_id="c")]),
        "a call forwarded twice": replace(SOUND, reached=Counter(["a", "b", "b"])),
        "a window over its limit": replace(SOUND, limits={ALICE: 1}, rows=[SUCCEEDED, replace(SOON, outcome="x")]),
        "a leaked hold": replace(SOUND, open_holds=1),
        "a journal that is not written": replace(SOUND, journaled=1),
        "a leaked place": replace(SOUND, books={ALICE: replace(BOOK, in_flight=1)}),
        **{
            f"{book} differs": replace(SOUND, books={ALICE: replace(BOOK, **{book: 8})})
            for book in ("granted", "booked", "used", "current", "remaining", "hot")
        },
    }.items(),
    ids=lambda item: item[0],
)
def test_records_with_a_fault_have_a_violation(unsound: tuple[str, Records]) -> None:
    assert violations(unsound[1]) != []
