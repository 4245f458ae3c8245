"""Many requests at once: limits and credits are exact, not nearly so."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.proxy.data_plane import ANSWER_SECONDS, Account, Hot, Plane, Wire
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

REQUESTS = 300


@pytest.fixture
async def crowd(plane: Plane) -> AsyncIterator[list[Wire]]:
    """A client of its own for each request, connected already."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(plane.wire()) for _ in range(REQUESTS)]


async def all_at_once(crowd: list[Wire], account: Account) -> list[tuple[int, dict[str, str]]]:
    for client in crowd:
        await client.request(account, "GET /v1/things/1")
    return await asyncio.gather(*(client.head() for client in crowd))


def statuses(answers: list[tuple[int, dict[str, str]]]) -> Counter[int]:
    return Counter(status for status, _ in answers)


async def test_exactly_as_many_succeed_as_there_are_credits(plane: Plane, crowd: list[Wire]) -> None:
    account = await plane.account(credits=10)
    answers = await all_at_once(crowd, account)
    assert statuses(answers) == {200: 10, 402: 290}
    assert len(plane.upstream.exchanges) == 10
    assert await plane.at_rest(account) == Hot(0, 0, (10, 10, 10))
    rows = await plane.records(account)
    assert [row["outcome"] for row in rows] == ["succeeded"] * 10
    assert len({row["request_id"] for row in rows}) == 10
    assert await plane.stored_balance(account) == 0
    assert await plane.refusals(account) == {("things", "insufficient_credits"): 290}


async def test_exactly_as_many_succeed_as_the_limit_allows(plane: Plane, crowd: list[Wire]) -> None:
    account = await plane.account(credits=1000, requests_per_minute=5)
    answers = await all_at_once(crowd, account)
    assert statuses(answers) == {200: 5, 429: 295}
    assert len(plane.upstream.exchanges) == 5
    assert await plane.at_rest(account) == Hot(995, 0, (5, 5, 5))
    assert len(await plane.records(account)) == 5
    # The first of the five leaves the window 60 to 61 seconds after it came (its step of one second has to end).
    waits = [int(fields["retry-after"]) for status, fields in answers if status == 429]
    assert max(waits) <= 61
    assert min(waits) >= 61 - ANSWER_SECONDS


async def test_calls_in_flight_never_exceed_their_limit(plane: Plane, crowd: list[Wire]) -> None:
    account = await plane.account(credits=1000, max_concurrent_requests=4)
    answers = await all_at_once(crowd, account)
    counts = statuses(answers)
    assert set(counts) <= {200, 429}
    assert counts[200] >= 4
    assert await plane.at_rest(account) == Hot(1000 - counts[200], 0, (counts[200],) * 3)


async def test_a_mixed_crowd_ends_with_an_exact_balance(plane: Plane, crowd: list[Wire]) -> None:
    """Some succeed, some fail, some leave: the balance is what was granted less what the rows say."""
    account = await plane.account(credits=150)
    turn = iter(range(10**6))

    async def answer(exchange: Exchange) -> None:
        number = next(turn)
        if number % 3 == 0:
            await exchange.reply(500)
        elif number % 3 == 1:
            await exchange.reply(200, gateway_credits="2")
        else:
            exchange.writer.transport.abort()

    plane.upstream.answer = answer
    for client in crowd:
        await client.request(account, "GET /v1/things/1")
    await eventually(lambda: len(plane.upstream.exchanges) > 30)
    for client in crowd[::7]:
        client.leave()
    await asyncio.gather(*(client.head() for client in crowd), return_exceptions=True)
    hot = await plane.at_rest(account)
    rows = await plane.records(account)
    assert hot.balance == 150 - sum(row["credits_charged"] for row in rows)
    assert await plane.stored_balance(account) == hot.balance
    assert hot.used == (len(rows),) * 3


async def test_accounts_that_share_a_connection_each_pay_for_their_own(plane: Plane) -> None:
    """As behind a proxy that pools its connections: the key counts that came with the request."""
    one, other = await plane.account(credits=10), await plane.account(credits=10)
    async with plane.wire() as client:
        for account in (one, one, other, one, other):
            await client.request(account, "GET /v1/things/1")
            status, fields = await client.head()
            assert status == 200
            await client.reader.readexactly(int(fields["content-length"]))
    assert [(await plane.at_rest(account)).balance for account in (one, other)] == [7, 8]
    assert [len(await plane.records(account)) for account in (one, other)] == [3, 2]
    users = [exchange["x-gateway-user"] for exchange in plane.upstream.exchanges]
    assert users == [str(account.user_id) for account in (one, one, other, one, other)]
