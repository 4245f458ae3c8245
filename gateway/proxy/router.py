"""Finds the route of a request by one canonical path, which policy, price, metric and upstream all use.

A path that can be read in two ways is refused, and the path that was checked is the path that is forwarded
(CVE-2019-9901, CVE-2021-43557). Characters that a segment may hold plainly are one with their percent-encodings
(RFC 3986 section 6.2.2), so those are decoded before anything is compared. An exact route wins over a pattern, a
pattern over a prefix, the more specific pattern over the other (`specificity`), a longer prefix over a shorter one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

from gateway.config.routes import is_reserved
from gateway.proxy.request.api_keys import DEFAULT_FORM, KeyForm
from policies.model import Refusal, Refused, Route
from policies.pricing.price_list import PriceList
from policies.pricing.quotes import Quote, quote_plain
from policies.usage import records

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PATH = _UNRESERVED + b"/!$&'()*+,=:@"  # RFC 3986 pchar and "/", without ";" and "%"
_HEX = b"0123456789ABCDEFabcdef"
# Escapes of what separates segments, or of what is decoded twice, have a second reading.
_AMBIGUOUS_OCTETS = frozenset(b"/\\;%") | frozenset(range(0x20)) | {0x7F}
_PLAIN_OCTETS = frozenset(_PATH) - frozenset(b"/")
# Clients repeat most of their paths, so one that is no route's own is looked up once. The cache holds short paths, a
# megabyte or two of them, and is cleared when it is full: then most of them did not come back.
_MAX_KNOWN_PATHS = 1024
_MAX_KNOWN_BYTES = 256
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_SLASH = re.compile(rb"%2[Ff]")

_Methods = Mapping[str, Route]


class RouteMatch(NamedTuple):
    """A route, the canonical path it was found by, and the columns that records of it share.

    `upstream_path` is the path towards the upstream. `quote` is what a call holds and needs; None where its body
    decides.
    """

    route: Route
    path: str
    upstream_path: bytes
    record_columns: str
    quote: Quote | None

    @classmethod
    def of(cls, route: Route, method: str, path: str) -> RouteMatch:
        name, usage_type = records.text(route.name), records.text(route.usage_type)
        columns = records.route_columns(endpoint=name, method=method, path=records.text(path), usage_type=usage_type)
        price = route.price
        quote = None if isinstance(price, PriceList) or price.is_counted_in_request else quote_plain(price)
        return cls(route, path, path.removeprefix(route.strip_prefix).encode(), columns, quote)


def specificity(pattern: str) -> tuple[object, ...]:
    """Orders patterns of as many segments: the larger is the more specific, and equal ones that match a path are one.

    More characters that are not `*` win, then more of them in an earlier segment, then more of them before its `*`.
    """
    segments = pattern.split("/")
    fixed = [len(segment) - segment.count("*") for segment in segments]
    return sum(fixed), fixed, [segment.find("*") for segment in segments]


class Router:
    """The route table as dictionaries of exact paths and prefixes: 5,000 routes cost what one does.

    Patterns are tried one after another, those of as many segments as the path has.
    """

    def __init__(self, routes: Iterable[Route], key_form: KeyForm = DEFAULT_FORM) -> None:
        self._key_form = key_form
        self._exact: dict[bytes, dict[str, RouteMatch]] = {}
        self._prefixes: dict[bytes, dict[str, Route]] = {}
        self._known: dict[tuple[str, bytes], RouteMatch] = {}
        self._passes_slashes = False
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._passes_slashes |= route.passes_encoded_slashes
            self._add(route, patterns)
        self._patterns: dict[int, list[tuple[re.Pattern[bytes], _Methods]]] = {}
        for pattern in sorted(patterns, key=specificity, reverse=True):
            self._patterns.setdefault(pattern.count("/"), []).append((_compile(pattern), patterns[pattern]))

    def match(self, method: str, raw_path: bytes) -> RouteMatch:
        """The route for a method and a raw path; raises Refused for an ambiguous path, no route or another method."""
        exact = self._exact.get(raw_path)
        if exact is not None:
            return exact.get(method) or _refuse_method(method, exact)
        known = self._known.get((method, raw_path))
        if known is None:
            known = self._look_up(method, raw_path)
            if len(raw_path) <= _MAX_KNOWN_BYTES:
                if len(self._known) >= _MAX_KNOWN_PATHS:
                    self._known.clear()
                self._known[method, raw_path] = known
        return known

    def _look_up(self, method: str, raw_path: bytes) -> RouteMatch:
        """As `match`, for a path that is no exact route as it came."""
        if self._passes_slashes and _SLASH.search(raw_path) is not None:
            return self._match_with_slashes(method, raw_path)
        path = canonical_path(raw_path)
        if path != raw_path:
            if is_reserved(path):  # which was asked for in a spelling that the account API does not know
                raise Refused(Refusal.BAD_REQUEST, "The path is percent-encoded without need.")
            exact = self._exact.get(path)
            if exact is not None:
                return exact.get(method) or _refuse_method(method, exact)
        return RouteMatch.of(self._find(method, path), method, path.decode())

    def _match_with_slashes(self, method: str, raw_path: bytes) -> RouteMatch:
        """As `match`, for a path with encoded slashes, which only a route that passes them on may have."""
        path = canonical_path_with_slashes(raw_path)
        route = self._find(method, path)
        if not route.passes_encoded_slashes or is_reserved(path):
            canonical_path(raw_path)  # refuses the first of them
        return RouteMatch.of(route, method, path.decode())

    def _find(self, method: str, path: bytes) -> Route:
        """The route of a canonical path that is not exact."""
        if self._key_form.is_in(path):  # a path is recorded, and cannot be forwarded without it
            raise Refused(Refusal.BAD_REQUEST, "The path holds an API key; send it as 'Authorization: Bearer KEY'.")
        methods = self._best_pattern(path) if self._patterns else None
        if methods is None:
            methods = self._longest_prefix(path)
        if methods is None:
            raise Refused(Refusal.ROUTE_NOT_FOUND, "No route has this path.")
        return methods.get(method) or _refuse_method(method, methods)

    def allowed_methods(self, raw_path: bytes) -> str | None:
        """The methods of a path, as `Allow` lists them; None where no route has it."""
        try:
            self.match("", raw_path)  # always raises: no route has a method without a name
        except Refused as refused:
            allow = refused.extras.get("allow")
            return None if allow is None else str(allow)
        return None

    def _add(self, route: Route, patterns: dict[str, dict[str, Route]]) -> None:
        path = route.path.encode()
        if path.endswith(b"/**"):
            methods = self._prefixes.setdefault(path.removesuffix(b"**"), {})
            methods.update(dict.fromkeys(route.methods, route))
        elif b"*" in path:
            patterns.setdefault(route.path, {}).update(dict.fromkeys(route.methods, route))
        else:
            matches = {method: RouteMatch.of(route, method, route.path) for method in route.methods}
            self._exact.setdefault(path, {}).update(matches)

    def _best_pattern(self, path: bytes) -> _Methods | None:
        for pattern, methods in self._patterns.get(path.count(b"/"), ()):
            if pattern.fullmatch(path) is not None:
                return methods
        return None

    def _longest_prefix(self, path: bytes) -> _Methods | None:
        end = len(path)
        while (slash := path.rfind(b"/", 0, end)) >= 0:
            methods = self._prefixes.get(path[: slash + 1])
            if methods is not None:
                return methods
            end = slash
        return None


def _compile(pattern: str) -> re.Pattern[bytes]:
    """`*` stands for at least one character of its segment."""
    return re.compile(rb"[^/]+".join(re.escape(part.encode()) for part in pattern.split("*")))


def canonical_path(raw_path: bytes) -> bytes:
    """The one spelling of a path: only what needs it is percent-encoded, in upper case.

    Raises Refused for a path that has more than one reading, or none.
    """
    if b"%" not in raw_path:
        check_path(raw_path)
        return raw_path
    _check_octets(raw_path)
    path = _ESCAPE.sub(_decode_plain, raw_path)
    check_path(path)
    return path


def canonical_path_with_slashes(raw_path: bytes) -> bytes:
    """As `canonical_path`, with encoded slashes kept. An upstream that decodes them must find no dot segment."""
    if not raw_path.startswith(b"/"):
        check_path(raw_path)
    pieces = [canonical_path(b"/" + piece)[1:] for piece in _SLASH.split(raw_path[1:])]
    path = b"/" + b"%2F".join(pieces)
    if any(segment in (b".", b"..") for segment in path.replace(b"%2F", b"/").split(b"/")):
        raise Refused(Refusal.BAD_REQUEST, "The path has a dot segment.")
    return path


def _decode_plain(escape: re.Match[bytes]) -> bytes:
    octet = int(escape[1], 16)
    return bytes((octet,)) if octet in _PLAIN_OCTETS else escape[0].upper()


def check_path(path: bytes) -> None:
    """Raises Refused unless the path has exactly one reading."""
    if not path.startswith(b"/"):
        raise Refused(Refusal.BAD_REQUEST, "The request target must be an absolute path.")
    if path.translate(None, _PATH):
        _check_octets(path)
    if b"//" in path:
        raise Refused(Refusal.BAD_REQUEST, "The path has an empty segment.")
    if b"/." in path and any(segment in (b".", b"..") for segment in path.split(b"/")):
        raise Refused(Refusal.BAD_REQUEST, "The path has a dot segment.")


def _check_octets(path: bytes) -> None:
    stray = path.translate(None, _PATH + b"%")
    if stray:
        raise Refused(
            Refusal.BAD_REQUEST, f"The path holds {chr(stray[0])!r}, which must be percent-encoded or left out."
        )
    for escape in path.split(b"%")[1:]:
        digits = escape[:2]
        if len(digits) < 2 or digits.translate(None, _HEX):
            raise Refused(Refusal.BAD_REQUEST, "The path has an invalid percent-encoding.")
        if int(digits, 16) in _AMBIGUOUS_OCTETS:
            raise Refused(Refusal.BAD_REQUEST, f"The path holds an ambiguous percent-encoding: %{digits.decode()}.")


def _refuse_method(method: str, allowed: Mapping[str, object]) -> NoReturn:
    raise Refused(Refusal.METHOD_NOT_ALLOWED, f"{method} is not allowed here.", allow=", ".join(sorted(allowed)))
