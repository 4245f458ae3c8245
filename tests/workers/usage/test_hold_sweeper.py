"""Calls of a dead process end at no charge, soon; those of a living one are never touched."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.meter.holds import HEARTBEAT_SECONDS, HEARTBEAT_TTL_SECONDS
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.workers.runner import MAX_BACKOFF_SECONDS
from gateway.workers.usage.hold_sweeper import ABSENCE_SECONDS, MAX_PASS_GAP_SECONDS, HoldSweeper
from gateway.workers.usage.liveness import Heartbeat
from gateway.workers.usage.usage_writer import UsageWriter
from policies.model import Outcome
from tests.workers.conftest import PARTITIONS, Backend


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.after_reading = 0.0  # what goes by when it has been looked at next

    def __call__(self) -> float:
        seconds = self.seconds
        self.seconds, self.after_reading = seconds + self.after_reading, 0.0
        return seconds


class Patrol:
    """A sweeper and its clock: `passes` seconds, one pass every two of them."""

    def __init__(self, backend: Backend) -> None:
        self._clock = Clock()
        self._sweeper = HoldSweeper(backend.meter, backend.holds, monotonic=self._clock)

    async def watch(self, seconds: float, *, pass_seconds: float = 0.0) -> int:
        """Passes that take so long each, one after the other."""
        settled = 0
        for _ in range(int(seconds / HoldSweeper.idle_seconds)):
            self._clock.after_reading = pass_seconds
            settled += await self._sweeper.run_once()
            self._clock.seconds += HoldSweeper.idle_seconds
        return settled

    def pause(self, seconds: float) -> None:
        self._clock.seconds += seconds


async def _a_call_of(backend: Backend, owner: str, *, amount: int = 7) -> UUID:
    user_id = await backend.a_user()
    await backend.load(user_id)
    await backend.admit(user_id, amount=amount, meter=Meter(backend.redis_client, partitions=PARTITIONS, owner=owner))
    return user_id


async def test_sweeper_abandons_calls_of_a_dead_owner_at_no_charge(backend: Backend) -> None:
    users = [await _a_call_of(backend, "dead") for _ in range(6)]
    assert await Patrol(backend).watch(ABSENCE_SECONDS + 4) == 6
    assert await backend.holds.count() == 0
    for user_id in users:
        assert await backend.meter.settle(Settlement(backend.meter.keys(user_id), "none", 0, "")) is None
        admission = await backend.try_admit(user_id, "next", amount=100)
        assert admission.verdict.name == "ADMITTED"  # all of it has come back


async def test_sweeper_works_with_slow_passes(backend: Backend) -> None:
    await _a_call_of(backend, "dead")
    assert await Patrol(backend).watch(ABSENCE_SECONDS + 4, pass_seconds=10.0) == 1


async def test_swept_call_has_its_row(backend: Backend) -> None:
    user_id = await _a_call_of(backend, "dead")
    await Patrol(backend).watch(ABSENCE_SECONDS + 4)
    assert await UsageWriter(backend.database, backend.journal).run_once() == 1
    async with backend.database.read() as connection:
        row = (await connection.exec_driver_sql("SELECT * FROM usage_tracking")).one()
    assert (row.user_id, row.outcome, row.credits_charged) == (user_id, Outcome.ABANDONED, 0)
    assert (row.status_code, row.error_code, row.response_time_ms) == (None, None, None)
    assert (await backend.balance(user_id)).current_credits == 100


async def test_sweeper_never_touches_calls_of_a_living_owner(backend: Backend) -> None:
    await _a_call_of(backend, "alive")
    await _a_call_of(backend, "dead")
    await Heartbeat(backend.holds, "alive").run_once()
    assert await Patrol(backend).watch(120) == 1
    assert await backend.holds.count() == 1


async def test_sweeper_spares_an_owner_whose_heartbeat_returns_in_time(backend: Backend) -> None:
    """Redis was away: every beat expired, and the owners need a moment to beat again."""
    await _a_call_of(backend, "slow")
    patrol = Patrol(backend)
    assert await patrol.watch(ABSENCE_SECONDS - 2) == 0
    await backend.holds.renew_heartbeat("slow")
    assert await patrol.watch(2) == 0
    await backend.redis.delete("gw:i:slow")
    assert await patrol.watch(ABSENCE_SECONDS - 2) == 0


async def test_sweeper_restarts_its_waiting_after_a_pause_of_its_own(backend: Backend) -> None:
    """The machine was stopped, and perhaps the owners with it."""
    await _a_call_of(backend, "stopped")
    patrol = Patrol(backend)
    await patrol.watch(4)
    patrol.pause(MAX_PASS_GAP_SECONDS + ABSENCE_SECONDS)
    assert await patrol.watch(ABSENCE_SECONDS - 2) == 0


async def test_sweeper_does_not_count_a_hold_that_was_settled_meanwhile(backend: Backend) -> None:
    user_id = await backend.a_user()
    await backend.load(user_id)
    request_id = await backend.admit(user_id, amount=3)
    patrol = Patrol(backend)
    await patrol.watch(ABSENCE_SECONDS)
    await backend.settle(user_id, request_id, charge=3)
    assert await patrol.watch(4) == 0


async def test_sweeper_finds_more_holds_than_a_page(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=1000)
    await backend.load(user_id)
    for _ in range(900):
        await backend.admit(user_id)
    assert await backend.holds.count() == 900
    assert await Patrol(backend).watch(ABSENCE_SECONDS + 4) == 900
    assert (await backend.try_admit(user_id, "all", amount=1000)).verdict.name == "ADMITTED"


async def test_heartbeat_expires(backend: Backend) -> None:
    await backend.holds.renew_heartbeat("someone")
    assert await backend.holds.live_owners(["someone", "nobody"]) == {"someone"}
    assert 0 < await backend.redis.ttl("gw:i:someone") <= HEARTBEAT_TTL_SECONDS


async def test_live_owners_of_none_are_none(backend: Backend) -> None:
    assert await backend.holds.live_owners([]) == frozenset()


def test_sweeper_intervals_release_holds_within_thirty_seconds() -> None:
    """Within 30 s of a death, and never before a living owner could beat again after Redis was away."""
    worst = HEARTBEAT_TTL_SECONDS + ABSENCE_SECONDS + 2 * HoldSweeper.idle_seconds
    assert worst < 30
    assert max(HEARTBEAT_SECONDS, MAX_BACKOFF_SECONDS) + HoldSweeper.idle_seconds < ABSENCE_SECONDS
    assert 2 * HoldSweeper.idle_seconds < MAX_PASS_GAP_SECONDS


@pytest.mark.parametrize("owner", ["dead", "dëad"])
async def test_scanned_hold_has_its_amount_owner_and_prefix(backend: Backend, owner: str) -> None:
    user_id = await _a_call_of(backend, owner, amount=5)
    found = [hold for partition in range(PARTITIONS) for hold in (await backend.holds.scan(partition))[1]]
    assert [(hold.amount, hold.owner) for hold in found] == [(5, owner)]
    assert str(user_id) in found[0].prefix
