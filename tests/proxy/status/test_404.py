"""404: there is no such route, whoever asks."""

from __future__ import annotations

import pytest

from tests.proxy.data_plane import Plane
from tests.proxy.problems import assert_problem


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/things", "/v1/thingsandmore/1", "/v1/analyze/", "/V1/analyze"])
async def test_a_path_of_no_route_is_not_found(plane: Plane, path: str) -> None:
    account = await plane.account()
    async with plane.untouched(account):
        answer = await plane.get(account, path)
    assert_problem(answer, 404, "route_not_found")


async def test_it_is_not_found_before_the_key_is_looked_at(plane: Plane) -> None:
    assert_problem(await plane.http.get("/nowhere"), 404, "route_not_found")
    assert_problem(await plane.http.get("/nowhere", headers={"x-api-key": "junk"}), 404, "route_not_found")
