"""429: too many calls in a window, or too many at a time."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

_LIMITS = {"minute": "requests_per_minute", "hour": "requests_per_hour", "day": "max_api_calls_per_day"}
_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


@pytest.mark.parametrize("window", _LIMITS)
async def test_window_admits_its_limit_and_not_one_more(data_plane: DataPlane, window: str) -> None:
    limit: dict[str, Any] = {_LIMITS[window]: 3}
    account = await data_plane.create_account(**limit)
    for left in (2, 1, 0):
        answer = await data_plane.get(account)
        assert answer.status_code == 200
        assert answer.headers["ratelimit"].startswith(f'"{window}";r={left};t=')
    async with data_plane.assert_unchanged(account):
        refused = await data_plane.get(account)
    retry_after = int(refused.headers["retry-after"])
    document = refused.json()
    assert_problem(refused, 429, "rate_limited", violated_policies=[window], retry_after=retry_after)
    assert document["violated-policies"] == [window]
    most = 60 if window == "minute" else _SECONDS[window] * 61 / 60 + 1
    assert _SECONDS[window] * 0.9 < retry_after <= most
    assert ("x-should-retry" in refused.headers) == (window != "minute")
    assert refused.headers["ratelimit-policy"] == f'"{window}";q=3;w={_SECONDS[window]}'
    assert re.fullmatch(rf'"{window}";r=0;t={retry_after}', refused.headers["ratelimit"])
    assert refused.headers["x-credits-remaining"] == "97"


async def test_rate_limit_names_every_used_up_window_and_the_longest_wait(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(requests_per_minute=1, requests_per_hour=9, max_api_calls_per_day=1)
    assert (await data_plane.get(account)).status_code == 200
    refused = await data_plane.get(account)
    retry_after = refused.json()["retry_after"]
    assert_problem(refused, 429, "rate_limited", violated_policies=["minute", "day"], retry_after=retry_after)
    assert retry_after > _SECONDS["hour"]
    assert re.fullmatch(r'"minute";r=0;t=\d+, "hour";r=8;t=\d+, "day";r=0;t=\d+', refused.headers["ratelimit"])


async def test_keys_of_an_account_share_one_quota(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(requests_per_minute=2)
    second, _ = await data_plane.create_key(account)
    assert (await data_plane.get(account)).status_code == 200
    assert (await data_plane.http.get("/v1/things/1", headers={"x-api-key": second})).status_code == 200
    for key in (account.key, second):
        assert (await data_plane.http.get("/v1/things/1", headers={"x-api-key": key})).status_code == 429


async def test_free_route_is_rate_limited(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=0, requests_per_minute=1)
    assert (await data_plane.get(account, "/v1/free")).status_code == 200
    assert (await data_plane.get(account, "/v1/free")).status_code == 429


async def test_limit_of_zero_admits_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(requests_per_hour=0)
    refused = await data_plane.get(account)
    assert_problem(
        refused, 429, "rate_limited", violated_policies=["hour"], retry_after=int(refused.headers["retry-after"])
    )


async def test_calls_in_flight_are_limited_and_free_their_place_when_they_end(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_concurrent_requests=2)
    may_answer = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await may_answer.wait()
        await exchange.reply()

    data_plane.upstream.answer = answer
    running = [asyncio.create_task(data_plane.get(account)) for _ in range(2)]
    await eventually(lambda: len(data_plane.upstream.exchanges) == 2)
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 429, "too_many_in_flight", limit=2)
    may_answer.set()
    assert [(await each).status_code for each in running] == [200, 200]
    assert (await data_plane.get(account)).status_code == 200
    assert (await data_plane.redis_state(account)).in_flight == 0


async def test_rate_limit_is_reported_before_calls_in_flight(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_concurrent_requests=0, requests_per_minute=0, credits=0)
    assert (await data_plane.get(account)).json()["code"] == "rate_limited"
