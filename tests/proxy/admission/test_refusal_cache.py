"""A caller that keeps calling is refused from the cache, for moments only, and no other caller is."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.meter.admissions import Admission
from gateway.meter.keys import AccountKeys
from gateway.meter.replies import Verdict
from gateway.proxy.admission import refusal_cache
from gateway.proxy.admission.caller import Caller
from gateway.proxy.admission.refusal_cache import (
    ASKING_SECONDS,
    CACHED_SECONDS,
    REFUSALS_TO_CACHE,
    WINDOW_SECONDS,
    RefusalCache,
)
from policies.model import Refusal, Refused
from tests.proxy.data_plane import DataPlane

REFUSED = Refused(Refusal.RATE_LIMITED, "Enough.")
USED_UP = Admission(Verdict.RATE_LIMITED)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def caller(data_plane: DataPlane) -> Caller:
    account = await data_plane.create_account()
    return await data_plane.handler._principals.get(account.key.encode())


def refuse(refusals: RefusalCache, caller: Caller, times: int, admission: Admission = USED_UP) -> None:
    for _ in range(times):
        refusals.record(caller, admission, REFUSED)


async def test_refusals_are_cached_above_a_rate_and_for_a_moment_only(clock: Clock, caller: Caller) -> None:
    refusals = RefusalCache(monotonic=clock)
    refuse(refusals, caller, REFUSALS_TO_CACHE - 1)
    assert refusals.find(caller) is None
    refuse(refusals, caller, 1)
    assert refusals.find(caller) == (USED_UP, REFUSED)
    clock.now += CACHED_SECONDS
    assert refusals.find(caller) is None


async def test_slow_refusals_are_not_cached(clock: Clock, caller: Caller) -> None:
    refusals = RefusalCache(monotonic=clock)
    for _ in range(10 * REFUSALS_TO_CACHE):
        refuse(refusals, caller, 1)
        assert refusals.find(caller) is None
        clock.now += WINDOW_SECONDS / (REFUSALS_TO_CACHE - 1)


async def test_one_call_asks_redis_for_all_while_refusals_are_cached(clock: Clock, caller: Caller) -> None:
    refusals = RefusalCache(monotonic=clock)
    refuse(refusals, caller, REFUSALS_TO_CACHE)
    for _ in range(5):
        clock.now += CACHED_SECONDS
        assert [refusals.find(caller) is None for _ in range(100)] == [True] + 99 * [False]
        refuse(refusals, caller, 1)
        assert refusals.find(caller) == (USED_UP, REFUSED)


async def test_cached_refusals_end_when_redis_refuses_no_more(clock: Clock, caller: Caller) -> None:
    refusals = RefusalCache(monotonic=clock)
    refuse(refusals, caller, REFUSALS_TO_CACHE)
    clock.now += CACHED_SECONDS
    for _ in range(3):
        assert refusals.find(caller) is None, "the one that asks hears nothing"
        clock.now += ASKING_SECONDS
    clock.now += WINDOW_SECONDS - CACHED_SECONDS
    assert [refusals.find(caller) for _ in range(100)] == 100 * [None]
    refuse(refusals, caller, 1)
    assert refusals.find(caller) is None, "and is no flood until there are as many again"


async def test_refusal_cache_is_cleared_when_redis_says_something_else(clock: Clock, caller: Caller) -> None:
    refusals = RefusalCache(monotonic=clock)
    for end in (refusals.forget, lambda known: refuse(refusals, known, 1, Admission(Verdict.INSUFFICIENT_CREDITS))):
        refuse(refusals, caller, REFUSALS_TO_CACHE)
        clock.now += CACHED_SECONDS
        assert refusals.find(caller) is None
        end(caller)
        assert [refusals.find(caller) for _ in range(100)] == 100 * [None]


async def test_refusal_cache_does_not_hold_for_a_refreshed_caller(clock: Clock, caller: Caller) -> None:
    refusals = RefusalCache(monotonic=clock)
    refuse(refusals, caller, REFUSALS_TO_CACHE)
    assert refusals.find(replace(caller, loaded_at=0.0)) is None


@pytest.mark.parametrize(
    "verdict", [Verdict.TOO_MANY_IN_FLIGHT, Verdict.INSUFFICIENT_CREDITS, Verdict.KEY_BUDGET_EXHAUSTED]
)
async def test_only_window_refusals_are_cached(clock: Clock, caller: Caller, verdict: Verdict) -> None:
    refusals = RefusalCache(monotonic=clock)
    refuse(refusals, caller, REFUSALS_TO_CACHE, Admission(verdict))
    assert refusals.find(caller) is None


async def test_refusal_cache_is_bounded(clock: Clock, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_cache, "MAX_CALLERS", 3)
    refusals = RefusalCache(monotonic=clock)
    for number in range(10):
        refuse(refusals, replace(caller, digest=b"%d" % number), REFUSALS_TO_CACHE)
        assert len(refusals.by_key) <= 3


async def test_repeated_refusals_come_from_the_cache_without_asking_redis(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_cache, "CACHED_SECONDS", 60.0)
    monkeypatch.setattr(refusal_cache, "WINDOW_SECONDS", 60.0)
    asked = _record_admissions(data_plane, monkeypatch)
    account = await data_plane.create_account(requests_per_minute=0)
    answers = [await data_plane.get(account) for _ in range(REFUSALS_TO_CACHE + 1)]
    assert len(set(asked)) == REFUSALS_TO_CACHE
    last, again = answers[-2:]
    assert (again.status_code, _stable_parts(again)) == (429, _stable_parts(last))
    assert again.json()["request_id"] == again.headers["x-request-id"] != last.headers["x-request-id"]
    assert (await data_plane.post(account, idempotency_key="k")).status_code == 429
    assert len(set(asked)) == REFUSALS_TO_CACHE + 1, "only Redis knows whether it is a repeat"


async def test_admission_clears_the_refusal_cache(data_plane: DataPlane) -> None:
    account, cache = await data_plane.create_account(), data_plane.handler._admission._refusal_cache
    assert (await data_plane.get(account)).status_code == 200
    callers = data_plane.handler._principals._callers.values()
    caller = next(each for each in callers if each.principal.key.id == account.key_id)
    cache.record(caller, Admission(Verdict.RATE_LIMITED), Refused(Refusal.RATE_LIMITED, "Wait."))
    assert caller.digest in cache.by_key
    assert (await data_plane.get(account)).status_code == 200
    assert caller.digest not in cache.by_key


def _stable_parts(answer: httpx.Response) -> tuple[dict[str, Any], list[str | None]]:
    """The parts of a refusal that do not change with time."""
    told = ("ratelimit-policy", "x-credits-remaining", "x-should-retry", "content-type")
    members = {name: value for name, value in answer.json().items() if name in ("code", "title", "status", "type")}
    return members, [answer.headers.get(name) for name in told]


def _record_admissions(data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the request ids of the admissions that Redis is asked for from now on."""
    meter, asked = data_plane.handler._admission._meter, list[str]()
    admit = meter.admit

    def recording_admit(keys: AccountKeys, *, request_id: str, **terms: Any) -> Coroutine[Any, Any, Admission]:
        asked.append(request_id)
        return admit(keys, request_id=request_id, **terms)

    monkeypatch.setattr(meter, "admit", recording_admit)
    return asked
