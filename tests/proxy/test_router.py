"""The router against a brute-force model of its rule, and paths that have more than one reading."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.router import Router, check_path
from policies.model import Refusal, Refused, Route
from policies.pricing.price import Price

METHODS = ("GET", "POST", "PUT")
_segments = st.sampled_from(["a", "b", "ab", "a.b", "..."])
_paths = st.lists(_segments, min_size=0, max_size=4).map(lambda parts: "/" + "/".join(parts))
_patterns = st.one_of(_paths, _paths.map(lambda path: f"{path.rstrip('/')}/**"))


def a_route(path: str, methods: frozenset[str] = frozenset(METHODS), name: str = "") -> Route:
    return Route(
        name=name or path, path=path, methods=methods, upstream="main", usage_type="call", price=Price(Decimal(1))
    )


_tables = st.lists(
    st.builds(a_route, _patterns, st.frozensets(st.sampled_from(METHODS), min_size=1)),
    max_size=12,
    unique_by=lambda route: route.path,
)


def longest(table: list[Route], path: str) -> Route | None:
    """The model: exact before prefix, the longer prefix before the shorter."""
    exact = [route for route in table if route.path == path]
    prefixes = [route for route in table if route.path.endswith("/**") and path.startswith(route.path[:-2])]
    return next(iter(exact), None) or max(prefixes, key=lambda route: len(route.path), default=None)


def refusal(router: Router, method: str, path: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        router.match(method, path)
    return caught.value


@given(_tables, _paths, st.sampled_from(METHODS))
def test_longest_prefix_wins(table: list[Route], path: str, method: str) -> None:
    router, expected = Router(table), longest(table, path)
    if expected is None:
        assert refusal(router, method, path.encode()).code is Refusal.ROUTE_NOT_FOUND
    elif method in expected.methods:
        match = router.match(method, path.encode())
        assert (match.route, match.path) == (expected, path)
    else:
        refused = refusal(router, method, path.encode())
        assert refused.code is Refusal.METHOD_NOT_ALLOWED
        assert refused.extras == {"allow": ", ".join(sorted(expected.methods))}


@given(_tables, _paths, st.sampled_from(METHODS))
def test_route_order_does_not_matter(table: list[Route], path: str, method: str) -> None:
    def found(routes: list[Route]) -> object:
        try:
            return Router(routes).match(method, path.encode())
        except Refused as refused:
            return refused.code

    assert found(table) == found(table[::-1])


def test_routes_of_one_path_may_differ_by_method() -> None:
    reading, writing = a_route("/v1/x", frozenset({"GET"}), "read"), a_route("/v1/x", frozenset({"POST"}), "write")
    router = Router([reading, writing])
    assert router.match("GET", b"/v1/x").route is reading
    assert router.match("POST", b"/v1/x").route is writing
    assert refusal(router, "PUT", b"/v1/x").extras == {"allow": "GET, POST"}


def test_prefix_covers_what_is_below_it_and_not_its_neighbours() -> None:
    router = Router([a_route("/v1/files/**")])
    assert router.match("GET", b"/v1/files/").path == "/v1/files/"
    assert router.match("GET", b"/v1/files/a/b.txt").path == "/v1/files/a/b.txt"
    for path in (b"/v1/files", b"/v1/filesystem", b"/v1/Files/a", b"/v1"):
        assert refusal(router, "GET", path).code is Refusal.ROUTE_NOT_FOUND


def test_prefix_of_everything_covers_everything() -> None:
    router = Router([a_route("/**")])
    assert router.match("GET", b"/").path == "/"
    assert router.match("GET", b"/a/b").path == "/a/b"


@pytest.mark.parametrize(
    "path", [b"*", b"", b"a/b", b"http://x/a", b"?", b"//a", b"/a//b", b"/a/../b", b"/a/.", b"/.."]
)
def test_path_that_is_not_plain_is_refused(path: bytes) -> None:
    assert refusal(Router([a_route("/**")]), "GET", path).code is Refusal.BAD_REQUEST


@given(st.binary(max_size=30).map(lambda tail: b"/" + tail))
def test_accepted_path_has_one_reading(path: bytes) -> None:
    """Decoding it, merging slashes, resolving dots or cutting parameters gives the segments that were compared."""
    try:
        check_path(path)
    except Refused:
        return
    segments = path.split(b"/")[1:]
    decoded = unquote_to_bytes(path)
    assert [unquote_to_bytes(segment) for segment in segments] == decoded.split(b"/")[1:]
    assert all(segment not in (b".", b"..") for segment in decoded.split(b"/"))
    assert b"" not in segments[:-1]
    assert not {b";", b"\\", b"%"} & {bytes((octet,)) for octet in decoded}
    assert all(octet > 0x20 or octet == 0x20 for octet in decoded)
    assert unquote_to_bytes(decoded) == decoded


@given(st.lists(st.text(min_size=1).filter(lambda text: not set(text) & set("/\\;%.\x7f")), min_size=1, max_size=4))
def test_properly_encoded_path_is_accepted(segments: list[str]) -> None:
    if any(ord(char) < 0x20 for segment in segments for char in segment):
        return
    check_path(("/" + "/".join(quote(segment, safe="") for segment in segments)).encode())
