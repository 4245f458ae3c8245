"""A request of a client, as the gateway reads it and as it is forwarded."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.fields import header_block
from gateway.proxy.request.inbound import Inbound, read_request, tracing_block
from gateway.request_ids import uuid7
from gateway.upstream.request_head import Request, render_head
from policies.model import Refusal, Refused

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def scope(*headers: tuple[bytes, bytes], peer: str | None = "192.0.2.1", **given: Any) -> dict[str, Any]:
    return {
        "method": "GET",
        "raw_path": b"/v1/x",
        "http_version": "1.1",
        "query_string": b"",
        "scheme": "http",
        "headers": list(headers),
        "client": None if peer is None else (peer, 4711),
        **given,
    }


def from_proxy(*headers: tuple[bytes, bytes], peer: str = "10.0.0.1") -> Inbound:
    return read_request(scope(*headers, peer=peer), PROXIES)


def gateway_fields(inbound: Inbound) -> bytes:
    """All fields that the gateway adds to a request."""
    return inbound.forwarded_headers + tracing_block(inbound, uuid7())


def lines(block: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b": ", 1) for line in block.splitlines())


class TestClientAddress:
    def test_is_the_peer(self) -> None:
        assert read_request(scope()).client_ip == "192.0.2.1"

    def test_is_the_peer_whatever_it_claims_unless_it_is_a_trusted_proxy(self) -> None:
        claims = scope((b"x-forwarded-for", b"203.0.113.9"))
        assert read_request(claims).client_ip == "192.0.2.1"
        assert read_request(claims, PROXIES).client_ip == "192.0.2.1"

    @pytest.mark.parametrize(
        ("forwarded", "client"),
        [
            (b"203.0.113.9", "203.0.113.9"),
            (b"1.1.1.1, 203.0.113.9", "203.0.113.9"),
            (b"1.1.1.1, 203.0.113.9, 10.2.3.4", "203.0.113.9"),
            (b"evil, 203.0.113.9,10.2.3.4 , 10.9.9.9", "203.0.113.9"),
            (b"2001:db8::5, 2a00::1", "2a00::1"),
            (b"10.1.1.1, 10.2.2.2", "10.0.0.1"),
            (b"203.0.113.9, garbage", "10.0.0.1"),
            (b"203.0.113.9, ", "10.0.0.1"),
            (b"", "10.0.0.1"),
        ],
    )
    def test_is_the_last_one_that_no_trusted_proxy_vouches_beyond(self, forwarded: bytes, client: str) -> None:
        assert from_proxy((b"x-forwarded-for", forwarded)).client_ip == client

    def test_repeated_fields_are_one_list(self) -> None:
        inbound = from_proxy((b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-for", b"10.5.5.5"))
        assert inbound.client_ip == "203.0.113.9"

    def test_of_a_listener_for_both_families_is_written_as_everyone_writes_it(self) -> None:
        assert read_request(scope(peer="::ffff:192.0.2.1")).client_ip == "192.0.2.1"
        assert read_request(scope((b"x-forwarded-for", b"203.0.113.9"), peer="::ffff:10.0.0.1"), PROXIES).client_ip == (
            "203.0.113.9"
        )

    def test_may_be_missing(self) -> None:
        assert read_request(scope(peer=None), PROXIES).client_ip == ""


class TestWhatIsSaidOfTheWay:
    def test_of_a_trusted_proxy_it_goes_on(self) -> None:
        inbound = from_proxy(
            (b"x-forwarded-for", b"203.0.113.9, 10.5.5.5"),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", b"api.example.com"),
            (b"host", b"inner"),
            (b"via", b"2 edge"),
        )
        added = lines(gateway_fields(inbound))
        assert added[b"x-forwarded-for"] == b"203.0.113.9, 10.5.5.5, 10.0.0.1"
        assert added[b"x-forwarded-proto"] == b"https"
        assert added[b"x-forwarded-host"] == b"api.example.com"
        assert added[b"via"] == b"2 edge, 1.1 gateway"

    @pytest.mark.parametrize(
        ("parent", "continues"),
        [
            (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", True),
            (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00", True),
            (b"00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01", False),
            (b"00-" + b"a" * 32 + b"-" + b"0" * 16 + b"-01", False),
            (b"00-" + b"G" * 32 + b"-" + b"b" * 16 + b"-01", False),
            (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01-x", False),
            (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-", False),
            (b"ff-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", False),
            (b"00-" + b"a" * 31 + b"-" + b"b" * 16 + b"-01", False),
            (b"nonsense", False),
            (b"", False),
        ],
    )
    def test_trace_of_a_trusted_proxy_continues_under_the_gateways_parent_id(
        self, parent: bytes, continues: bool
    ) -> None:
        inbound = from_proxy((b"traceparent", parent), (b"tracestate", b"x=y"))
        added = lines(gateway_fields(inbound))
        version, trace, span, flags = added[b"traceparent"].split(b"-")
        assert (version, len(trace), len(span), len(flags)) == (b"00", 32, 16, 2)
        assert (trace == b"a" * 32) is continues
        assert span != b"b" * 16
        assert added.get(b"tracestate") == (b"x=y" if continues else None)

    def test_trace_of_an_untrusted_client_is_replaced(self) -> None:
        inbound = read_request(scope((b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")), PROXIES)
        assert b"a" * 32 not in gateway_fields(inbound)


class TestKey:
    @pytest.mark.parametrize(
        "headers",
        [
            [(b"authorization", b"Bearer K")],
            [(b"authorization", b"bEARER  K ")],
            [(b"x-api-key", b"K")],
            [(b"x-api-key", b"K"), (b"authorization", b"Bearer K")],
            [(b"x-api-key", b"K"), (b"authorization", b"Basic x")],
        ],
    )
    def test_is_found(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert read_request(scope(*headers)).api_key() == b"K"

    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ([], Refusal.MISSING_KEY),
            ([(b"authorization", b"Basic x")], Refusal.MISSING_KEY),
            ([(b"authorization", b"Bearer ")], Refusal.MISSING_KEY),
            ([(b"x-api-key", b"K"), (b"authorization", b"Bearer L")], Refusal.BAD_REQUEST),
        ],
    )
    def test_is_missing_or_contradictory(self, headers: list[tuple[bytes, bytes]], code: Refusal) -> None:
        with pytest.raises(Refused) as caught:
            read_request(scope(*headers)).api_key()
        assert caught.value.code is code

    def test_of_two_that_were_sent_alike_neither_counts(self) -> None:
        with pytest.raises(Refused) as caught:
            read_request(scope((b"x-api-key", b"K"), (b"x-api-key", b"L"))).api_key()
        assert caught.value.code is Refusal.BAD_REQUEST


_TOKEN = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_SPECIAL = [
    b"x-gateway-user",
    b"x_gateway_user",
    b"x-gateway_key",
    b"x-forwarded-for",
    b"x_forwarded_proto",
    b"x-api-key",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"host",
    b"te",
    b"upgrade",
    b"keep-alive",
    b"trailer",
    b"expect",
    b"via",
    b"x-request-id",
]
_names = st.one_of(st.sampled_from(_SPECIAL), st.lists(st.sampled_from(_TOKEN), min_size=1, max_size=10).map(bytes))
_values = st.lists(st.sampled_from(bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))), max_size=20).map(bytes)


@given(st.lists(st.tuples(_names, _values), max_size=10), st.lists(_names, max_size=3))
def test_forwarded_request_is_exactly_one_whatever_a_client_sends(
    headers: list[tuple[bytes, bytes]], named: list[bytes]
) -> None:
    """Forwarded fields are a block of whole fields, none reserved, framing, hop-by-hop or named in Connection."""
    inbound = read_request(scope(*headers, (b"connection", b", ".join(named))))
    forwarded = [line.partition(b":")[0] for line in inbound.end_to_end.split(b"\r\n")[:-1]]
    kept = set(forwarded)
    assert not kept & {b"x-api-key", b"content-length", b"transfer-encoding", b"connection", b"te", b"upgrade", b"host"}
    assert not kept & set(named)
    assert not [name for name in kept if name.replace(b"_", b"-").startswith((b"x-gateway-", b"x-forwarded-"))]
    others = [name for name, _ in headers if name not in _SPECIAL and name not in named]
    others = [name for name in others if not re.search(rb"[^a-z0-9-]", name)]
    assert [name for name in forwarded if name not in _SPECIAL] == others
    render_head(Request(b"GET", b"/", inbound.end_to_end), b"upstream")


@given(st.lists(st.tuples(_names, _values), max_size=10))
def test_forwarded_headers_are_whole_fields(headers: list[tuple[bytes, bytes]]) -> None:
    unframed = [(name, value) for name, value in headers if name not in (b"content-length", b"transfer-encoding")]
    for trusted in ((), (ip_network("192.0.2.0/24"),)):
        inbound = read_request(scope(*unframed), trusted)
        render_head(Request(b"GET", b"/", header_block(inbound.end_to_end + gateway_fields(inbound))), b"upstream")


@pytest.mark.parametrize("sent", [b"x" * 129, b"a b", b"", b"\xff", b"a\tb"])
def test_request_id_that_is_not_echoable_is_ignored(sent: bytes) -> None:
    assert read_request(scope((b"x-request-id", sent))).client_request_id is None


def test_recorded_text_is_shortened() -> None:
    inbound = read_request(scope((b"x-category", "ü".encode() * 500), (b"x-batch-id", b"\xff")))
    assert inbound.text(b"x-category") == "ü" * 200
    assert inbound.text(b"x-batch-id") == "�"
    assert inbound.text(b"x-language-code") is None
