"""The one status table: every code this gateway answers with, its status and title, and how it looks on the wire.

Rendered as RFC 9457 problem documents. `type` is the relative reference `/problems/<code>`: the same on every
deployment, and resolved (RFC 3986 section 5) against the gateway itself, not against a host that we would have to keep.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from policies.model import Refusal, Refused

Header = tuple[bytes, bytes]


class Problem(NamedTuple):
    """A complete answer, for any HTTP server. `fields` have lower-case names, and are all but Content-Length."""

    status: int
    fields: tuple[Header, ...]
    body: bytes

    @property
    def headers(self) -> list[Header]:
        """All fields."""
        return [*self.fields, (b"content-length", b"%d" % len(self.body))]


def render(refused: Refused, request_id: str) -> Problem:
    """The answer to a refused request; its extras become members or headers."""
    return problem(refused.code, refused.detail, request_id=request_id, extras=refused.extras)


def problem(code: str, detail: str, *, request_id: str, extras: Mapping[str, object] = MappingProxyType({})) -> Problem:
    """The answer for any code of the table. Raises KeyError for a code that is not in it.

    `detail` is a sentence for the client. Of the extras, `retry_after` (seconds) also becomes `Retry-After`, `allow`
    (methods) and `sec_websocket_version` become headers only, `violated_policies` is spelt with a hyphen on the wire;
    the others stay as they are.
    """
    try:
        status, fields, opening, closing = _told_before(code, detail, tuple(extras.items()))
    except TypeError:  # an extra that does not hash, such as a list of errors
        status, fields, opening, closing = _told(code, detail, tuple(extras.items()))
    return Problem(status, fields, b"%b%b%b" % (opening, _quote(request_id).encode("utf-8", "replace"), closing))


# fmt: off
_TABLE: Mapping[str, tuple[int, str]] = MappingProxyType({
    # The proxied request, in the order of its checks.
    Refusal.BAD_REQUEST:            (400, "Bad request"),
    Refusal.ROUTE_NOT_FOUND:        (404, "Route not found"),
    Refusal.METHOD_NOT_ALLOWED:     (405, "Method not allowed"),
    Refusal.MISSING_KEY:            (401, "API key missing"),
    Refusal.INVALID_KEY:            (401, "API key invalid"),
    Refusal.KEY_REVOKED:            (401, "API key revoked"),
    Refusal.KEY_EXPIRED:            (401, "API key expired"),
    Refusal.KEY_DISABLED:           (403, "API key disabled"),
    Refusal.IP_NOT_ALLOWED:         (403, "Address not allowed"),
    Refusal.ACCOUNT_SUSPENDED:      (403, "Account suspended"),
    Refusal.SUBSCRIPTION_INACTIVE:  (402, "Subscription inactive"),
    Refusal.PERMISSION_DENIED:      (403, "Permission denied"),
    Refusal.FEATURE_NOT_IN_PLAN:    (403, "Feature not in plan"),
    Refusal.PAYLOAD_TOO_LARGE:      (413, "Payload too large"),
    Refusal.INVALID_BODY:           (400, "Invalid body"),
    Refusal.BATCH_TOO_LARGE:        (422, "Batch too large"),
    Refusal.IDEMPOTENCY_IN_PROGRESS:    (409, "Request still in progress"),
    Refusal.IDEMPOTENCY_KEY_REUSED:     (422, "Idempotency key reused"),
    Refusal.IDEMPOTENCY_NOT_REPLAYABLE: (409, "Response not stored"),
    Refusal.RATE_LIMITED:           (429, "Rate limit exceeded"),
    Refusal.TOO_MANY_IN_FLIGHT:     (429, "Too many requests in flight"),
    Refusal.INSUFFICIENT_CREDITS:   (402, "Insufficient credits"),
    Refusal.UPSTREAM_UNREACHABLE:   (502, "Upstream unreachable"),
    Refusal.UPSTREAM_INVALID:       (502, "Upstream answered wrongly"),
    Refusal.UPSTREAM_TIMEOUT:       (504, "Upstream timed out"),
    Refusal.UPSTREAM_OVERLOADED:    (503, "Upstream overloaded"),
    Refusal.METERING_UNAVAILABLE:   (503, "Metering unavailable"),
    Refusal.ACCOUNTS_UNAVAILABLE:   (503, "Accounts unavailable"),
    # The listener, before there is a request.
    "request_timeout":              (408, "Request timed out"),
    "uri_too_long":                 (414, "URI too long"),
    "expectation_failed":           (417, "Expectation failed"),
    "headers_too_large":            (431, "Headers too large"),
    "not_implemented":              (501, "Not implemented"),
    "too_many_connections":         (503, "Too many connections"),
    "version_not_supported":        (505, "HTTP version not supported"),
    # The control plane.
    "unauthorized":                 (401, "Not authenticated"),
    "forbidden":                    (403, "Forbidden"),
    "insufficient_scope":           (403, "Insufficient scope"),
    "not_found":                    (404, "Not found"),
    "conflict":                     (409, "Conflict"),
    "validation_failed":            (422, "Validation failed"),
    "overloaded":                   (503, "Overloaded"),
    "payments_not_configured":      (501, "Payments not configured"),
    "payment_refused":              (409, "Payment provider refused"),
    "payment_unavailable":          (503, "Payment provider unavailable"),
    "invalid_webhook":              (400, "Invalid webhook"),
    # Anything else is a bug of ours.
    "internal_error":               (500, "Internal error"),
})
# fmt: on

STATUS: Mapping[str, int] = MappingProxyType({str(code): status for code, (status, _) in _TABLE.items()})

# The name that the draft of RateLimit fields gives the member (draft-ietf-httpapi-ratelimit-headers section 6).
_WIRE_NAMES: Mapping[str, str] = MappingProxyType({"violated_policies": "violated-policies"})


_HEADERS_ONLY = frozenset({"allow", "sec_websocket_version"})


@dataclass(frozen=True, slots=True)
class _Shape:
    """What all problems of one code share: `opening` is the body up to its first varying member."""

    status: int
    opening: bytes
    headers: tuple[Header, ...]


def _shape(code: str, status: int, title: str) -> _Shape:
    constant = {"type": f"/problems/{code}", "title": title, "status": status, "code": code}
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110 section 15.5.2
    if code in (Refusal.INSUFFICIENT_CREDITS, Refusal.IDEMPOTENCY_NOT_REPLAYABLE):
        headers.append((b"x-should-retry", b"false"))  # client libraries of OpenAI's make obey it
    return _Shape(status, json.dumps(constant)[:-1].encode() + b", ", tuple(headers))


_SHAPES: Mapping[str, _Shape] = MappingProxyType(
    {str(code): _shape(code, status, title) for code, (status, title) in _TABLE.items()}
)


class _Told(NamedTuple):
    """All that answers to the same refusal share: the body's `opening` and `closing` go around the request id."""

    status: int
    fields: tuple[Header, ...]
    opening: bytes
    closing: bytes


