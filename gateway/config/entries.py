"""Upstreams, routes and plans: validated entry by entry, then against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from gateway.config import model
from gateway.config.document import Document
from gateway.config.errors import KeyPath
from gateway.config.overlay import expand
from gateway.config.plans import PlanSpec, default_plans
from gateway.config.prices import AnyPrice, read_named_prices, read_price
from gateway.config.routes import RESERVED_PATHS, RouteEntry, is_reserved
from gateway.config.validation import Reader
from gateway.http.fields import HOP_BY_HOP
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList

# RFC 9110 section 5.6.2; framing and hop-by-hop fields are the gateway's own business (RFC 9112 section 6).
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = {"content-length", *(name.decode() for name in HOP_BY_HOP)}


def read_upstreams(reader: Reader, environ: Mapping[str, str] | None) -> dict[str, model.Upstream | None]:
    """By name; None for an upstream with a problem, so that its routes are not reported as well.

    Without an environment headers stay as they are written: only proxies have the credentials of upstreams.
    """
    entries = reader.document.tree.get("upstreams")
    found: dict[str, model.Upstream | None] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        path = ("upstreams", name)
        if isinstance(entry, dict) and "name" in entry:
            reader.document.report((*path, "name"), "is the key above, not a setting")
        upstream = reader.read(model.Upstream, path, {**entry, "name": name} if isinstance(entry, dict) else entry)
        headers = _headers(reader.document, path, entry, environ)
        found[name] = upstream and replace(upstream, headers=headers)
    return found


def read_routes(reader: Reader, upstreams: Mapping[str, object]) -> list[RouteEntry | None]:
    entries = reader.document.tree.get("routes")
    named = read_named_prices(reader)
    routes = [
        _read_route(reader, ("routes", index), entry, named)
        for index, entry in enumerate(entries if isinstance(entries, list) else [])
    ]
    check_unique(reader.document, ("routes",), [route.name if route else None for route in routes], key="name")
    _check_upstreams_known(reader.document, upstreams)
    _check_requests_distinct(reader.document, routes)
    _check_not_reserved(reader.document, routes)
    return routes


def _read_route(
    reader: Reader, path: KeyPath, entry: object, named: Mapping[str, AnyPrice | None]
) -> RouteEntry | None:
    if isinstance(entry, dict) and not {"upstream", "serves"} & entry.keys():
        reader.document.report((*path, "upstream"), "is required")
    if not isinstance(entry, dict) or "price" not in entry:
        return reader.read(RouteEntry, path, entry)
    price = read_price(reader, (*path, "price"), entry["price"], named)
    if isinstance(price, PriceList) and isinstance(entry["price"], dict):
        price = replace(price, name=str(entry.get("name")))  # written in place, it has the name of its route
    found = reader.read(RouteEntry, path, {**entry, "price": price or _NO_PRICE})
    return None if price is None else found


_NO_PRICE = Price(Decimal(0))  # stands for one with a problem, so that the rest of its route is checked


def read_plans(reader: Reader) -> tuple[PlanSpec, ...]:
    entries = reader.document.tree.get("plans")
    if entries is None:
        return default_plans()
    plans = [
        reader.read(PlanSpec, ("plans", index), entry)
        for index, entry in enumerate(entries if isinstance(entries, list) else [])
    ]
    for key in ("id", "name"):
        check_unique(
            reader.document, ("plans",), [str(getattr(plan, key)) if plan else None for plan in plans], key=key
        )
    _check_fallbacks(reader.document, plans)
    return tuple(plan for plan in plans if plan)


def _check_fallbacks(document: Document, plans: Sequence[PlanSpec | None]) -> None:
    known = [plan.id for plan in plans if plan]
    for index, plan in enumerate(plans):
        if plan is None or plan.fallback_plan is None:
            continue
        path = ("plans", index, "fallback_plan")
        if plan.fallback_plan == plan.id:
            document.report(path, "must be another plan")
        elif plan.fallback_plan not in known and None not in plans:
            document.report(path, f"unknown plan {plan.fallback_plan!r}; known plans: {', '.join(known)}")


def check_unique(document: Document, path: KeyPath, names: Sequence[str | None], *, key: str = "id") -> None:
    for index, name in enumerate(names):
        if name is not None and (first := names.index(name)) != index:
            here = (*path, index, key)
            where = document.origin((*path, first, key))
            document.report(here, f"{name!r} is taken already, at {where}")


def _headers(document: Document, path: KeyPath, entry: object, environ: Mapping[str, str] | None) -> dict[str, str]:
    """Reads the raw entry, so that a missing variable is reported whatever else is wrong."""
    listed = entry.get("headers") if isinstance(entry, dict) else None
    headers: dict[str, str] = {}
    for written, text in listed.items() if isinstance(listed, dict) else ():
        here, name = (*path, "headers", written), written.lower()
        try:
            value = (str(text) if environ is None else expand(str(text), environ)).strip()
        except ValueError as error:
            document.report(here, str(error))
            continue
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            document.report(here, "must be a header field: a token as its name, no control characters in its value")
        elif name in _FRAMING or name.startswith("x-gateway-"):
            document.report(here, "is set by the gateway itself")
        elif name in headers:
            document.report(here, "is written twice; header names have no case")
        headers[name] = value
    return headers


def _check_upstreams_known(document: Document, upstreams: Mapping[str, object]) -> None:
    """Reads the raw routes, so that an unknown upstream is reported whatever else is wrong."""
    entries = document.tree.get("routes")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        name = entry.get("upstream") if isinstance(entry, dict) else None
        if isinstance(name, str) and name not in upstreams:
            known = ", ".join(upstreams) or "none"
            document.report(("routes", index, "upstream"), f"unknown upstream {name!r}; known upstreams: {known}")


def _check_requests_distinct(document: Document, routes: Sequence[RouteEntry | None]) -> None:
    """Refuses two routes for one path and method: the order of the file would decide the price."""
    taken: dict[tuple[str, str], str] = {}
    for index, route in enumerate(routes):
        if route is None:
            continue
        path, name = route.match.path, route.name
        for method in sorted(route.match.methods):
            if (first := taken.setdefault((path, method), name)) != name:
                document.report(("routes", index, "match"), f"routes {first} and {name} both match {method} {path}")


def _check_not_reserved(document: Document, routes: Sequence[RouteEntry | None]) -> None:
    """A route for a reserved path gets no request; one for /** gets all that is not reserved."""
    for index, route in enumerate(routes):
        if route is not None and is_reserved(route.match.path.encode()):
            reserved = ", ".join(RESERVED_PATHS)
            document.report(("routes", index, "match", "path"), f"belongs to the account API, which keeps {reserved}")
