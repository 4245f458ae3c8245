"""405: the path is served, with other methods."""

from __future__ import annotations

from tests.proxy.data_plane import Plane
from tests.proxy.problems import assert_problem


async def test_the_methods_that_are_allowed_are_named(plane: Plane) -> None:
    account = await plane.account()
    async with plane.untouched(account):
        answer = await plane.get(account, "/v1/post-only")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, PUT"


async def test_the_method_is_looked_at_before_the_key(plane: Plane) -> None:
    assert_problem(await plane.http.get("/v1/post-only"), 405, "method_not_allowed")


async def test_a_method_that_no_route_can_have_is_not_implemented(plane: Plane) -> None:
    assert_problem(await plane.http.request("BREW", "/v1/things/1"), 501, "not_implemented")


async def test_methods_that_no_route_can_have_are_refused_with_those_there_are(plane: Plane) -> None:
    for method in ("TRACE", "QUERY"):
        answer = await plane.http.request(method, "/v1/post-only")
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST, PUT"
