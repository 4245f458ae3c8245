"""409: a call that was made before, or is running, and has no response to replay."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pytest
from prometheus_client import REGISTRY

from gateway.meter.idempotency import StorageLimits
from gateway.meter.keys import stored_bytes_key
from gateway.meter.stored_bytes import StoredBytes
from tests.proxy.data_plane import ANSWER_SECONDS, DataPlane, RedisState
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


async def test_parallel_calls_with_one_idempotency_key_run_exactly_once(data_plane: DataPlane) -> None:
    account, go_on = await data_plane.create_account(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await go_on.wait()
        await exchange.reply(body=b"the only one")

    data_plane.upstream.answer = answer
    calls = [asyncio.create_task(data_plane.post(account, idempotency_key=KEY)) for _ in range(20)]
    await eventually(lambda: sum(call.done() for call in calls) == 19, timeout_seconds=ANSWER_SECONDS)
    go_on.set()
    answers = await asyncio.gather(*calls)
    (served,) = [each for each in answers if each.status_code == 200]
    assert served.content == b"the only one"
    for each in answers:
        if each is not served:
            assert_problem(each, 409, "idempotency_in_progress", retry_after=1)
            assert each.headers["retry-after"] == "1"
            assert each.headers["x-credits-remaining"] == "99"
    assert len(data_plane.upstream.exchanges) == 1
    assert await data_plane.settled_state(account) == RedisState(99, 0, (1, 1, 1))
    assert len(await data_plane.usage_rows(account)) == 1
    assert await data_plane.refusal_counts(account) == {("things", "idempotency_in_progress"): 19}


BODY = b"x" * 10
NOT_KEPT = {
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n" + BODY + b"\r\n0\r\n\r\n",
    "until the connection closes": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + BODY,
    "events": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n0\r\n\r\n",
    "longer than 1 MiB": b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n" + b"x" * 1048577,
}


@pytest.mark.parametrize("said", NOT_KEPT.values(), ids=NOT_KEPT.keys())
async def test_response_that_is_not_stored_is_charged_and_not_replayable(data_plane: DataPlane, said: bytes) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(said)
    assert (await data_plane.post(account, idempotency_key=KEY)).status_code == 200
    await data_plane.settled_state(account)
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.post(account, idempotency_key=KEY)
    assert_problem(answer, 409, "idempotency_not_replayable")
    assert answer.headers["x-should-retry"] == "false"
    assert (await data_plane.usage_row(account))["credits_charged"] == 1


async def test_streamed_free_response_is_not_replayable(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(NOT_KEPT["chunked"])
    assert (await data_plane.post(account, "/v1/free", idempotency_key=KEY)).status_code == 200
    assert_problem(await data_plane.post(account, "/v1/free", idempotency_key=KEY), 409, "idempotency_not_replayable")


def not_stored(limit: str) -> float:
    return REGISTRY.get_sample_value("gateway_responses_not_stored_total", {"limit": limit}) or 0


async def test_stored_responses_of_an_account_are_limited_per_day(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plane.handler._settler._meter, "_storage", StorageLimits(of_account=2000))
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, b"x" * 1500)
    for key in ("a", "b"):
        assert (await data_plane.post(account, idempotency_key=key)).status_code == 200
    assert (await data_plane.post(account, idempotency_key="a")).headers["idempotency-replayed"] == "true"
    assert_problem(await data_plane.post(account, idempotency_key="b"), 409, "idempotency_not_replayable")
    assert (await data_plane.settled_state(account)).balance == 98


async def test_stored_responses_of_all_accounts_are_limited_per_day(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await data_plane.redis.delete(stored_bytes_key(int(time.time()) // 86_400))
    monkeypatch.setattr(data_plane.handler._settler._meter, "_stored_bytes", StoredBytes(data_plane.redis_client, 4000))
    accounts = [await data_plane.create_account() for _ in range(4)]
    data_plane.upstream.respond_with(200, b"x" * 1500)
    before = not_stored("all")
    for account in accounts:
        assert (await data_plane.post(account, idempotency_key=KEY)).status_code == 200
    answers = [await data_plane.post(account, idempotency_key=KEY) for account in accounts]
    assert [answer.status_code for answer in answers] == [200, 200, 409, 409]
    assert not_stored("all") == before + 2
    assert [(await data_plane.settled_state(account)).balance for account in accounts] == [99] * 4


@pytest.mark.parametrize(
    ("price", "pricing_model", "status"), [("0", "flat", 409), ("0", "usage", 200), ("1", "flat", 200)]
)
async def test_account_without_a_paid_plan_has_no_stored_responses_and_pays_once(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch, price: str, pricing_model: str, status: int
) -> None:
    monkeypatch.setattr(data_plane.handler._admission, "_stored_for", "paid_plans")
    account = await data_plane.create_account(price=Decimal(price), pricing_model=pricing_model)
    assert (await data_plane.post(account, idempotency_key=KEY)).status_code == 200
    await data_plane.settled_state(account)
    async with data_plane.assert_unchanged(account):
        again = await data_plane.post(account, idempotency_key=KEY)
        other = await data_plane.post(account, content=b"another", idempotency_key=KEY)
    assert_problem(other, 422, "idempotency_key_reused")
    assert again.status_code == status
    if status == 409:
        detail = assert_problem(again, 409, "idempotency_not_replayable")["detail"]
        assert "counts, once" in detail
        assert "this plan has no stored answers" in detail
        assert again.headers["x-should-retry"] == "false"
    assert (await data_plane.usage_row(account))["credits_charged"] == 1


async def test_failed_free_call_without_a_stored_response_may_be_made_again(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plane.handler._admission, "_stored_for", "paid_plans")
    account = await data_plane.create_account(price=Decimal(0))
    data_plane.upstream.respond_with(422, b"no")
    for _ in range(2):
        assert (await data_plane.post(account, idempotency_key=KEY)).status_code == 422
    assert len(data_plane.upstream.exchanges) == 2
    data_plane.upstream.respond_with(200, b"made")
    assert (await data_plane.post(account, idempotency_key=KEY)).status_code == 200
    assert_problem(await data_plane.post(account, idempotency_key=KEY), 409, "idempotency_not_replayable")
    assert (await data_plane.settled_state(account)).balance == 99


@pytest.mark.parametrize(("stored_for", "statuses"), [("all_plans", (200, 200)), ("nobody", (409, 409))])
async def test_configuration_says_whose_responses_are_stored(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch, stored_for: str, statuses: tuple[int, int]
) -> None:
    monkeypatch.setattr(data_plane.handler._admission, "_stored_for", stored_for)
    for price, status in zip((0, 1), statuses, strict=True):
        account = await data_plane.create_account(price=Decimal(price))
        await data_plane.post(account, idempotency_key=KEY)
        assert (await data_plane.post(account, idempotency_key=KEY)).status_code == status
