"""405: the path has routes, for other methods."""

from __future__ import annotations

from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem


async def test_allowed_methods_are_named(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.get(account, "/v1/post-only")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, PUT"


async def test_method_is_checked_before_the_key(data_plane: DataPlane) -> None:
    assert_problem(await data_plane.http.get("/v1/post-only"), 405, "method_not_allowed")


async def test_unknown_method_is_not_implemented(data_plane: DataPlane) -> None:
    assert_problem(await data_plane.http.request("BREW", "/v1/things/1"), 501, "not_implemented")


async def test_methods_that_no_route_can_have_are_refused_with_those_there_are(data_plane: DataPlane) -> None:
    for method in ("TRACE", "QUERY"):
        answer = await data_plane.http.request(method, "/v1/post-only")
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST, PUT"
