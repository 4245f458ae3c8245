"""404: the path has no route, with or without a key."""

from __future__ import annotations

import pytest

from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/things", "/v1/thingsandmore/1", "/v1/analyze/", "/V1/analyze"])
async def test_path_without_a_route_is_not_found(data_plane: DataPlane, path: str) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.get(account, path)
    assert_problem(answer, 404, "route_not_found")


async def test_unknown_path_is_refused_before_the_key_is_read(data_plane: DataPlane) -> None:
    assert_problem(await data_plane.http.get("/nowhere"), 404, "route_not_found")
    assert_problem(await data_plane.http.get("/nowhere", headers={"x-api-key": "junk"}), 404, "route_not_found")
