"""Routes as gateway.yaml writes them, turned into the routes that policies decide on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SkipValidation

from gateway.config.prices import AnyPrice
from gateway.config.quantities import Flag, Kind, Size, Word, about
from policies.model import Route
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList

# RFC 9110 section 9 and PATCH (RFC 5789). CONNECT and TRACE have no meaning at a gateway.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# First segments that the account API and the portal serve; no route is asked for a path below one of them.
RESERVED_PATHS = (
    "/auth",
    "/me",
    "/plans",
    "/subscriptions",
    "/webhooks",
    "/openapi.json",
    "/docs",
    "/problems",
    "/portal",
)
_PORTAL = b"/portal"
_RESERVED_SEGMENTS = frozenset(path.encode() for path in RESERVED_PATHS)

# pchar of RFC 3986 without `%` (two spellings of one path) and `;` (parameters that some servers cut off).
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()+,=:@-]*)+", re.ASCII)


def is_reserved(raw_path: bytes) -> bool:
    """Whether the account API or the portal serves a path, as the client sent it.

    The proxy refuses another spelling of a segment.
    """
    end = raw_path.find(b"/", 1)
    return (raw_path if end < 0 else raw_path[:end]) in _RESERVED_SEGMENTS


def is_page(raw_path: bytes) -> bool:
    """Whether a reserved path is one of the portal."""
    return raw_path == _PORTAL or raw_path.startswith(_PORTAL + b"/")


def _path(value: object) -> str:
    """Exact, a prefix ending in `/**`, or a pattern with `*`; one spelling only, the one that the router compares."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"must begin with /, such as /v1/analyze or /v1/files/**, got {value!r}")
    fixed = value.removesuffix("/**") if value != "/**" else "/"
    if "**" in fixed or any(part.count("*") > 1 for part in fixed.split("/")):
        raise ValueError(f"may hold ** only as a /** at its end, and one * in a segment, got {value!r}")
    if fixed != value and "*" in fixed:
        raise ValueError(f"may hold * within a segment or end in /**, not both, got {value!r}")
    if "//" in value or any(part in (".", "..") for part in fixed.split("/")):
        raise ValueError(f"must not hold // or the segments . and .., got {value!r}")
    if "%" in value:
        raise ValueError(f"must be written without percent-encoding, got {value!r}")
    if not _PATH.fullmatch(fixed.replace("*", "")):
        raise ValueError(f"may hold letters, digits and - . _ ~ ! $ & ' ( ) + , = : @ only, got {value!r}")
    return value


def _stripped(value: object) -> str:
    if value == "":
        return ""
    path = _path(value)
    if "*" in path or path.endswith("/"):
        raise ValueError(f"must be a plain path without / at its end, such as /openrouter, got {value!r}")
    return path


def _methods(value: object) -> list[str]:
    """One method or several, in any case."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError("must be a list such as [GET, POST]")
    upper = [name.upper() if isinstance(name, str) else name for name in names]
    unknown = [name for name in upper if name not in METHODS]
    if unknown:
        raise ValueError(f"must be among {', '.join(METHODS)}, got {unknown[0]!r}")
    return upper


def _not_other(name: str) -> str:
    if name == "other":
        raise ValueError("must not be other, the metric label of routes that do not exist")
    return name


def _charge_on(value: object) -> list[str]:
    names = [str(name).lower() for name in value] if isinstance(value, list | tuple) else []
    if not names or any(not re.fullmatch(r"[1-5](xx|\d\d)", name, re.ASCII) for name in names):
        raise ValueError(f"must be a list of statuses such as [2xx, 3xx, 404], got {value!r}")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchEntry:
    path: Annotated[
        str,
        BeforeValidator(_path),
        Kind("path"),
        about("Exact; pattern, such as `/v1/models/*:embed`; or prefix, which ends in `/**`."),
    ]
    methods: Annotated[
        frozenset[str], BeforeValidator(_methods), Kind("list of methods"), about("Methods of the route.")
    ] = frozenset(METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEntry:
    name: Annotated[Word, AfterValidator(_not_other), about("Unique; `endpoint` of usage rows and label of metrics.")]
    match: Annotated[MatchEntry, about("Requests of the route.")]
    price: Annotated[
        SkipValidation[AnyPrice],  # read by `prices.py`, which knows where each part of it was written
        Kind("price, or key of `prices`"),
        about("What a call costs."),
    ]
    upstream: Annotated[
        str | None, Kind("key of `upstreams`"), about("Upstream that serves them; required unless `serves` is set.")
    ] = None
    serves: Annotated[
        Literal["models"] | None,
        Kind("`models`"),
        about(
            "Answers itself with the models of `price` that the caller's plan may use, in the form of its reader: the "
            "exact names, or below a prefix the model named there. Not a call: free, and in no limit and no record."
        ),
    ] = None
    usage_type: Annotated[Word, about("`usage_type` of usage rows; `analysis` also writes the analysis history.")] = (
        "api_call"
    )
    feature: Annotated[Word | None, about("Feature that the plan of a caller needs.")] = None
    permission: Annotated[Word | None, about("Permission that the plan and the key of a caller need.")] = None
    max_body_bytes: Annotated[
        Size | None, about("Longest request body; null: that of the plan, if it has a limit.")
    ] = None
    charge_on: Annotated[
        frozenset[str],
        BeforeValidator(_charge_on),
        Kind("list of statuses and classes, such as `[2xx, 404]`"),
        about(
            "Statuses of responses that are charged; such as `304` and `3xx`, of which no class but `2xx` is by itself."
        ),
    ] = field(default_factory=lambda: frozenset({"2xx"}))
    charge_broken: Annotated[
        Flag, about("Whether a response that the upstream broke off is charged what it had reported.")
    ] = False
    websocket: Annotated[Flag, about("Whether a handshake may switch protocols.")] = False
    strip_prefix: Annotated[
        str,
        BeforeValidator(_stripped),
        Kind("path"),
        about("Beginning of the path that the upstream does not see, such as `/openrouter`."),
    ] = ""

    encoded_slashes: Annotated[
        Literal["refuse", "pass"],
        Kind("`refuse` or `pass`"),
        about("What becomes of `%2F` in a path; a prefix route may pass it on, as part of a segment."),
    ] = "refuse"

    def __post_init__(self) -> None:
        if self.encoded_slashes == "pass" and not self.match.path.endswith("/**"):
            raise ValueError("encoded_slashes: pass is for prefix routes, whose match.path ends in /**")
        if not self.match.path.startswith(f"{self.strip_prefix}/"):
            raise ValueError(f"strip_prefix must be segments that match.path begins with, got {self.strip_prefix!r}")
        if self.serves is not None:
            self._check_served()
        if not self.websocket:
            return
        if "GET" not in self.match.methods:
            raise ValueError("websocket needs GET among match.methods: its handshake is a GET (RFC 6455 section 4.1)")
        if not isinstance(self.price, Price) or self.price.source is not None:
            raise ValueError("websocket needs a price per: call or per: minute; its messages are never counted")

    def _check_served(self) -> None:
        if self.upstream is not None or self.websocket:
            raise ValueError("serves needs neither upstream nor websocket; the gateway answers itself")
        if self.match.methods != {"GET"}:
            raise ValueError("serves: models needs match.methods: [GET]")
        if not isinstance(self.price, PriceList):
            raise ValueError("serves: models needs a price with models, such as a key of prices")


def route_of(entry: RouteEntry) -> Route:
    """The route as policies know it."""
    return Route(
        name=entry.name,
        path=entry.match.path,
        methods=entry.match.methods,
        upstream=entry.upstream or "",
        usage_type=entry.usage_type,
        price=entry.price,
        feature=entry.feature,
        permission=entry.permission,
        max_body_bytes=entry.max_body_bytes,
        charge_on=entry.charge_on,
        websocket=entry.websocket,
        strip_prefix=entry.strip_prefix,
        charge_broken=entry.charge_broken,
        passes_encoded_slashes=entry.encoded_slashes == "pass",
        serves_models=entry.serves is not None,
    )
