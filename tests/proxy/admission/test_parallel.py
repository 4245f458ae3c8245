"""Parallel requests: limits and credits are exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.proxy.data_plane import ANSWER_SECONDS, Account, DataPlane, RawConnection, RedisState
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

REQUESTS = 300


@pytest.fixture
async def crowd(data_plane: DataPlane) -> AsyncIterator[list[RawConnection]]:
    """One connected client for each request."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(data_plane.connect()) for _ in range(REQUESTS)]


async def all_at_once(crowd: list[RawConnection], account: Account) -> list[tuple[int, dict[str, str]]]:
    for client in crowd:
        await client.request(account, "GET /v1/things/1")
    return await asyncio.gather(*(client.read_head() for client in crowd))


def statuses(answers: list[tuple[int, dict[str, str]]]) -> Counter[int]:
    return Counter(status for status, _ in answers)


async def test_parallel_calls_succeed_up_to_the_credits(data_plane: DataPlane, crowd: list[RawConnection]) -> None:
    account = await data_plane.create_account(credits=10)
    answers = await all_at_once(crowd, account)
    assert statuses(answers) == {200: 10, 402: 290}
    assert len(data_plane.upstream.exchanges) == 10
    assert await data_plane.settled_state(account) == RedisState(0, 0, (10, 10, 10))
    rows = await data_plane.usage_rows(account)
    assert [row["outcome"] for row in rows] == ["succeeded"] * 10
    assert len({row["request_id"] for row in rows}) == 10
    assert await data_plane.stored_balance(account) == 0
    assert await data_plane.refusal_counts(account) == {("things", "insufficient_credits"): 290}


async def test_parallel_calls_succeed_up_to_the_limit(data_plane: DataPlane, crowd: list[RawConnection]) -> None:
    account = await data_plane.create_account(credits=1000, requests_per_minute=5)
    answers = await all_at_once(crowd, account)
    assert statuses(answers) == {200: 5, 429: 295}
    assert len(data_plane.upstream.exchanges) == 5
    assert await data_plane.settled_state(account) == RedisState(995, 0, (5, 5, 5))
    assert len(await data_plane.usage_rows(account)) == 5
    # The first of the five leaves the window 60 to 61 seconds after it came; no client is told to wait longer than 60.
    waits = [int(fields["retry-after"]) for status, fields in answers if status == 429]
    assert max(waits) <= 60
    assert min(waits) >= 61 - ANSWER_SECONDS


async def test_calls_in_flight_never_exceed_their_limit(data_plane: DataPlane, crowd: list[RawConnection]) -> None:
    account = await data_plane.create_account(credits=1000, max_concurrent_requests=4)
    answers = await all_at_once(crowd, account)
    counts = statuses(answers)
    assert set(counts) <= {200, 429}
    assert counts[200] >= 4
    assert await data_plane.settled_state(account) == RedisState(1000 - counts[200], 0, (counts[200],) * 3)


async def test_mixed_parallel_calls_end_with_an_exact_balance(
    data_plane: DataPlane, crowd: list[RawConnection]
) -> None:
    """Some succeed, some fail, some disconnect: the balance is the grant less the charges of the rows."""
    account = await data_plane.create_account(credits=150)
    turn = iter(range(10**6))

    async def answer(exchange: Exchange) -> None:
        number = next(turn)
        if number % 3 == 0:
            await exchange.reply(500)
        elif number % 3 == 1:
            await exchange.reply(200, gateway_credits="2")
        else:
            exchange.writer.transport.abort()

    data_plane.upstream.answer = answer
    for client in crowd:
        await client.request(account, "GET /v1/things/1")
    await eventually(lambda: len(data_plane.upstream.exchanges) > 30)
    for client in crowd[::7]:
        client.disconnect()
    await asyncio.gather(*(client.read_head() for client in crowd), return_exceptions=True)
    hot = await data_plane.settled_state(account)
    rows = await data_plane.usage_rows(account)
    assert hot.balance == 150 - sum(row["credits_charged"] for row in rows)
    assert await data_plane.stored_balance(account) == hot.balance
    assert hot.used == (len(rows),) * 3


async def test_accounts_on_one_connection_are_charged_separately(data_plane: DataPlane) -> None:
    """Behind a proxy that pools connections, the key of each request counts."""
    one, other = await data_plane.create_account(credits=10), await data_plane.create_account(credits=10)
    async with data_plane.connect() as client:
        for account in (one, one, other, one, other):
            await client.request(account, "GET /v1/things/1")
            status, fields = await client.read_head()
            assert status == 200
            await client.reader.readexactly(int(fields["content-length"]))
    assert [(await data_plane.settled_state(account)).balance for account in (one, other)] == [7, 8]
    assert [len(await data_plane.usage_rows(account)) for account in (one, other)] == [3, 2]
    users = [exchange["x-gateway-user"] for exchange in data_plane.upstream.exchanges]
    assert users == [str(account.user_id) for account in (one, one, other, one, other)]
