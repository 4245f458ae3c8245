"""409: a call that was made before, or is running, and has no response to replay."""

from __future__ import annotations

import asyncio

import pytest

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


async def test_stored_responses_of_an_account_are_limited_per_day(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.meter.meter.MAX_STORED_BYTES_PER_DAY", 2000)
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, b"x" * 1500)
    for key in ("a", "b"):
        assert (await data_plane.post(account, idempotency_key=key)).status_code == 200
    assert (await data_plane.post(account, idempotency_key="a")).headers["idempotency-replayed"] == "true"
    assert_problem(await data_plane.post(account, idempotency_key="b"), 409, "idempotency_not_replayable")
    assert (await data_plane.settled_state(account)).balance == 98
