"""How often an account may have stored responses repeated."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway import paced_subjects
from gateway.proxy.admission.idempotency import ReplayPace
from policies.access.throttling import REPLAYS_IN_ALL, REPLAYS_OF_ACCOUNT
from policies.model import Refusal, Refused


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced_subjects, "monotonic_seconds", lambda: 1000.0)


def test_repeats_of_one_account_leave_others_theirs() -> None:
    pace, attacker, victim = ReplayPace(), UUID(int=1), UUID(int=2)
    for _ in range(REPLAYS_OF_ACCOUNT.burst):
        pace.check(attacker)
        pace.count(attacker)
    with pytest.raises(Refused) as refused:
        pace.check(attacker)
    assert refused.value.code is Refusal.RATE_LIMITED
    pace.check(victim)
    pace.count(victim)


def test_repeats_are_bounded_in_all() -> None:
    pace = ReplayPace()
    for number in range(REPLAYS_IN_ALL.burst):
        pace.count(UUID(int=number))
    with pytest.raises(Refused):
        pace.count(UUID(int=REPLAYS_IN_ALL.burst))
