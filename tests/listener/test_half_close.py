"""A client that closes its half after the request gets the answers to what it has sent; one that leaves is noticed."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.listener import ending
from tests.listener.listening import Client, Recorder, connected, listening, respond, whole_body
from tests.proxy.requests import post, request
from tests.support.polling import eventually

BEGINNING = b"HTTP/1.1 "
GET = request(b"GET /a HTTP/1.1")
LARGE = b"x" * 3_000_000


class Slow:
    """Answers when its test says so; tells whether the client left first."""

    def __init__(self, *, body: bytes = b"ok", chunks: int = 0) -> None:
        self.started, self.go_on, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._body, self._chunks = body, chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["gateway.client"].on_disconnect = self.left.set
        await whole_body(receive)
        if self._chunks:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        self.started.set()
        await self.go_on.wait()
        for _ in range(self._chunks):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.sleep(0)
        if self._chunks:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await respond(send, 200, self._body)


def half_close(client: Client) -> None:
    client.writer.write_eof()


async def rest_of(client: Client) -> bytes:
    async with asyncio.timeout(10):
        return await client.reader.read()


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        post(b"Content-Length: 2", body=b"hi"),
        post(b"Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\n\r\n"),
        request(b"GET /a HTTP/1.1", b"Connection: close"),
        request(b"GET /a HTTP/1.0"),
    ],
)
@pytest.mark.parametrize("body", [b"ok", LARGE])
async def test_client_that_half_closes_gets_its_answer(sent: bytes, body: bytes) -> None:
    app = Slow(body=body)
    async with listening(app) as listener, connected(listener) as client:
        await client.send(sent)
        half_close(client)
        await app.started.wait()
        assert await client.reader.readexactly(len(BEGINNING)) == BEGINNING  # the FIN has come by now
        app.go_on.set()
        head, _, received = (await rest_of(client)).partition(b"\r\n\r\n")
        assert head.startswith(b"200 OK\r\n")
        assert received == body
        assert not app.left.is_set()
        await eventually(lambda: not listener.connections())


async def test_client_that_half_closes_within_a_stream_gets_the_rest_of_it() -> None:
    app = Slow(chunks=3)
    async with listening(app) as listener, connected(listener) as client:
        await client.send(GET)
        await client.reader.readuntil(b"first\r\n")
        half_close(client)
        assert await client.reader.readexactly(1) == ending.LEADING_ZERO  # which is part of the next size
        app.go_on.set()
        assert await rest_of(client) == b"4\r\nmore\r\n" * 3 + b"0\r\n\r\n"
        assert not app.left.is_set()


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_client_that_closes_within_a_silent_stream_is_noticed(*, is_chunked: bool) -> None:
    """Where no probe can be sent, a FIN within a response is a disconnect."""
    app = Slow(chunks=3)
    async with listening(app) as listener, connected(listener) as client:
        await client.send(GET if is_chunked else request(b"GET /a HTTP/1.0"))
        await client.reader.readuntil(b"first")
        client.writer.transport.abort()
        await asyncio.wait_for(app.left.wait(), 10)
        await eventually(lambda: not listener.connections())


async def test_pipelined_requests_before_a_half_close_are_all_answered() -> None:
    app = Recorder()
    async with listening(app) as listener, connected(listener) as client:
        client.writer.write(GET + post(b"Content-Length: 2", body=b"hi") + GET)
        half_close(client)
        answers = await client.answers()
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert [seen.method for seen in app.seen] == ["GET", "POST", "GET"]
        await eventually(lambda: not listener.connections())


@pytest.mark.parametrize(
    "sent", [b"", GET[:-3], post(b"Content-Length: 5", body=b"hi"), post(b"Transfer-Encoding: chunked")]
)
async def test_half_close_before_the_request_is_whole_ends_it(sent: bytes) -> None:
    app = Slow()
    async with listening(app) as listener, connected(listener) as client:
        await client.send(sent)
        half_close(client)
        assert await rest_of(client) == b""
        await eventually(lambda: not listener.connections())


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_client_that_closes_all_of_it_is_noticed(version: bytes, *, is_streamed: bool) -> None:
    """By a FIN as well, without an answer that it would have to miss; within a stream by its next pieces."""
    app = Slow(chunks=10_000 if is_streamed else 0)
    async with listening(app) as listener, connected(listener) as client:
        await client.send(request(b"GET /a HTTP/" + version))
        await app.started.wait()
        if is_streamed:
            await client.reader.readuntil(b"first")
            app.go_on.set()
        client.writer.transport.abort()
        await asyncio.wait_for(app.left.wait(), 10)
        await eventually(lambda: not listener.connections())


async def test_client_that_half_closes_and_then_leaves_holds_no_connection() -> None:
    app = Slow(body=LARGE)
    async with listening(app) as listener, connected(listener) as client:
        await client.send(GET)
        half_close(client)
        await client.reader.readexactly(len(BEGINNING))
        client.writer.transport.abort()
        app.go_on.set()
        await eventually(lambda: not listener.connections())


async def test_fin_means_a_disconnect_where_nothing_tells_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_TCP_INFO", None)
    app = Slow()
    async with listening(app) as listener, connected(listener) as client:
        await client.send(GET)
        await app.started.wait()
        half_close(client)
        await asyncio.wait_for(app.left.wait(), 10)
        assert await rest_of(client) == b""


def test_state_of_a_connection_is_where_linux_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            assert state == 1  # established, linux/tcp.h
