"""Routes as gateway.yaml writes them, turned into the routes that policies decide on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from gateway.config.fields import Amount, Flag, NotNegative, Size, Word
from policies.model import Price, Route

# RFC 9110 section 9 and PATCH (RFC 5789). CONNECT and TRACE have no meaning at a gateway.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# pchar of RFC 3986 without `%` (two spellings of one path) and `;` (parameters that some servers cut off).
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()+,=:@-]*)+", re.ASCII)
_POINTER = re.compile(r"(/([^~/]|~[01])*)*")
_UNIT = re.compile(r"(?:(\d{1,9})\s+)?(call|item|token|minute)s?", re.ASCII)


def _path(written: object) -> str:
    """Exact, or a prefix ending in `/**`; one spelling only, the one that the router compares."""
    if not isinstance(written, str) or not written.startswith("/"):
        raise ValueError(f"must begin with /, such as /v1/analyze or /v1/files/**, got {written!r}")
    fixed = written.removesuffix("/**") if written != "/**" else "/"
    if "*" in fixed:
        raise ValueError(f"may hold * only as a /** at its end, got {written!r}")
    if "//" in written or any(part in (".", "..") for part in fixed.split("/")):
        raise ValueError(f"must not hold // or the segments . and .., got {written!r}")
    if "%" in written:
        raise ValueError(f"must be written without percent-encoding, got {written!r}")
    if not _PATH.fullmatch(fixed):
        raise ValueError(f"may hold letters, digits and - . _ ~ ! $ & ' ( ) + , = : @ only, got {written!r}")
    return written


def _methods(written: object) -> list[str]:
    """One method or several, in any case."""
    names = [written] if isinstance(written, str) else written
    if not isinstance(names, list | tuple) or not names:
        raise ValueError("must be a list such as [GET, POST]")
    upper = [name.upper() if isinstance(name, str) else name for name in names]
    unknown = [name for name in upper if name not in METHODS]
    if unknown:
        raise ValueError(f"must be among {', '.join(METHODS)}, got {unknown[0]!r}")
    return upper


def _unit(written: object) -> str:
    if not isinstance(written, str) or (match := _UNIT.fullmatch(written)) is None or match[1] == "0":
        raise ValueError(f"must be call, item, minute, token or a number of them such as 1000 tokens, got {written!r}")
    if match[2] == "call" and match[1] is not None:
        raise ValueError(f"must be call without a number, got {written!r}; credits may be a fraction")
    return f"{match[1] or 1} {match[2]}"


def _count(written: object) -> str:
    """`request:` or `response:` and a JSON Pointer (RFC 6901 section 3)."""
    source, colon, pointer = written.partition(":") if isinstance(written, str) else ("", "", "")
    if source not in ("request", "response") or not colon:
        raise ValueError(f"must be request:/pointer or response:/pointer, such as request:/products, got {written!r}")
    if not _POINTER.fullmatch(pointer):
        raise ValueError(
            f"must hold a JSON Pointer: each part begins with /, and ~ is written ~0 (RFC 6901), got {pointer!r}"
        )
    return f"{source}:{pointer}"


def _not_reserved(name: str) -> str:
    if name == "other":
        raise ValueError("must not be other, the metric label of routes that do not exist")
    return name


def _charge_on(written: object) -> list[str]:
    names = [str(name).lower() for name in written] if isinstance(written, list | tuple) else []
    if not names or any(not re.fullmatch(r"[1-5](xx|\d\d)", name, re.ASCII) for name in names):
        raise ValueError(f"must be a list of statuses such as [2xx, 3xx, 404], got {written!r}")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchEntry:
    path: Annotated[str, BeforeValidator(_path)]
    methods: Annotated[frozenset[str], BeforeValidator(_methods)] = frozenset(METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    """`credits` for each `per`, counted at `count`: items in the request, tokens in the response."""

    credits: Amount
    per: Annotated[str, BeforeValidator(_unit)] = "1 call"
    count: Annotated[str, BeforeValidator(_count)] | None = None
    minimum: NotNegative = 0
    hold: NotNegative | None = None

    def __post_init__(self) -> None:
        unit = self.per.partition(" ")[2]
        source = _COUNTED_IN.get(unit)
        if source is None and self.count is not None:
            raise ValueError(f"count needs per: item or per: tokens; per: {unit} counts nothing in a body")
        if source is not None and not (self.count or "").startswith(f"{source}:"):
            raise ValueError(f"per: {unit} needs count: {source}:/pointer, such as {_COUNT_EXAMPLE[unit]}")


_COUNTED_IN: dict[str, Literal["request", "response"]] = {"item": "request", "token": "response"}
_COUNT_EXAMPLE = {"item": "request:/products", "token": "response:/usage/total_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEntry:
    """`name` is the metric label and `usage_tracking.endpoint`. With `websocket`, a handshake may switch protocols."""

    name: Annotated[Word, AfterValidator(_not_reserved)]
    match: MatchEntry
    upstream: str
    price: PriceEntry
    usage_type: Word = "api_call"
    feature: Word | None = None
    permission: Word | None = None
    max_body_bytes: Size | None = None
    charge_on: Annotated[frozenset[str], BeforeValidator(_charge_on)] = field(
        default_factory=lambda: frozenset({"2xx", "3xx"})
    )
    websocket: Flag = False

    def __post_init__(self) -> None:
        if not self.websocket:
            return
        if "GET" not in self.match.methods:
            raise ValueError("websocket needs GET among match.methods: its handshake is a GET (RFC 6455 section 4.1)")
        if self.price.count is not None:
            raise ValueError("websocket needs a price per: call or per: minute; its messages are never counted")


def route_of(entry: RouteEntry) -> Route:
    """The entry in the vocabulary of policies."""
    return Route(
        name=entry.name,
        path=entry.match.path,
        methods=entry.match.methods,
        upstream=entry.upstream,
        usage_type=entry.usage_type,
        price=_price_of(entry.price),
        feature=entry.feature,
        permission=entry.permission,
        max_body_bytes=entry.max_body_bytes,
        charge_on=entry.charge_on,
        websocket=entry.websocket,
    )


def _price_of(entry: PriceEntry) -> Price:
    size, _, unit = entry.per.partition(" ")
    return Price(
        credits=Decimal(entry.credits),
        unit=_UNITS[unit],
        unit_size=int(size),
        pointer=None if entry.count is None else entry.count.partition(":")[2],
        minimum=entry.minimum,
        hold=entry.hold,
    )


_UNITS: dict[str, Literal["call", "item", "token", "minute"]] = {
    "call": "call",
    "item": "item",
    "token": "token",
    "minute": "minute",
}
