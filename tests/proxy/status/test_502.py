"""502: the upstream is unreachable, or its response is invalid."""

from __future__ import annotations

import pytest

from tests.proxy.data_plane import Account, DataPlane, RedisState
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange


async def test_upstream_that_refuses_connections_is_unreachable(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(requests_per_minute=5)
    answer = await data_plane.get(account, "/v1/nobody")
    problem = assert_problem(answer, 502, "upstream_unreachable")
    assert "127.0.0.1" not in problem["detail"]  # clients must not learn the address of an upstream
    assert answer.headers["x-credits-remaining"] == "100"
    assert answer.headers["x-credits-charged"] == "0"
    assert answer.headers["ratelimit"].startswith('"minute";r=4;t=')
    await _given_back(data_plane, account)


async def test_upstream_that_closes_on_the_request_is_unreachable(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        exchange.writer.transport.abort()

    data_plane.upstream.answer = answer
    assert_problem(await data_plane.get(account), 502, "upstream_unreachable")
    await _given_back(data_plane, account)


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
    ],
)
async def test_invalid_response_is_not_passed_on(data_plane: DataPlane, said: bytes) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(said)
    answer = await data_plane.get(account)
    assert_problem(answer, 502, "upstream_invalid")
    assert answer.headers["x-credits-charged"] == "0"
    await _given_back(data_plane, account)


async def _given_back(data_plane: DataPlane, account: Account) -> None:
    assert await data_plane.redis_state(account) == RedisState(100, 0, (1, 1, 1))
    assert await data_plane.holds(account) == []
    assert (await data_plane.usage_row(account))["credits_charged"] == 0
