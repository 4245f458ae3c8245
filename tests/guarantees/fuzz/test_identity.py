"""No upstream sees an identity that is not the gateway's, whatever a client names its fields and whoever reads them.

The fields are read by h11, by httptools and as a CGI environment, where servers turn each character of a name that is
no letter or digit into `_` (lighttpd), so that many names become one.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.fields import header_block
from gateway.listener import request_head
from gateway.listener.error_response import RequestError
from gateway.proxy.forward.forwarding import Destination, render_request_fields
from gateway.proxy.request.inbound import read_request
from gateway.upstream.balancer import Upstream
from gateway.upstream.request_head import Request, render_head
from tests.guarantees.fuzz.parsers import ByH11, ByHttptools, Notes
from tests.guarantees.fuzz.requests import Field
from tests.support.sampling import IS_FULL, scaled

# `make fuzz EXAMPLES=50000` for the longest run.
EXAMPLES = int(os.environ.get("GATEWAY_TEST_EXAMPLES") or scaled(suite=300, full=10_000)) if IS_FULL else 300
REQUEST_ID = str(UUID(int=7))
OURS = {b"x-gateway-user": b"user", b"x-gateway-key": b"key", b"x-gateway-plan": b"pro", b"x-gateway-features": b"f=1"}
IDENTITY = header_block(b"".join(b"%b: %b\r\n" % each for each in OURS.items()))
PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PEERS = ("192.0.2.1", "::ffff:192.0.2.1", "10.0.0.1", "fd00::1", "fe80::1%eth0", "2001:db8::1")
# Taken for who asks, from where, or for what.
CLAIMS = (
    b"x-gateway-user x-gateway-key x-gateway-plan x-gateway-features x-gateway-other x-forwarded-for x-forwarded-user"
    b" x-forwarded-prefix forwarded x-real-ip x-client-ip true-client-ip cf-connecting-ip x-original-url x-rewrite-url"
    b" x-http-method-override x-method-override x-http-method remote-user x-remote-user remote-addr proxy client-ip"
).split()
_SPECIAL = b"!#$%&'*+-.^_`|~"
_CGI_LIKE = re.compile(rb"[^A-Z0-9]")


@st.composite
def spellings(draw: st.DrawFn) -> bytes:
    """A claim in any case, with any other token characters for its dashes, and now and then something around it."""
    plain = draw(st.sampled_from(CLAIMS))
    marks = st.sampled_from([bytes([each]) for each in _SPECIAL])
    spelt = b"".join(draw(marks) if each == 0x2D and draw(st.booleans()) else bytes([each]) for each in plain)
    spelt = draw(st.sampled_from((spelt, spelt.upper(), spelt.title(), spelt.swapcase())))
    return draw(st.sampled_from((b"", b"", b"", b" ", b"\t", b"HTTP_", b"HTTP-"))) + spelt + draw(_AFTER)


_AFTER = st.sampled_from((b"", b"", b"", b"", b" ", b"\t", b"\x00", b"-", b"_", b"\xa0"))
_NAMES = st.one_of(spellings(), st.binary(min_size=1, max_size=12), st.sampled_from((b"Connection", b"Cookie", b"TE")))
_ADDRESSES = st.sampled_from(
    (b"203.0.113.9", b"203.0.113.9:80", b"[2001:db8::5]:443", b"unknown", b"fe80::1%x\ty", b"_hidden", b"10.0.0.2", b"")
)
_VALUES = st.one_of(
    st.just(b"evil"),
    st.binary(max_size=12),
    st.lists(_ADDRESSES, max_size=4).map(b", ".join),
    st.lists(_ADDRESSES, max_size=3).map(lambda hops: b",".join(b'for="%b";proto=https' % hop for hop in hops)),
    spellings().map(lambda name: b"x\r\n%b: evil" % name),
    spellings().map(lambda name: b"x\n%b: evil" % name),
    st.sampled_from((b"X-Gateway-User", b"close, x-gateway-user", b"keep-alive, x-forwarded-for, host")),
)


def destinations() -> list[Destination]:
    upstream = Upstream("main", targets=["http://127.0.0.1:9"])
    set_here = header_block(b"remote-user: ours\r\n")
    return [
        Destination(upstream),
        Destination(upstream, passed_names=frozenset((b"x-original-url", b"x-real-ip"))),
        Destination(upstream, set_here, (b"remote-user",)),
    ]


@settings(max_examples=EXAMPLES, deadline=None)
@given(fields=st.lists(st.tuples(_NAMES, _VALUES), max_size=8), peer=st.sampled_from(PEERS))
def test_upstreams_see_no_identity_but_the_gateways(fields: list[Field], peer: str) -> None:
    lines = b"".join(b"%b: %b\r\n" % each for each in fields)
    try:
        head = request_head.parse(b"GET /v1/plain HTTP/1.1\r\nHost: gateway.test\r\n" + lines + b"\r\n")
    except RequestError:
        return
    inbound = read_request(_scope(head, peer), PROXIES)
    assert not set(inbound.client_ip) - set("0123456789abcdef:."), inbound.client_ip

    for destination in destinations():
        block = render_request_fields(destination, inbound, IDENTITY, REQUEST_ID)
        wire = render_head(Request(b"GET", b"/v1/plain", block), b"upstream.test")
        by_h11, by_httptools = _fields_by(ByH11, wire), _fields_by(ByHttptools, wire)
        assert by_h11 == by_httptools
        _assert_ours(by_h11, destination)


def _assert_ours(fields: list[Field], destination: Destination) -> None:
    plain = [(name.replace(b"_", b"-"), value) for name, value in fields]
    assert sorted(each for each in plain if each[0].startswith(b"x-gateway-")) == sorted(OURS.items())
    environment: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        environment.setdefault(b"HTTP_" + _CGI_LIKE.sub(b"_", name.upper()), []).append(value)
    for name, value in OURS.items():
        assert environment[b"HTTP_" + name.upper().replace(b"-", b"_")] == [value]
    set_here = {b"x-forwarded-for", *destination.passed_names, *destination.header_names}
    for claim in set(CLAIMS) - set(OURS) - set_here:
        assert b"HTTP_" + claim.upper().replace(b"-", b"_") not in environment
    assert len(environment[b"HTTP_X_FORWARDED_FOR"]) == 1
    if b"remote-user" in destination.header_names:
        assert environment[b"HTTP_REMOTE_USER"] == [b"ours"]


def _scope(head: request_head.RequestHead, peer: str) -> dict[str, Any]:
    return {
        "method": head.method,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "http_version": "1.1",
        "scheme": "http",
        "headers": head.headers,
        "client": (peer, 4711),
    }


def _fields_by(parser: type[ByH11 | ByHttptools], wire: bytes) -> list[Field]:
    notes = Notes()
    reader = parser(notes)
    reader._transport = _Sink()  # type: ignore[assignment] # the answer goes nowhere
    reader.data_received(wire)
    (read,) = notes.take()
    return read.fields


class _Sink:
    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...
