"""Forgery: a field that only the gateway may set never reaches an upstream from a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest

from gateway.proxy.request.inbound import read_request, tracing_block
from gateway.request_ids import uuid7
from tests.listener.listening import Listener, connected, listening, respond, whole_body
from tests.proxy.requests import post, request

EVIL = b"evil"
RESERVED = (
    b"X-Gateway-User",
    b"X-Gateway-Key",
    b"X-Gateway-Plan",
    b"X-Gateway-Features",
    b"X-Gateway-Anything",
    b"X-Forwarded-For",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"X-Forwarded-Prefix",
    b"X-Real-IP",
    b"Forwarded",
    b"Traceparent",
    # What frameworks and web servers take for the word of a proxy.
    b"CF-Connecting-IP",
    b"Client-IP",
    b"Remote-Addr",
    b"Remote-User",
    b"True-Client-IP",
    b"X-Client-IP",
    b"X-HTTP-Method",
    b"X-HTTP-Method-Override",
    b"X-Method-Override",
    b"X-Original-URL",
    b"X-Remote-User",
    b"X-Rewrite-URL",
)


class Upstream:
    """Records the header block of each request, as it would go to the upstream."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        inbound = read_request(scope, client=scope["extensions"]["gateway.client"])
        self.blocks.append(inbound.end_to_end + inbound.forwarded_headers + tracing_block(inbound, uuid7()))
        await respond(send, 200, b"ok")


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
async def listener(upstream: Upstream) -> AsyncIterator[Listener]:
    async with listening(upstream) as running:
        yield running


def spellings(name: bytes) -> list[bytes]:
    """A name as written, in other cases, and with underscores for any of the dashes."""
    parts = name.split(b"-")
    joined = [
        b"".join(part + mark for part, mark in zip(parts, (*marks, b""), strict=True))
        for marks in product((b"-", b"_"), repeat=len(parts) - 1)
    ]
    return [spelt for each in joined for spelt in (each, each.lower(), each.upper(), each.swapcase())]


def hidden(name: bytes, spelt: bytes) -> list[bytes]:
    """Requests that try to smuggle `name: evil`."""
    line = spelt + b": " + EVIL
    body = b"5\r\nhello\r\n0\r\n" + line + b"\r\n\r\n"
    coding = b"Transfer-Encoding: chunked"
    return [
        request(b"GET /a HTTP/1.1", line),
        request(b"GET /a HTTP/1.1", line, line),
        request(b"GET /a HTTP/1.1", name + b": good", line),
        request(b"GET /a HTTP/1.1", b"Connection: " + spelt, line),
        request(b"GET /a HTTP/1.1", b"Connection: close, X-Forwarded-For, Host", line),
        request(b"GET /a HTTP/1.1", b"Connection: Upgrade", b"Upgrade: h2c", line),
        request(b"GET /a HTTP/1.0", line),
        request(b"GET http://h/a HTTP/1.1", line),
        post(coding, body=body),
        post(coding, b"Trailer: " + spelt, b"TE: trailers", body=body),
        post(coding, b"Connection: Upgrade", b"Upgrade: h2c", body=body),
        post(b"Content-Length: %d" % len(line), body=line),
    ]


def injected(spelt: bytes) -> list[bytes]:
    """The same inside another field: folds, bare line ends, spaces, controls, escapes."""
    line = spelt + b": " + EVIL
    glue = (
        b"\r\n ",
        b"\r\n\t",
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\x00",
        b"\x0b",
        b"\x0c",
        b"\x85",
        b"%0d%0a",
        b"\\r\\n",
        b"\xe5\x98\x8a",
    )
    return [
        *(request(b"GET /a HTTP/1.1", b"X-Good: 1" + each + line) for each in glue),
        *(request(b"GET /a HTTP/1.1", each + line) for each in (b" ", b"\t", b":", b"\x00", b"\x0b", b"\xa0")),
        request(b"GET /a HTTP/1.1", spelt + b" : " + EVIL),
        request(b"GET /a HTTP/1.1", spelt + b"\t: " + EVIL),
        request(b"GET /a HTTP/1.1", spelt + b"\x00: " + EVIL),
        request(b"GET /a?x%0d%0a" + spelt + b":%20evil HTTP/1.1"),
        request(b"GET /a HTTP/1.1\n" + line),
        request(b"GET /a HTTP/1.1", host=b"Host: a\n" + line),
    ]


async def blocks(listener: Listener, upstream: Upstream, *pieces: bytes) -> list[bytes]:
    upstream.blocks.clear()
    async with connected(listener) as client:
        await client.send(*pieces, request(b"GET /end HTTP/1.1", b"Connection: close"))
        await client.rest()
    return [b"\r\n" + block for block in upstream.blocks]


def claims(block: bytes) -> list[bytes]:
    """The fields of a block whose names a lax upstream takes for reserved ones, with their values."""
    reserved = {name.lower() for name in RESERVED}
    fields = [line.partition(b":") for line in block.split(b"\r\n") if line]
    found = []
    for name, _, value in fields:
        plain = name.strip().lower().replace(b"_", b"-")
        if plain in reserved or plain.startswith(b"x-gateway-"):
            found.append(plain + b":" + value)
    return found


