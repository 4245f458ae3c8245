"""CORS: which pages of other origins may read responses, and the answers to the preflights of browsers.

https://fetch.spec.whatwg.org/#http-cors-protocol. A page sends its key or token itself, so a browser need not add
cookies: `Access-Control-Allow-Credentials` is never sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.http.fields import TOKEN, Header, HeaderBlock, header_block

# What a page cannot read without being told (https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name).
_EXPOSED = (
    *("RateLimit", "RateLimit-Policy", "Retry-After", "X-Credits-Remaining", "X-Credits-Charged", "X-Request-Id"),
    *("Idempotency-Replayed", "X-Should-Retry", "Gateway-Mode", "WWW-Authenticate"),
    *("Content-Disposition", "ETag", "Link", "Location"),
)
_MAX_AGE_SECONDS = 7200  # the most that Chromium keeps a preflight
_ORIGIN, _ASKED_METHOD, _ASKED_NAMES = b"origin", b"access-control-request-method", b"access-control-request-headers"
_is_names = re.compile(rb"%b(?:[ \t]*+,[ \t]*+%b)*+" % (TOKEN, TOKEN)).fullmatch

# Another origin's response must not be taken from a cache, nor that to no origin at all.
_ANY_ORIGIN = header_block(b"vary: origin\r\n")


class CorsPolicy:
    """Lets the pages of `origins` in, which are spelt as browsers spell them."""

    def __init__(self, origins: Iterable[str]) -> None:
        exposed = ", ".join(_EXPOSED)
        self._fields: Mapping[bytes, HeaderBlock] = {
            origin.encode(): header_block(
                f"access-control-allow-origin: {origin}\r\naccess-control-expose-headers: {exposed}\r\n".encode()
                + _ANY_ORIGIN
            )
            for origin in origins
        }

    def response_fields(self, headers: Sequence[Header]) -> HeaderBlock:
        """The fields that any response to a request with these headers carries."""
        return self._fields.get(_only(headers, _ORIGIN), _ANY_ORIGIN)

    def preflight_fields(self, headers: Sequence[Header], methods: str) -> HeaderBlock:
        """The further fields of the response to a preflight; none where its origin is not let in."""
        if _only(headers, _ORIGIN) not in self._fields:
            return HeaderBlock(b"")
        lines = f"access-control-allow-methods: {methods}\r\naccess-control-max-age: {_MAX_AGE_SECONDS}\r\n".encode()
        names = b", ".join(value for name, value in headers if name == _ASKED_NAMES)
        if _is_names(names):  # the gateway knows no list: which fields matter is the upstream's to say
            lines += b"access-control-allow-headers: %b\r\n" % names
        return header_block(lines)


def is_preflight(scope: Any) -> bool:
    """https://fetch.spec.whatwg.org/#cors-preflight-request; any other OPTIONS is a call like others."""
    if scope["method"] != "OPTIONS":
        return False
    names = {name for name, _ in scope["headers"]}
    return _ORIGIN in names and _ASKED_METHOD in names


def _only(headers: Sequence[Header], name: bytes) -> bytes:
    """The value of a field; empty where it is absent or given twice."""
    values = [value for known, value in headers if known == name]
    return values[0] if len(values) == 1 else b""
