"""A request is read the same whatever requests came before it on its connection."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.listener import request_head
from gateway.listener.request_head import RequestHead
from gateway.proxy.admission.admitted_call import build_admission_request
from gateway.proxy.request.inbound import Inbound, read_request, tracing_block
from gateway.proxy.router import RouteMatch
from gateway.request_ids import uuid7
from policies.model import Refused, Route
from policies.pricing.price import Price

KEY = b"gw_live_" + b"A" * 43
TRACES = [b"00-%032x-%016x-01" % (number, number) for number in range(3)]
VALUES = {
    b"X-Request-Id": (b"one", b"two", b"not echoable \xff", KEY, b""),
    b"X-Forwarded-For": (b"203.0.113.9", b"203.0.113.9, 10.0.0.7", b"unknown", b"[2001:db8::1]:80", KEY),
    b"traceparent": (*TRACES, b"none"),
    b"tracestate": (b"a=1", b"b=2", b""),
    b"Content-Length": (b"0", b"7", b"70000"),
    b"Authorization": (b"Bearer " + KEY, b"Bearer " + KEY.replace(b"A", b"B"), b"Bearer other", b"Basic YTpi"),
    b"X-API-Key": (KEY.replace(b"A", b"B"), b"another", b""),
    b"X-Category": (b"a", b"b"),
    b"Connection": (b"keep-alive", b"x-request-id, x-category", b"authorization"),
}
ROUTE = Route("call", "/a", frozenset({"POST"}), "static", "call", Price(credits=1))  # type: ignore[arg-type]
MATCH = RouteMatch.of(ROUTE, "POST", "/a")
OWN_ID = uuid7()


@st.composite
def chains(draw: st.DrawFn) -> list[bytes]:
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True))
    chain = []
    for _ in range(draw(st.integers(2, 5))):
        fields = [b"%b: %b" % (name, draw(st.sampled_from(VALUES[name]))) for name in names]
        chain.append(b"\r\n".join((b"POST /a HTTP/1.1", b"Host: a", *fields)) + b"\r\n\r\n")
    return chain


def scope_of(head: RequestHead, peer: str) -> dict[str, Any]:
    return {
        "method": head.method,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "http_version": "1.1",
        "scheme": "http",
        "headers": head.headers,
        "client": (peer, 1),
    }


def what_it_says(inbound: Inbound) -> object:
    request = build_admission_request(OWN_ID, inbound, MATCH, key=b"", body=None, key_digest=None)
    said = request.label_columns, tracing_block(inbound, OWN_ID), key_of(inbound)
    return inbound._replace(cache=None, varying_fields={}, key_fields={}), *said  # type: ignore[arg-type]


def key_of(inbound: Inbound) -> bytes | str:
    """The key, which a connection keeps, or why there is none."""
    try:
        return inbound.cache.key or inbound.api_key()
    except Refused as refused:
        return refused.code


@settings(max_examples=300)
@given(chains(), st.sampled_from(("192.0.2.1", "10.0.0.1")))
def test_a_request_is_read_as_if_no_other_came_before_it(chain: list[bytes], peer: str) -> None:
    proxies = (ip_network("10.0.0.0/8"),)
    last: RequestHead | None = None
    for written in chain:
        last = request_head.parse(written, last)
        scope = scope_of(last, peer)
        found = read_request(scope, proxies, last)  # type: ignore[arg-type] # which has what an exchange has
        assert what_it_says(found) == what_it_says(read_request(scope, proxies))


def test_what_was_derived_from_the_fields_stays_while_others_vary() -> None:
    last, caches = None, []
    for number in range(3):
        fields = b"Host: a\r\nX-Request-Id: %d\r\nContent-Length: %d" % (number, number)
        last = request_head.parse(b"POST /a HTTP/1.1\r\n" + fields + b"\r\n\r\n", last)
        found = read_request(scope_of(last, "192.0.2.1"), (), last)  # type: ignore[arg-type] # as above
        assert (found.client_request_id, found.content_length) == (str(number), number)
        caches.append(found.cache)
    assert caches[0] is caches[1] is caches[2]


def test_a_key_that_varies_leaves_nothing_of_the_one_before_it() -> None:
    last, found = None, []
    for letter in (b"A", b"B", b"A"):
        fields = b"Host: a\r\nAuthorization: Bearer %b\r\nX-Category: c" % KEY.replace(b"A", letter)
        last = request_head.parse(b"POST /a HTTP/1.1\r\n" + fields + b"\r\n\r\n", last)
        inbound = read_request(scope_of(last, "192.0.2.1"), (), last)  # type: ignore[arg-type] # as above
        inbound.cache.key_digest = inbound.cache.key_digest or inbound.api_key()
        found.append(inbound)
    assert [each.cache.key_digest for each in found] == [KEY, KEY.replace(b"A", b"B"), KEY]
    assert found[0].fields is found[1].fields is found[2].fields
