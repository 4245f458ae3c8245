"""The router against a brute-force model of its rule, and paths that have more than one reading."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy import router as router_module
from gateway.proxy.router import Router, canonical_path
from policies.model import Refusal, Refused, Route
from policies.pricing.price import Price

METHODS = ("GET", "POST", "PUT")
_segments = st.sampled_from(["a", "b", "ab", "a.b", "...", "aab:b"])
_paths = st.lists(_segments, min_size=0, max_size=4).map(lambda parts: "/" + "/".join(parts))
_parts = st.sampled_from(["a", "ab", "*", "a*", "*b", "a*b", "*:b", "aa*"])
_starred = st.lists(_parts, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
_patterns = st.one_of(_paths, _paths.map(lambda path: f"{path.rstrip('/')}/**"), _starred)


def a_route(path: str, methods: frozenset[str] = frozenset(METHODS), name: str = "") -> Route:
    return Route(
        name=name or path, path=path, methods=methods, upstream="main", usage_type="call", price=Price(Decimal(1))
    )


_tables = st.lists(
    st.builds(a_route, _patterns, st.frozensets(st.sampled_from(METHODS), min_size=1)),
    max_size=12,
    unique_by=lambda route: route.path,
)


def matches(pattern: str, path: str) -> bool:
    """The model of a pattern: a `*` is one character or more of its segment."""
    parts, segments = pattern.split("/"), path.split("/")
    if len(parts) != len(segments):
        return False
    for part, segment in zip(parts, segments, strict=True):
        first, star, last = part.partition("*")
        if not star and part != segment:
            return False
        if star and not (
            segment.startswith(first) and segment.endswith(last) and len(segment) > len(first) + len(last)
        ):
            return False
    return True


def rank(route: Route, path: str) -> tuple[object, ...] | None:
    """The model of the order: exact, then patterns by their fixed characters, then prefixes by length."""
    if route.path == path:
        return (2,)
    if route.path.endswith("/**"):
        return (0, len(route.path)) if path.startswith(route.path[:-2]) else None
    if "*" not in route.path or not matches(route.path, path):
        return None
    fixed = [len(part.replace("*", "")) for part in route.path.split("/")]
    return (1, sum(fixed), fixed, [part.find("*") for part in route.path.split("/")])


def best(table: list[Route], path: str) -> Route | None:
    """The model; two routes that rank alike would make the order of the file decide."""
    ranked = [(rank(route, path), route) for route in table if rank(route, path) is not None]
    ranks = [each for each, _ in ranked]
    assert all(ranks.count(each) == 1 for each in ranks)
    return max(ranked, key=lambda each: each[0] or (), default=(None, None))[1]


def refusal(router: Router, method: str, path: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        router.match(method, path)
    return caught.value


@given(_tables, _paths, st.sampled_from(METHODS))
def test_most_specific_route_wins(table: list[Route], path: str, method: str) -> None:
    router, expected = Router(table), best(table, path)
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


def test_path_is_the_same_when_it_comes_again_whatever_came_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "_MAX_KNOWN_PATHS", 2)
    router = Router([a_route("/v1/**", frozenset({"GET"}), "read"), a_route("/v1/x", frozenset({"POST"}), "write")])
    for _ in range(2):
        for path in (b"/v1/a", b"/v1/b", b"/v1/%63", b"/v1/" + b"d" * 300):
            assert router.match("GET", path).path == canonical_path(path).decode()
            assert router.match("GET", path).route.name == "read"
            assert refusal(router, "POST", path).extras == {"allow": "GET"}
            assert len(router._known) <= 2


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
        path = canonical_path(path)
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
    encoded = ("/" + "/".join(quote(segment, safe="") for segment in segments)).encode()
    assert unquote_to_bytes(canonical_path(encoded)) == ("/" + "/".join(segments)).encode()


_PCHAR = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@"


@given(st.data())
def test_needless_escapes_change_nothing(data: st.DataObject) -> None:
    """A path is found, priced and forwarded the same, in whichever spelling it comes."""
    model = data.draw(st.text(_PCHAR, min_size=1, max_size=12).filter(lambda text: text not in (".", "..")))
    plain = f"/v1/models/{model}:go"
    router = Router([a_route("/v1/models/*:go"), a_route("/v1/**"), a_route(plain, name="exact")])
    spelt = "".join(
        data.draw(st.sampled_from([char, f"%{ord(char):02x}", f"%{ord(char):02X}"])) if char != "/" else char
        for char in plain
    )
    match = router.match("GET", spelt.encode())
    assert (match.route.name, match.path, match.upstream_path) == ("exact", plain, plain.encode())
    assert canonical_path(canonical_path(spelt.encode())) == plain.encode()


def test_escapes_that_are_needed_stay_in_one_spelling() -> None:
    assert canonical_path(b"/a%20b%c3%a9%5b") == b"/a%20b%C3%A9%5B"


@pytest.mark.parametrize(
    "path", [b"/a%2fb", b"/%2e%2e/b", b"/%2E/b", b"/a%00", b"/a%5c", b"/a%252e", b"/a%3b", b"/a%zz"]
)
def test_escape_with_a_second_reading_is_refused(path: bytes) -> None:
    assert refusal(Router([a_route("/**")]), "GET", path).code is Refusal.BAD_REQUEST


def test_stripped_prefix_is_not_forwarded() -> None:
    route = replace(a_route("/openrouter/v1/**"), strip_prefix="/openrouter")
    match = Router([route]).match("GET", b"/openrouter/v1/chat%3Aa")
    assert (match.path, match.upstream_path) == ("/openrouter/v1/chat:a", b"/v1/chat:a")


SLASHES = Router(
    [a_route("/files/**"), replace(a_route("/blobs/**"), passes_encoded_slashes=True), a_route("/blobs/*/x")]
)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/blobs/https%3A%2f%2fa.test%2Fb", "/blobs/https:%2F%2Fa.test%2Fb"),
        (b"/blobs/%61%2F%20", "/blobs/a%2F%20"),
        (b"/blobs/a%2Fb/c", "/blobs/a%2Fb/c"),
    ],
)
def test_encoded_slashes_pass_as_part_of_a_segment_where_a_prefix_route_says_so(raw: bytes, path: str) -> None:
    found = SLASHES.match("GET", raw)
    assert (found.route.path, found.path, found.upstream_path) == ("/blobs/**", path, path.encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"/files/a%2Fb",
        b"/blobs/a%2Fb/x",  # is of the pattern
        b"/blobs%2Fa",
        b"/blobs/a%2F..%2Fb",
        b"/blobs/%2E%2E%2Fb",
        b"/blobs/..%2fb",
        b"/blobs/a%2F.",
        b"/blobs/a%2F/b",
        b"/blobs/a%252Fb",
        b"/blobs/a%2Fb%5Cc",
        b"/blobs/a%2F%",
        b"/blobs/a%2F%2",
        b"/blobs/a%2Fb;c",
        b"blobs/a%2Fb",
        b"/me%2Fusage",
    ],
)
def test_encoded_slashes_are_refused_where_a_path_would_have_two_readings(raw: bytes) -> None:
    with pytest.raises(Refused):
        SLASHES.match("GET", raw)
