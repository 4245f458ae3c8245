"""A POST with an Idempotency-Key is made once: a replay gets the same response and changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.meter.idempotency import IdempotencyClaim
from policies.idempotency import key_digest
from tests.proxy.data_plane import Account, DataPlane, RedisState
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def replayable_parts(answer: httpx.Response) -> tuple[int, bytes, str | None, str | None]:
    return answer.status_code, answer.content, answer.headers.get("content-type"), answer.headers.get("x-own")


async def claim_fields(data_plane: DataPlane, account: Account, key: str = KEY) -> dict[bytes, bytes]:
    where = IdempotencyClaim(key_digest(key.encode()), "").key(data_plane.meter.keys(account.user_id))
    found: Any = await data_plane.redis.hgetall(where.decode())
    assert not found or 86_300 < await data_plane.redis.ttl(where.decode()) <= 86_400
    return dict(found)


async def test_replay_gives_the_same_response_and_charges_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(requests_per_minute=1)
    data_plane.upstream.respond_with(201, b"made", content_type="text/x-made", x_own="yes", gateway_credits="3")
    first = await data_plane.post(account, idempotency_key=KEY, x_request_id="one")
    assert first.headers["x-credits-charged"] == "3"
    assert "idempotency-replayed" not in first.headers
    assert data_plane.upstream.last["idempotency-key"] == KEY
    data_plane.upstream.respond_with(500)
    async with data_plane.assert_unchanged(account):
        again = await data_plane.post(account, idempotency_key=f'"{KEY}"', x_request_id="two")
    assert replayable_parts(again) == replayable_parts(first) == (201, b"made", "text/x-made", "yes")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] == "two"
    assert again.headers["x-credits-charged"] == "0"
    assert again.headers["x-credits-remaining"] == "97"
    assert again.headers["ratelimit"].startswith('"minute";r=0;')
    assert (await data_plane.usage_row(account))["credits_charged"] == 3
    # The limit of one a minute is used up: only a replay passes.
    assert (await data_plane.post(account)).status_code == 429


async def test_replay_needs_no_credits(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=7)
    first = await data_plane.post(account, "/v1/dear", idempotency_key=KEY)
    assert first.status_code == 200
    again = await data_plane.post(account, "/v1/dear", idempotency_key=KEY)
    assert replayable_parts(again) == replayable_parts(first)
    assert again.headers["x-credits-remaining"] == "0"


async def test_idempotency_key_belongs_to_the_account_whichever_api_key_comes_with_it(data_plane: DataPlane) -> None:
    account, other = await data_plane.create_account(), await data_plane.create_account()
    await data_plane.post(account, idempotency_key=KEY)
    assert "idempotency-replayed" not in (await data_plane.post(other, idempotency_key=KEY)).headers
    secret, _ = await data_plane.create_key(account)
    sibling = await data_plane.http.post(
        "/v1/things/1", content=b"{}", headers={"x-api-key": secret, "idempotency-key": KEY}
    )
    assert sibling.headers["idempotency-replayed"] == "true"
    assert (await data_plane.settled_state(account)).balance == 99


async def test_idempotency_key_is_ignored_on_other_methods(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    for _ in range(2):
        assert (await data_plane.get(account, idempotency_key=KEY)).status_code == 200
    assert (await data_plane.settled_state(account)).balance == 98
    assert await claim_fields(data_plane, account) == {}


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, '"open'])
async def test_malformed_idempotency_key_is_refused(data_plane: DataPlane, key: str) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.post(account, idempotency_key=key), 400, "bad_request")


@pytest.mark.parametrize("status", [204, 302, 400, 404, 422])
async def test_deterministic_failure_is_replayed(data_plane: DataPlane, status: int) -> None:
    account = await data_plane.create_account()
    fields = {"content_length": ""} if status == 204 else {}
    data_plane.upstream.respond_with(status, b"" if status == 204 else b"no", **fields)
    answers = [await data_plane.post(account, idempotency_key=KEY) for _ in range(2)]
    assert replayable_parts(answers[0]) == replayable_parts(answers[1])
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert len(data_plane.upstream.exchanges) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
async def test_idempotency_key_of_a_failed_uncharged_call_is_free_again(data_plane: DataPlane, status: int) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(status)
    assert (await data_plane.post(account, idempotency_key=KEY)).status_code == status
    assert await claim_fields(data_plane, account) == {}
    data_plane.upstream.respond_with(200, b"made")
    again = await data_plane.post(account, idempotency_key=KEY)
    assert (again.status_code, again.headers.get("idempotency-replayed")) == (200, None)
    assert await data_plane.settled_state(account) == RedisState(99, 0, (2, 2, 2))


async def test_charged_failure_is_replayed(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(500, b"dear", gateway_credits="4")
    answers = [await data_plane.post(account, idempotency_key=KEY) for _ in range(2)]
    assert [replayable_parts(each)[:2] for each in answers] == [(500, b"dear")] * 2
    assert (await data_plane.settled_state(account)).balance == 96


@pytest.mark.parametrize("path", ["/v1/nobody", "/v1/hasty"])
async def test_idempotency_key_of_a_call_without_a_response_is_free_again(data_plane: DataPlane, path: str) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await asyncio.Event().wait()

    data_plane.upstream.answer = answer
    for _ in range(2):
        assert (await data_plane.post(account, path, idempotency_key=KEY)).status_code in (502, 504)
    assert await data_plane.settled_state(account) == RedisState(100, 0, (2, 2, 2))


async def test_refused_call_claims_no_idempotency_key(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=6)
    assert (await data_plane.post(account, "/v1/dear", idempotency_key=KEY)).status_code == 402
    assert await claim_fields(data_plane, account) == {}
    await data_plane.grant_credits(account, 1)
    await data_plane.publish()
    assert (await data_plane.post(account, "/v1/dear", idempotency_key=KEY)).status_code == 200


async def test_response_of_a_call_whose_client_disconnected_is_replayed(data_plane: DataPlane) -> None:
    account, at_upstream, go_on = await data_plane.create_account(), asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        at_upstream.set()
        await go_on.wait()
        await exchange.reply(body=b"made")

    data_plane.upstream.answer = answer
    async with data_plane.connect() as wire:
        await wire.request(account, "POST /v1/things/1", f"idempotency-key: {KEY}", body=b"{}")
        await at_upstream.wait()
        wire.disconnect()
    await eventually(lambda: data_plane.handler._drains.active == 1)
    assert_problem(await data_plane.post(account, idempotency_key=KEY), 409, "idempotency_in_progress", retry_after=1)
    go_on.set()
    await data_plane.settled_state(account)
    again = await data_plane.post(account, idempotency_key=KEY)
    assert (again.content, again.headers["idempotency-replayed"]) == (b"made", "true")
    assert (await data_plane.usage_row(account))["credits_charged"] == 1


@pytest.mark.parametrize("pieces", [1, 7])
async def test_response_of_up_to_a_mebibyte_is_replayed(data_plane: DataPlane, pieces: int) -> None:
    account, body = await data_plane.create_account(), bytes(range(256)) * 4096

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        step = len(body) // pieces + 1
        for start in range(0, len(body), step):
            await exchange.write(body[start : start + step])
            await asyncio.sleep(0)

    data_plane.upstream.answer = answer
    answers = [await data_plane.post(account, idempotency_key=KEY) for _ in range(2)]
    assert [each.content for each in answers] == [body, body]
    assert answers[1].headers["idempotency-replayed"] == "true"


async def test_idempotent_upload_is_recorded_whole_and_replayed_under_another_boundary(data_plane: DataPlane) -> None:
    account, files = await data_plane.create_account(), {"file": ("a.png", b"x" * 5000, "image/png")}
    headers = account.auth | {"idempotency-key": KEY}
    for _ in range(2):
        request = data_plane.http.build_request("POST", "/v1/analyze", files=files, headers=headers)
        answer = await data_plane.http.send(request)
        assert answer.status_code == 200
    assert answer.headers["idempotency-replayed"] == "true"
    (row,) = await data_plane.analysis_rows(account)
    assert (row["file_name"], row["file_size_bytes"]) == ("a.png", 5000)
    assert (await data_plane.usage_row(account))["request_bytes"] > 5000


async def test_priced_call_is_replayed(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    for _ in range(2):
        answer = await data_plane.post(account, "/v1/generate", b'{"products": [1, 2, 3]}', idempotency_key=KEY)
    assert answer.headers["idempotency-replayed"] == "true"
    assert (await data_plane.usage_row(account))["credits_charged"] == 3


async def test_only_the_gateway_sets_idempotency_replayed(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, idempotency_replayed="true")
    assert "idempotency-replayed" not in (await data_plane.post(account, idempotency_key=KEY)).headers


async def test_body_beyond_the_limit_is_refused_before_admission(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)

    async def chunks() -> Any:
        for _ in range(11):
            yield b"x" * 10_000

    async with data_plane.assert_unchanged(account):
        headers = account.auth | {"idempotency-key": KEY}
        answer = await data_plane.http.post("/v1/analyze", content=chunks(), headers=headers)
        assert_problem(answer, 413, "payload_too_large", max_bytes=100_000)
    assert await claim_fields(data_plane, account) == {}
