"""What a browser may do with a response of the APIs: a page runs what it was written with, and nothing else.

The policy of a page is made from its source, not from what was rendered into it: a script that found its way in has no
hash there, and does not run (https://www.w3.org/TR/CSP3/#external-hash).
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

from gateway.http.fields import Header

_ELEMENT = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


# Of every response that does not say otherwise. A document that is no page has nothing to load, but must not be framed
# either.
POLICY = b"content-security-policy"
ALWAYS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
# A response may hold a new key or personal data: no cache may store it (RFC 9111 section 5.2.2.5), unless it says so.
_NOT_STORED: Header = (b"cache-control", b"no-store")
NOT_A_PAGE: Header = (POLICY, b"frame-ancestors 'none'")


def policy_of(source: str, *, fetches: bool = False) -> str:
    """The Content-Security-Policy of a page with this source. `fetches`: its script asks its own origin."""
    hashes: dict[str, list[str]] = {}
    for name, content in _ELEMENT.findall(source):
        digest = b64encode(sha256(content.encode()).digest()).decode()
        hashes.setdefault(f"{name}-src", []).append(f"'sha256-{digest}'")
    directives = [f"{name} {' '.join(values)}" for name, values in sorted(hashes.items())]
    if fetches:
        directives.append("connect-src 'self'")
    closed = ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")
    return "; ".join(("default-src 'none'", *directives, *closed))


def with_defaults(headers: list[Header]) -> list[Header]:
    """The headers of a response with those that each response has."""
    names = {name for name, _ in headers}
    return [*headers, *(each for each in (*ALWAYS, _NOT_STORED, NOT_A_PAGE) if each[0] not in names)]
