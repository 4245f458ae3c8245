"""Finds the route of a request by one canonical path, which policy, price, metric and upstream all use.

A path that can be read in two ways is refused, never normalised: the path that was checked is the path that is
forwarded (CVE-2019-9901, CVE-2021-43557). An exact route wins over a prefix, a longer prefix over a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

from gateway.proxy.request.api_keys import DEFAULT_FORM, KeyForm
from policies.model import Refusal, Refused, Route
from policies.pricing.price_list import PriceList
from policies.pricing.quotes import Quote, quote_plain
from policies.usage import records

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PATH = _UNRESERVED + b"/!$&'()*+,=:@"  # RFC 3986 pchar and "/", without ";" and "%"
_HEX = b"0123456789ABCDEFabcdef"
# Escapes of what a path may hold plainly, or of what separates it, have a second reading.
_AMBIGUOUS_OCTETS = frozenset(_UNRESERVED + b"/\\;%") | frozenset(range(0x20)) | {0x7F}

_Methods = Mapping[str, Route]


class RouteMatch(NamedTuple):
    """A route, the canonical path it was found by, and the columns that records of it share.

    `quote` is what a call holds and needs; None where its body decides.
    """

    route: Route
    path: str
    record_columns: str
    quote: Quote | None

    @classmethod
    def of(cls, route: Route, method: str, path: str) -> RouteMatch:
        name, usage_type = records.text(route.name), records.text(route.usage_type)
        columns = records.route_columns(endpoint=name, method=method, path=records.text(path), usage_type=usage_type)
        price = route.price
        quote = None if isinstance(price, PriceList) or price.is_counted_in_request else quote_plain(price)
        return cls(route, path, columns, quote)


class Router:
    """The route table as dictionaries of exact paths and prefixes: 5,000 routes cost what one does."""

    def __init__(self, routes: Iterable[Route], key_form: KeyForm = DEFAULT_FORM) -> None:
        self._key_form = key_form
        self._exact: dict[bytes, dict[str, RouteMatch]] = {}
        self._prefixes: dict[bytes, dict[str, Route]] = {}
        for route in routes:
            self._add(route)

    def match(self, method: str, raw_path: bytes) -> RouteMatch:
        """The route for a method and a raw path; raises Refused for an ambiguous path, no route or another method."""
        exact = self._exact.get(raw_path)
        if exact is not None:
            return exact.get(method) or _refuse_method(method, exact)
        check_path(raw_path)
        if self._key_form.is_in(raw_path):  # a path is recorded, and cannot be forwarded without it
            raise Refused(Refusal.BAD_REQUEST, "The path holds an API key; send it as 'Authorization: Bearer KEY'.")
        methods = self._longest_prefix(raw_path)
        if methods is None:
            raise Refused(Refusal.ROUTE_NOT_FOUND, "There is nothing here.")
        return RouteMatch.of(methods.get(method) or _refuse_method(method, methods), method, raw_path.decode())

    def _add(self, route: Route) -> None:
        path = route.path.encode()
        if path.endswith(b"/**"):
            methods = self._prefixes.setdefault(path.removesuffix(b"**"), {})
            methods.update(dict.fromkeys(route.methods, route))
        else:
            matches = {method: RouteMatch.of(route, method, route.path) for method in route.methods}
            self._exact.setdefault(path, {}).update(matches)

    def _longest_prefix(self, path: bytes) -> _Methods | None:
        end = len(path)
        while (slash := path.rfind(b"/", 0, end)) >= 0:
            methods = self._prefixes.get(path[: slash + 1])
            if methods is not None:
                return methods
            end = slash
        return None


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
