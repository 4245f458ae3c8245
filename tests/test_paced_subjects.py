"""Subjects paced within a process: the one algorithm of `policies.access.throttling`, with a bounded memory."""

from __future__ import annotations

import pytest

from gateway import paced_subjects
from gateway.paced_subjects import MAX_SUBJECTS, PacedSubjects
from policies.access.throttling import Pace

pytestmark = pytest.mark.unit
LONG = 1e6


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(paced_subjects, "monotonic_seconds", lambda: now[0])
    return now


def test_subject_has_a_burst_and_then_its_pace(clock: list[float]) -> None:
    subjects = PacedSubjects(Pace(burst=3, seconds_each=0.5))
    assert [subjects.take("a") for _ in range(4)] == [True, True, True, False]
    assert not subjects.is_free("a")
    assert subjects.take("b")
    clock[0] += 0.5
    assert [subjects.take("a"), subjects.take("a")] == [True, False]
    clock[0] += 1000
    assert [subjects.take("a") for _ in range(4)] == [True, True, True, False]


def test_burst_is_whole_where_its_steps_are_no_binary_fractions(clock: list[float]) -> None:
    clock[0] = 123_456.789
    subjects = PacedSubjects(Pace(burst=1000, seconds_each=0.1))
    assert sum(subjects.take("a") for _ in range(1_100)) == 1000


def test_subject_gets_back_what_it_did_not_spend() -> None:
    subjects = PacedSubjects(Pace(burst=1, seconds_each=LONG))
    for _ in range(100):
        assert subjects.take("a")
        subjects.give_back("a")
    subjects.give_back("a")
    assert [subjects.take("a"), subjects.take("a")] == [True, False]


def test_a_bounded_number_of_subjects_is_remembered() -> None:
    subjects = PacedSubjects(Pace(burst=1, seconds_each=LONG))
    for number in range(MAX_SUBJECTS + 500):
        subjects.take(number)
    assert len(subjects) == MAX_SUBJECTS
