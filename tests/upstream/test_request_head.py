"""Requests are rendered with framing of our own, and what could be read as two is never rendered."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.http.fields import header_block
from gateway.upstream.request_head import Request, render_head


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


@pytest.mark.parametrize(
    ("request_", "rendered"),
    [
        (Request(b"GET", b"/a?b=c"), b"GET /a?b=c HTTP/1.1\r\nhost: up\r\n\r\n"),
        (Request(b"GET", b"/", header_block(b"host: x\r\n")), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        (
            Request(b"GET", b"/", header_block(b"a: b\r\nhost: x\r\n")),
            b"GET / HTTP/1.1\r\na: b\r\nhost: x\r\n\r\n",
        ),
        (
            Request(b"GET", b"/", header_block(b"x-host: x\r\n")),
            b"GET / HTTP/1.1\r\nhost: up\r\nx-host: x\r\n\r\n",
        ),
        (
            Request(b"GET", b"/", header_block(b"a: b\r\nhost: x\r\n"), has_host=True),
            b"GET / HTTP/1.1\r\na: b\r\nhost: x\r\n\r\n",
        ),
        (
            Request(b"GET", b"/", header_block(b"x-host: x\r\n"), has_host=False),
            b"GET / HTTP/1.1\r\nhost: up\r\nx-host: x\r\n\r\n",
        ),
        (Request(b"POST", b"/"), b"POST / HTTP/1.1\r\nhost: up\r\ncontent-length: 0\r\n\r\n"),
        (Request(b"DELETE", b"/"), b"DELETE / HTTP/1.1\r\nhost: up\r\n\r\n"),
        (Request(b"POST", b"/", body=b"abc"), b"POST / HTTP/1.1\r\nhost: up\r\ncontent-length: 3\r\n\r\n"),
        (Request(b"GET", b"/", body=b""), b"GET / HTTP/1.1\r\nhost: up\r\ncontent-length: 0\r\n\r\n"),
        (
            Request(b"PUT", b"/", body=nothing(), content_length=9),
            b"PUT / HTTP/1.1\r\nhost: up\r\ncontent-length: 9\r\n\r\n",
        ),
        (Request(b"PUT", b"/", body=nothing()), b"PUT / HTTP/1.1\r\nhost: up\r\ntransfer-encoding: chunked\r\n\r\n"),
    ],
)
def test_request_head_gets_framing_and_host(request_: Request, rendered: bytes) -> None:
    assert rendered == render_head(request_, b"up")


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"GET ", b"/"),
        Request(b"get", b"/"),
        Request(b"GET\r\nx:", b"/"),
        Request(b"", b"/"),
        Request(b"GET", b""),
        Request(b"GET", b"/ HTTP/1.1\r\nx: y"),
        Request(b"GET", b"/a b"),
        Request(b"GET", b"/\n"),
        Request(b"GET", b"/\xff"),
    ],
)
def test_request_head_that_is_ambiguous_is_not_rendered(request_: Request) -> None:
    with pytest.raises(ValueError, match="request line"):
        render_head(request_, b"up")


@pytest.mark.parametrize(
    "block",
    [
        b"a: b",
        b"a: b\r\n\r\n",
        b"\r\nGET /evil HTTP/1.1\r\n",
        b"a: b\r\n\r\nGET /evil HTTP/1.1\r\n",
        b"a: \0\r\n",
        b"a: b\nc: d\r\n",
        b"a: b\rc: d\r\n",
        b"A: b\r\n",
        b"a b: c\r\n",
        b": b\r\n",
        b"content-length: 3\r\n",
        b"Content-Length: 3\r\n",
        b"a: b\r\nTRANSFER-ENCODING: chunked\r\n",
        b"a: b\r\ntransfer-encoding: chunked\r\n",
        b"a: b\r\nconnection: close\r\n",
        b"a: b\r\nupgrade: h2c\r\n",
        b"content-length : 3\r\n",
    ],
)
def test_request_fields_that_are_ambiguous_are_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match="header block"):
        header_block(block)


def test_request_head_takes_joined_blocks() -> None:
    first, second = header_block(b"a: b\r\n"), header_block(b"c:\r\nd: \xff\t\r\n")
    assert header_block(first + second) == first + second