@pytest.mark.parametrize("name", RESERVED)
async def test_reserved_field_is_dropped_in_any_spelling_and_place(
    name: bytes, listener: Listener, upstream: Upstream
) -> None:
    reached = 0
    for spelt in spellings(name):
        for data in hidden(name, spelt):
            for block in await blocks(listener, upstream, data):
                reached += 1
                assert not [claim for claim in claims(block) if EVIL in claim or b"good" in claim], data
    assert reached > len(spellings(name))


@pytest.mark.parametrize("name", [b"X-Gateway-User", b"X-Forwarded-For", b"x_gateway_user"])
async def test_no_other_field_smuggles_a_reserved_one(name: bytes, listener: Listener, upstream: Upstream) -> None:
    for data in injected(name):
        for block in await blocks(listener, upstream, data):
            assert not [claim for claim in claims(block) if EVIL in claim], data


async def test_trailers_change_no_field(listener: Listener, upstream: Upstream) -> None:
    head = post(b"Transfer-Encoding: chunked", b"X-Api-Key: mine")
    trailers = b"0\r\nX-Api-Key: evil\r\nX-Gateway-User: evil\r\nX-Good: evil\r\n\r\n"
    sent = await blocks(listener, upstream, head, b"5\r\nhello\r\n", trailers)
    assert len(sent) == 2
    assert not [block for block in sent if EVIL in block]


async def test_generated_fields_occur_once(listener: Listener, upstream: Upstream) -> None:
    lines = [name + b": evil" for name in RESERVED if name != b"Traceparent"]
    block = (await blocks(listener, upstream, request(b"GET /a HTTP/1.1", *lines)))[0].lower()
    for name in (
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-request-id",
        b"via",
        b"traceparent",
    ):
        assert block.count(b"\r\n" + name + b":") == 1
    assert b"\r\nx-forwarded-for: 127.0.0.1\r\n" in block
    assert b"\r\nx-forwarded-host: example.org\r\n" in block
    assert b"\r\nx-forwarded-proto: http\r\n" in block


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("host", [b"Host: example.org", None])
async def test_host_of_an_absolute_target_replaces_the_field(
    version: bytes, host: bytes | None, listener: Listener, upstream: Upstream
) -> None:
    data = request(b"GET http://h:8/a HTTP/" + version, host=host)
    if host is None and version == b"1.1":
        assert not [block for block in await blocks(listener, upstream, data) if b"h:8" in block]
    else:
        assert b"\r\nx-forwarded-host: h:8\r\n" in (await blocks(listener, upstream, data))[0]


async def test_api_key_is_never_forwarded(listener: Listener, upstream: Upstream) -> None:
    for line in (b"X-Api-Key: evil", b"x_api_key: evil", b"Authorization: Bearer evil", b"authorization: bEaReR evil"):
        for block in await blocks(listener, upstream, request(b"GET /a HTTP/1.1", line)):
            assert EVIL not in block, line


async def test_end_to_end_fields_reach_the_upstream(listener: Listener, upstream: Upstream) -> None:
    block = (await blocks(listener, upstream, request(b"GET /a HTTP/1.1", b"X-Good: 1", b"Accept: a", b"Accept: b")))[0]
    assert b"\r\nx-good: 1\r\naccept: a\r\naccept: b\r\n" in block


async def test_fields_of_one_request_do_not_leak_into_the_next(listener: Listener, upstream: Upstream) -> None:
    """Fields that a connection repeats are read once; different fields are read again."""
    mine = (b"X-Good: 1", b"X-Api-Key: mine")
    pieces = [
        request(b"GET /a HTTP/1.1", *mine),
        request(b"GET /b?c HTTP/1.1", *mine),
        request(b"GET http://other/c HTTP/1.1", *mine),
        request(b"GET /d HTTP/1.1", *mine),
        request(b"GET /e HTTP/1.1", b"X-Good: 2", b"X-Api-Key: mine"),
        request(b"GET /f HTTP/1.1", *mine, b"Connection: X-Good"),
        request(b"GET /g HTTP/1.1", *mine, b"X-Request-Id: g"),
        request(b"GET /h HTTP/1.1", *mine),
    ]
    sent = await blocks(listener, upstream, *pieces)
    assert [block.count(b"\r\nx-good: 1\r\n") for block in sent] == [1, 1, 1, 1, 0, 0, 1, 1, 0]
    hosts = [block.split(b"x-forwarded-host: ")[1].split(b"\r\n")[0] for block in sent]
    assert hosts == [b"example.org", b"example.org", b"other", *[b"example.org"] * 6]
    assert len({line for block in sent for line in block.split(b"\r\n") if line.startswith(b"x-request-id")}) == 9
    assert sent[6].count(b"x-request-id: g\r\n") == 1
