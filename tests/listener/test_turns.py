"""A turn of the loop begins a bounded amount of work, and addresses take turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import uvloop

from gateway.listener.turns import SHARES_PER_TURN, Turns, shares_of

pytestmark = pytest.mark.unit


class Loop:
    """Turns by hand, at one instant of time each."""

    def __init__(self) -> None:
        self.now = 1.0
        self.scheduled: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.scheduled.append(callback)

    def turn(self) -> None:
        self.now += 0.001
        due, self.scheduled = self.scheduled, []
        for callback in due:
            callback()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def turns(loop: Loop) -> Turns:
    return Turns(cast(uvloop.Loop, loop))


def test_turn_begins_so_much_and_no_more(loop: Loop, turns: Turns) -> None:
    assert [turns.take() for _ in range(SHARES_PER_TURN + 2)] == [True] * SHARES_PER_TURN + [False] * 2
    loop.now += 0.001
    assert turns.take(SHARES_PER_TURN)
    assert not turns.take()
    assert loop.scheduled == []  # nothing waits, so nothing is done in the next turn


def test_each_turn_does_what_waits_and_an_address_waits_for_no_other(loop: Loop, turns: Turns) -> None:
    done: list[str] = []
    for number in range(10 * SHARES_PER_TURN):
        turns.wait("attacker", partial(done.append, f"attacker {number}"))
    turns.wait("victim", partial(done.append, "victim"))
    assert not turns.take()  # what waits comes first
    loop.turn()
    assert done[:3] == ["attacker 0", "victim", "attacker 1"]
    assert len(done) == SHARES_PER_TURN
    while loop.scheduled:
        assert len(loop.scheduled) == 1
        loop.turn()
    assert [each for each in done if each != "victim"] == [f"attacker {n}" for n in range(10 * SHARES_PER_TURN)]
    loop.now += 0.001
    assert turns.take()


def test_large_pieces_count_more(loop: Loop, turns: Turns) -> None:
    done: list[int] = []
    for number in range(SHARES_PER_TURN):
        turns.wait("client", partial(done.append, number), shares_of(256 * 1024))
    loop.turn()
    assert len(done) == -(-SHARES_PER_TURN // 5)


def test_work_that_brings_work_waits_for_the_next_turn_behind_the_others(loop: Loop, turns: Turns) -> None:
    done: list[str] = []

    def again() -> None:
        done.append("greedy")
        turns.wait("greedy", again)

    turns.wait("greedy", again)
    turns.wait("other", partial(done.append, "other"))
    for _ in range(3):
        loop.turn()
    assert done == ["greedy", "other", "greedy", "greedy"]
    assert len(loop.scheduled) == 1


def test_work_that_fails_stops_nobody_else(loop: Loop, turns: Turns) -> None:
    done: list[str] = []

    def fail() -> None:
        raise KeyError

    turns.wait("one", fail)
    turns.wait("other", partial(done.append, "other"))
    with pytest.raises(KeyError):
        loop.turn()
    loop.turn()
    assert done == ["other"]
