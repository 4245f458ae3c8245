"""422: more items in one call than the plan allows."""

from __future__ import annotations

import json

from tests.proxy.plane import Plane
from tests.proxy.problems import assert_problem


async def test_a_batch_beyond_the_plan_is_refused(plane: Plane) -> None:
    account = await plane.account(max_products_per_batch=3)
    async with plane.untouched(account):
        answer = await plane.post(account, "/v1/generate", json.dumps({"products": [1, 2, 3, 4]}).encode())
    assert_problem(answer, 422, "batch_too_large", max_items=3, items=4)
    assert await plane.refusals(account) == {("generate", "batch_too_large"): 1}


async def test_a_batch_of_the_plans_size_passes(plane: Plane) -> None:
    account = await plane.account(max_products_per_batch=3)
    assert (await plane.post(account, "/v1/generate", b'{"products": [1, 2, 3]}')).status_code == 200


async def test_it_is_refused_before_limits_and_credits_are_asked(plane: Plane) -> None:
    account = await plane.account(max_products_per_batch=1, credits=0, requests_per_minute=0)
    answer = await plane.post(account, "/v1/generate", b'{"products": 2}')
    assert_problem(answer, 422, "batch_too_large", max_items=1, items=2)
