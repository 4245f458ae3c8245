"""Which fields of a client go on to the upstream: not the gateway's own, not those of one hop, not those that upstreams
take for the word of a proxy.
"""

from __future__ import annotations

from enum import Enum

from gateway.http.fields import HOP_BY_HOP, PROXY_AUTHENTICATION

_NOT_FORWARDED = (
    HOP_BY_HOP
    | PROXY_AUTHENTICATION
    | frozenset(
        (
            b"x-api-key",
            b"content-length",
            b"expect",
            b"host",
            b"x-request-id",
            b"forwarded",
            b"traceparent",
            b"tracestate",
            b"via",
            b"gateway-credits",  # what upstreams report, and some of them reflect
            b"gateway-tokens",
            b"gateway-cost-usd",
            b"proxy",  # a CGI upstream would take it for its own HTTP_PROXY
        )
    )
)
_RESERVED_PREFIXES = (b"x-gateway-", b"x-forwarded-")
# Frameworks and web servers believe these: who the client is, where it is, and what it really asks for. Behind a
# gateway they are the word of the client, past its routes, prices and addresses.
_PROXY_CLAIMS = frozenset(
    (
        b"cf-connecting-ip",
        b"cf-connecting-ipv6",
        b"cf-pseudo-ipv4",
        b"client-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"remote-addr",
        b"remote-groups",
        b"remote-user",
        b"true-client-ip",
        b"x-appengine-user-ip",
        b"x-azure-clientip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-envoy-external-address",
        b"x-envoy-original-path",
        b"x-forwarded",
        b"x-host",
        b"x-http-host-override",
        b"x-http-method",
        b"x-http-method-override",
        b"x-http-path-override",
        b"x-method-override",
        b"x-original-forwarded-for",
        b"x-original-host",
        b"x-original-method",
        b"x-original-uri",
        b"x-original-url",
        b"x-originating-ip",
        b"x-proxyuser-ip",
        b"x-real-ip",
        b"x-remote-addr",
        b"x-remote-ip",
        b"x-remote-user",
        b"x-rewrite-url",
        b"x-scheme",
        b"x-url-scheme",
    )
)
_OWN_COOKIE = b"gateway_portal_"
MAX_HOPS = 1000  # what is more counts as this: no chain of intermediaries is as long
_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-"


class Passage(Enum):
    """What becomes of a field. A withheld one goes on only to an upstream that allows it by name.

    Of a rewritten one goes on what `rewritten` gives.
    """

    FORWARDED = "forwarded"
    REWRITTEN = "rewritten"
    WITHHELD = "withheld"
    DROPPED = "dropped"


def is_plain(name: bytes) -> bool:
    """Whether a lower-case name has letters, digits and dashes only: CGI maps every other character to `_`."""
    return not name.translate(None, _PLAIN)


def passage_of(name: bytes) -> Passage:
    """The passage of a field by its lower-case name."""
    if name in _NOT_FORWARDED or name.startswith(_RESERVED_PREFIXES) or not is_plain(name):
        return Passage.DROPPED
    if name in _PROXY_CLAIMS:
        return Passage.WITHHELD
    return Passage.REWRITTEN if name in (b"cookie", b"max-forwards") else Passage.FORWARDED


def rewritten(name: bytes, value: bytes, method: str) -> bytes:
    """What goes on of a field that is rewritten; empty where nothing does.

    Cookies go on without those of the portal, which shares the origin with the proxied API: its sessions are no
    business of an upstream. Max-Forwards is counted down where it counts.
    """
    if name == b"cookie":
        return _without_own_cookies(value)
    left = hops_left(method, value)
    return value if left is None else b"%d" % max(0, left - 1)


def hops_left(method: str, value: bytes) -> int | None:
    """How many more intermediaries may forward a request with this Max-Forwards (RFC 9110 section 7.6.2).

    None where nothing limits them. TRACE, which has such a limit too, is never forwarded.
    """
    if method != "OPTIONS" or not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 4 else MAX_HOPS


def _without_own_cookies(value: bytes) -> bytes:
    if _OWN_COOKIE not in value:
        return value
    kept = [each for each in value.split(b";") if not each.strip().removeprefix(b"__Host-").startswith(_OWN_COOKIE)]
    return b";".join(kept).strip()