def _told(code: str, detail: str, extras: tuple[tuple[str, object], ...]) -> _Told:
    shape = _SHAPES[code]
    members = [
        f', "{_WIRE_NAMES.get(name, name)}": {_member(value)}' for name, value in extras if name not in _HEADERS_ONLY
    ]
    opening = b'%b"detail": %b, "request_id": ' % (shape.opening, _quote(detail).encode("utf-8", "replace"))
    closing = "".join([*members, "}"]).encode("utf-8", "replace")
    return _Told(shape.status, (*shape.headers, *_headers_of(dict(extras))), opening, closing)


# Who is refused once is mostly refused again, with the same words: 1 µs less for lack of credits, 6 for a window.
_told_before = lru_cache(maxsize=1024)(_told)


def _headers_of(extras: Mapping[str, object]) -> list[Header]:
    headers: list[Header] = []
    retry_after, allow = extras.get("retry_after"), extras.get("allow")
    if isinstance(retry_after, int | float):
        # Whole seconds (RFC 9110 section 10.2.3), rounded up: a client that comes back early is refused again.
        headers.append((b"retry-after", b"%d" % math.ceil(retry_after)))
    if isinstance(allow, Iterable):
        names = allow if isinstance(allow, str) else ", ".join(sorted(allow))
        headers.append((b"allow", names.encode("ascii")))
    if "sec_websocket_version" in extras:
        headers.append((b"sec-websocket-version", str(extras["sec_websocket_version"]).encode("ascii")))
    return headers


def _member(value: object) -> str:
    """As JSON. Most are numbers or text, which need no encoder: setting one up takes 4 µs."""
    if type(value) is int:
        return str(value)
    return _quote(value) if type(value) is str else _encode(value)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset | set) else str(value)


_encode = json.JSONEncoder(ensure_ascii=False, default=_plain).encode
_quote = json.encoder.encode_basestring
