"""504: the upstream takes too long to respond."""

from __future__ import annotations

import asyncio

from tests.proxy.data_plane import DataPlane, RedisState
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange


async def test_upstream_that_does_not_respond_in_time_is_a_timeout(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await asyncio.Event().wait()

    data_plane.upstream.answer = answer
    answered = await data_plane.get(account, "/v1/hasty")
    assert_problem(answered, 504, "upstream_timeout")
    assert (answered.headers["x-credits-remaining"], answered.headers["x-credits-charged"]) == ("100", "0")
    assert await data_plane.redis_state(account) == RedisState(100, 0, (1, 1, 1))
    assert await data_plane.holds(account) == []


async def test_slow_client_is_no_upstream_timeout(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/hasty", "transfer-encoding: chunked")
        for _ in range(5):
            await client.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)  # two and a half of the upstream's timeouts in all
        await client.send(b"0\r\n\r\n")
        assert (await client.read_head())[0] == 200
