"""Limits are checked before a body is read for its price: a call over them costs no memory and no parsing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.proxy.data_plane import Account, DataPlane, RawConnection
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

PATH = "POST /v1/chat/completions"
LARGE = f"content-length: {18 * 2**20}"
BODY = b'{"model": "gpt-4o", "messages": []}'


async def refusal_of(wire: RawConnection, account: Account, *fields: str) -> int:
    """The status of a request whose body never comes."""
    await wire.request(account, PATH, "content-type: application/json", *fields)
    status, _ = await wire.read_head()
    return status


@pytest.mark.parametrize("fields", [(LARGE,), ("transfer-encoding: chunked",), (LARGE, "expect: 100-continue")])
async def test_body_of_a_caller_over_its_window_is_not_waited_for(
    data_plane: DataPlane, fields: tuple[str, ...]
) -> None:
    account = await data_plane.create_account(credits=10_000, requests_per_minute=1)
    await data_plane.get(account)
    async with data_plane.assert_unchanged(account), data_plane.connect() as wire:
        assert await refusal_of(wire, account, *fields) == 429
    assert await data_plane.refusal_counts(account) == {("openai", "rate_limited"): 1}


async def test_body_of_a_caller_with_too_many_calls_in_flight_is_not_waited_for(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=10_000, max_concurrent_requests=1)
    answering = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await answering.wait()
        await exchange.reply()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as first, data_plane.connect() as second:
        await first.request(account, "GET /v1/things/1")
        await eventually(lambda: bool(data_plane.upstream.exchanges))
        assert await refusal_of(second, account, LARGE) == 429
        answering.set()
        assert (await first.read_head())[0] == 200


async def test_continue_is_sent_to_a_caller_within_its_limits(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=10_000, requests_per_minute=2)
    await data_plane.get(account)
    async with data_plane.connect() as wire:
        fields = ("content-type: application/json", f"content-length: {len(BODY)}", "expect: 100-continue")
        await wire.request(account, PATH, *fields)
        assert (await wire.read_head())[0] == 100
        await wire.send(BODY)
        assert (await wire.read_head())[0] == 200


async def test_caller_whose_plan_was_raised_is_not_refused_by_the_old_one(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=100_000, requests_per_minute=1)
    await data_plane.get(account)
    await data_plane.change_plan(account, requests_per_minute=5)
    await data_plane.publish()
    answer = await data_plane.post(account, "/v1/chat/completions", BODY[:-1] + b" " * 70_000 + b"}")
    assert answer.status_code == 200


async def test_small_body_asks_redis_once(data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    account = await data_plane.create_account(credits=100_000, requests_per_minute=9)
    meter, asked = data_plane.handler._admission._meter, []
    look = meter.account_snapshot

    async def counted(*given: Any) -> Any:
        asked.append(given)
        return await look(*given)

    monkeypatch.setattr(type(meter), "account_snapshot", lambda _, *given: counted(*given))
    async with data_plane.connect() as wire:
        await wire.request(account, PATH, "content-type: application/json", f"content-length: {len(BODY)}")
        await wire.send(BODY)
        assert (await wire.read_head())[0] == 200
    assert not asked
    assert (await data_plane.post(account, "/v1/chat/completions", BODY[:-1] + b" " * 70_000 + b"}")).status_code == 200
    assert len(asked) == 1
