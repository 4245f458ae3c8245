"""422: more items in one call than the plan allows; an Idempotency-Key that came with another request."""

from __future__ import annotations

import asyncio
import json

from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange


async def test_batch_beyond_the_plan_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_products_per_batch=3)
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.post(account, "/v1/generate", json.dumps({"products": [1, 2, 3, 4]}).encode())
    assert_problem(answer, 422, "batch_too_large", max_items=3, items=4)
    assert await data_plane.refusal_counts(account) == {("generate", "batch_too_large"): 1}


async def test_batch_of_the_plans_size_passes(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_products_per_batch=3)
    assert (await data_plane.post(account, "/v1/generate", b'{"products": [1, 2, 3]}')).status_code == 200


async def test_oversized_body_is_refused_before_limits_and_credits(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_products_per_batch=1, credits=0, requests_per_minute=0)
    answer = await data_plane.post(account, "/v1/generate", b'{"products": 2}')
    assert_problem(answer, 422, "batch_too_large", max_items=1, items=2)


async def test_idempotency_key_with_another_request_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    first = {"content": b'{"n": 1}', "content_type": "application/json", "idempotency_key": "k"}
    assert (await data_plane.post(account, "/v1/things/1?a=1", **first)).status_code == 200  # type: ignore[arg-type] # by name
    others: list[tuple[str, dict[str, object]]] = [
        ("/v1/things/1?a=1", {"content": b'{"n": 2}'}),
        ("/v1/things/1?a=1", {"content_type": "text/plain"}),
        ("/v1/things/1?a=2", {}),
        ("/v1/things/2?a=1", {}),
        ("/v1/dear", {}),
    ]
    async with data_plane.assert_unchanged(account):
        for path, change in others:
            answer = await data_plane.post(account, path, **(first | change))  # type: ignore[arg-type] # by name
            assert_problem(answer, 422, "idempotency_key_reused")
    assert await data_plane.refusal_counts(account) == {
        ("things", "idempotency_key_reused"): 4,
        ("dear", "idempotency_key_reused"): 1,
    }


async def test_idempotency_key_with_another_request_is_refused_while_the_first_one_runs(data_plane: DataPlane) -> None:
    account, at_upstream, go_on = await data_plane.create_account(), asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        at_upstream.set()
        await go_on.wait()
        await exchange.reply()

    data_plane.upstream.answer = answer
    first = asyncio.create_task(data_plane.post(account, content=b"1", idempotency_key="k"))
    await at_upstream.wait()
    assert_problem(await data_plane.post(account, content=b"2", idempotency_key="k"), 422, "idempotency_key_reused")
    go_on.set()
    assert (await first).status_code == 200
