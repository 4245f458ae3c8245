"""Calls at once on a balance for few of them: what holds by estimate let through, and what that can cost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import httpx
import pytest

from policies.pricing.quotes import DEFAULT_MAX_OUTPUT
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.metering.wire import body
from tests.proxy.upstream import Exchange

PATH = "/estimated/v1/chat/completions"  # 1 credit a token, in and out
CALLS, BALANCE, TOKENS = 80, 30_000, 100_000


def request(**more: object) -> bytes:
    return body({"model": "gpt-5.6", "messages": [{"role": "user", "content": "hi"}], **more})


async def obedient(exchange: Exchange) -> None:
    """Writes as much as it is allowed to, and the answer takes as long as all requests take to arrive."""
    asked = json.loads(await exchange.read())
    await asyncio.sleep(0.2)
    written = min(TOKENS, asked.get("max_tokens", TOKENS))
    usage = {"prompt_tokens": 20, "completion_tokens": written, "total_tokens": 20 + written}
    await exchange.reply(200, body({"model": "gpt-5.6", "choices": [], "usage": usage}))


async def call_at_once(data_plane: DataPlane, account: Account, content: bytes) -> Counter[int]:
    async def call() -> httpx.Response:
        return await data_plane.http.post(PATH, content=content, headers=account.auth)

    return Counter(response.status_code for response in await asyncio.gather(*(call() for _ in range(CALLS))))


@pytest.mark.parametrize("max_tokens", [1000, 4096, 14_000, 29_900])
async def test_balance_stays_at_zero_where_requests_bound_their_output(data_plane: DataPlane, max_tokens: int) -> None:
    account = await data_plane.create_account(credits=BALANCE)
    data_plane.upstream.answer = obedient
    content = request(max_tokens=max_tokens)
    hold = -(-len(content) // 3) + max_tokens
    statuses = await call_at_once(data_plane, account, content)
    state = await data_plane.settled_state(account)
    assert statuses == {200: BALANCE // hold, 402: CALLS - BALANCE // hold}
    assert state.balance == BALANCE - statuses[200] * (20 + max_tokens) >= 0


async def test_balance_that_no_estimate_fits_admits_none(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=BALANCE)
    data_plane.upstream.answer = obedient
    assert await call_at_once(data_plane, account, request(max_tokens=TOKENS)) == {402: CALLS}
    assert not data_plane.upstream.exchanges


async def test_balance_falls_below_zero_by_no_more_than_the_estimates_missed(data_plane: DataPlane) -> None:
    """Without a limit in request, plan and price 4096 tokens of output are held: each call can miss the rest."""
    account = await data_plane.create_account(credits=BALANCE)
    data_plane.upstream.answer = obedient
    content = request()
    hold = -(-len(content) // 3) + DEFAULT_MAX_OUTPUT
    statuses = await call_at_once(data_plane, account, content)
    state = await data_plane.settled_state(account)
    admitted = BALANCE // hold
    assert statuses == {200: admitted, 402: CALLS - admitted}
    assert state.balance >= -admitted * (20 + TOKENS - hold)


async def test_plan_bounds_what_estimates_can_miss(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=BALANCE, features={"max_output_tokens": 29_000})
    data_plane.upstream.answer = obedient
    statuses = await call_at_once(data_plane, account, request())
    assert statuses == {200: 1, 402: CALLS - 1}
