"""The budget of bodies that are held whole: one account cannot use it up, and nothing of it leaks."""

from __future__ import annotations

import pytest

from gateway.proxy.request.held_bodies import HeldBodies
from policies.model import Refusal, Refused


def test_account_has_a_share_and_others_theirs() -> None:
    budget = HeldBodies(400)
    attacker, victim = budget.open("attacker"), budget.open("victim")
    attacker.grow(100)
    with pytest.raises(Refused) as refused:
        attacker.grow(1)
    assert refused.value.code is Refusal.TOO_MANY_IN_FLIGHT
    victim.grow(100)
    assert budget.held_bytes == 200


def test_budget_is_bounded_in_all() -> None:
    budget = HeldBodies(400)
    held = [budget.open(each) for each in range(5)]
    for each in held[:4]:
        each.grow(100)
    with pytest.raises(Refused) as refused:
        held[4].grow(1)
    assert refused.value.code is Refusal.UPSTREAM_OVERLOADED
    for each in held:
        each.release()
        each.release()
    assert budget.held_bytes == 0
    assert not budget._by_account
    held[4].grow(100)


def test_refused_growth_takes_nothing() -> None:
    budget = HeldBodies(400)
    body = budget.open("a")
    for _ in range(10):
        with pytest.raises(Refused):
            body.grow(101)
    assert (budget.held_bytes, body.size_bytes) == (0, 0)
