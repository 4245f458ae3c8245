"""The paces of what costs more than a call, and the keys that nobody has."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.proxy.admission import paces
from gateway.proxy.admission.paces import MAX_SUBJECTS, Pace, ReplayPace
from policies.model import Refusal, Refused


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(paces, "monotonic_seconds", lambda: now[0])
    return now


def test_pace_allows_a_burst_and_then_its_rate(clock: list[float]) -> None:
    pace = Pace(burst=3, per_second=2.0)
    assert [pace.take("a") for _ in range(4)] == [True, True, True, False]
    assert not pace.allows("a")
    assert pace.take("b")
    clock[0] += 0.5
    assert [pace.take("a"), pace.take("a")] == [True, False]
    clock[0] += 1000
    assert [pace.take("a") for _ in range(4)] == [True, True, True, False]


def test_pace_gives_back_what_was_not_spent() -> None:
    pace = Pace(burst=1, per_second=0.0)
    for _ in range(100):
        assert pace.take("a")
        pace.give_back("a")
    pace.give_back("a")
    assert [pace.take("a"), pace.take("a")] == [True, False]


def test_pace_remembers_a_bounded_number_of_subjects() -> None:
    pace = Pace(burst=1, per_second=0.0)
    for number in range(MAX_SUBJECTS + 500):
        pace.take(number)
    assert len(pace._buckets) == MAX_SUBJECTS


def test_repeats_of_one_account_leave_others_theirs() -> None:
    pace, attacker, victim = ReplayPace(), UUID(int=1), UUID(int=2)
    for _ in range(60):
        pace.check(attacker)
        pace.count(attacker)
    with pytest.raises(Refused) as refused:
        pace.check(attacker)
    assert refused.value.code is Refusal.RATE_LIMITED
    pace.check(victim)
    pace.count(victim)


def test_repeats_are_bounded_in_all() -> None:
    pace = ReplayPace()
    for number in range(600):
        pace.count(UUID(int=number))
    with pytest.raises(Refused):
        pace.count(UUID(int=600))
