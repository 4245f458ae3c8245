"""Problem documents (RFC 9457): the one renderer for the listener, the proxy and the APIs."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from gateway.http.fields import Header
from gateway.http.problem_types import PROBLEM_TYPES, ProblemType, type_uri
from policies.model import Refusal, Refused

# A client library that obeys Retry-After would sleep longer than this without a word to its caller.
MAX_PATIENCE_SECONDS = 60


class Problem(NamedTuple):
    """A complete response, for any HTTP server. `fields` have lower-case names, and are all but Content-Length."""

    status: int
    fields: tuple[Header, ...]
    body: bytes

    @property
    def headers(self) -> list[Header]:
        """All fields."""
        return [*self.fields, (b"content-length", b"%d" % len(self.body))]

    async def send(self, send: Callable[[Any], Awaitable[None]]) -> None:
        """Sends the response by ASGI."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def render(refused: Refused, request_id: str) -> Problem:
    """The response to a refused request; its extras become members or headers."""
    return problem(refused.code, refused.detail, request_id=request_id, extras=refused.extras)


def problem(code: str, detail: str, *, request_id: str, extras: Mapping[str, object] = MappingProxyType({})) -> Problem:
    """The response for a code of the table. Raises KeyError for any other code.

    `detail` is a sentence for the client. Of the extras, `retry_after` (seconds) also becomes `Retry-After`, `allow`
    (methods) and `sec_websocket_version` become headers only, `violated_policies` is spelt with a hyphen on the wire;
    the others stay as they are.
    """
    try:
        template = _cached_template(code, detail, tuple(extras.items()))
    except TypeError:  # an extra that does not hash, such as a list of errors
        template = _template(code, detail, tuple(extras.items()))
    status, fields, before_id, after_id = template
    return Problem(status, fields, b"%b%b%b" % (before_id, _quote(request_id).encode("utf-8", "replace"), after_id))


class _Template(NamedTuple):
    """A response without its request id, which stands between `before_id` and `after_id` of the body."""

    status: int
    fields: tuple[Header, ...]
    before_id: bytes
    after_id: bytes


def _template(code: str, detail: str, extras: tuple[tuple[str, object], ...]) -> _Template:
    kind = PROBLEM_TYPES[code]
    constant = json.dumps({"type": type_uri(code), "title": kind.title, "status": kind.status, "code": code})
    before_id = f'{constant[:-1]}, "detail": {_quote(detail)}, "request_id": '
    members = [
        f', "{_WIRE_NAMES.get(name, name)}": {_json(value)}' for name, value in extras if name not in _FIELD_ONLY
    ]
    after_id = "".join([", ", _error_member(code, kind.status, detail), *members, "}"])
    fields = (*_fields_of_type(code, kind), *_fields_of_extras(code, dict(extras)))
    return _Template(kind.status, fields, before_id.encode("utf-8", "replace"), after_id.encode("utf-8", "replace"))


# A client that is refused once is mostly refused again in the same words: 1 µs less for credits, 6 µs for a window.
_cached_template = lru_cache(maxsize=1024)(_template)

# The name that the draft of RateLimit fields gives the member (draft-ietf-httpapi-ratelimit-headers section 6).
_WIRE_NAMES: Mapping[str, str] = MappingProxyType({"violated_policies": "violated-policies"})
_FIELD_ONLY = frozenset({"allow", "sec_websocket_version"})


# The types of error that the APIs of OpenAI and Anthropic have in common, as far as they do.
_ERROR_TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)


def _error_member(code: str, status: int, detail: str) -> str:
    """What the client libraries of OpenAI and Anthropic show: they read no other member."""
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return f'"error": {{"message": {_quote(detail)}, "type": "{kind}", "code": "{code}"}}'


def _fields_of_type(code: str, kind: ProblemType) -> list[Header]:
    fields = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    if kind.status == 401:
        fields.append((b"www-authenticate", b"Bearer"))  # RFC 9110 section 15.5.2
    if code == Refusal.UNSUPPORTED_ENCODING:
        fields.append((b"accept-encoding", b"gzip, deflate, identity"))  # RFC 9110 section 15.5.16
    if code in (Refusal.INSUFFICIENT_CREDITS, Refusal.IDEMPOTENCY_NOT_REPLAYABLE):
        fields.append(_NO_RETRY)
    return fields


_NO_RETRY: Header = (b"x-should-retry", b"false")  # the client libraries of OpenAI and Anthropic obey it


def _fields_of_extras(code: str, extras: Mapping[str, object]) -> list[Header]:
    fields: list[Header] = []
    retry_after, allow = extras.get("retry_after"), extras.get("allow")
    if isinstance(retry_after, int | float):
        # Whole seconds (RFC 9110 section 10.2.3), rounded up: a client that comes back early is refused again.
        fields.append((b"retry-after", b"%d" % math.ceil(retry_after)))
        if code == Refusal.RATE_LIMITED and retry_after > MAX_PATIENCE_SECONDS:
            fields.append(_NO_RETRY)
    if isinstance(allow, Iterable):
        names = allow if isinstance(allow, str) else ", ".join(sorted(allow))
        fields.append((b"allow", names.encode("ascii")))
    if "sec_websocket_version" in extras:
        fields.append((b"sec-websocket-version", str(extras["sec_websocket_version"]).encode("ascii")))
    return fields


def _json(value: object) -> str:
    """Most values are numbers or text, which need no encoder: setting one up takes 4 µs."""
    if type(value) is int:
        return str(value)
    return _quote(value) if type(value) is str else _encode(value)


def _sorted_or_text(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset | set) else str(value)


_encode = json.JSONEncoder(ensure_ascii=False, default=_sorted_or_text).encode
_quote = json.encoder.encode_basestring
