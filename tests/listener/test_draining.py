"""A listener that stops loses no request: each that a client could send is answered, on a connection that then ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.listener.ending import BEGINNING
from tests.listener.listening import PATIENCE_SECONDS, Answer, Client, Listener, connected, listening, respond
from tests.proxy.requests import post, request
from tests.support.polling import eventually

QUEUED = 20


class Held:
    """Answers /held when released, after its head where the path says so, all else at once."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        path = scope["raw_path"]
        if path == b"/held/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if path.startswith(b"/held"):
            self.begun.set()
            await self.released.wait()
        if path == b"/held/begun":
            await send({"type": "http.response.body", "body": b"ended", "more_body": False})
        else:
            await respond(send, 200, b"ok")


@pytest.fixture
def app() -> Held:
    return Held()


@pytest.fixture
async def listener(app: Held) -> AsyncIterator[Listener]:
    async with listening(app) as running:
        yield running


async def _begin(client: Client, app: Held, path: bytes) -> None:
    await client.send(request(b"GET %b HTTP/1.1" % path))
    await asyncio.wait_for(app.begun.wait(), PATIENCE_SECONDS)


async def _ask(client: Client) -> Answer:
    await client.send(request())
    return await client.final_answer()


def _is_last(answer: Answer) -> bool:
    return answer.status == 200 and answer.headers.get(b"connection") == b"close"


async def _noticed(client: Client) -> None:
    """Returns once the client has what an idle connection gets."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await client.reader.readexactly(len(BEGINNING)) == BEGINNING
    client.reader.feed_data(BEGINNING)  # of the response to come


async def test_announced_drain_closes_kept_new_and_busy_connections_after_their_next_response(
    app: Held, listener: Listener
) -> None:
    async with connected(listener) as kept, connected(listener) as busy:
        assert b"connection" not in (await _ask(kept)).headers
        await _begin(busy, app, b"/held")
        listener.server.announce_drain()
        assert _is_last(await _ask(kept))
        assert await kept.answers() == []
        async with connected(listener) as new:
            assert _is_last(await _ask(new))
        app.released.set()
        assert _is_last(await busy.final_answer())


async def test_drain_keeps_a_connection_whose_response_head_has_promised_it(app: Held, listener: Listener) -> None:
    async with connected(listener) as client:
        await _begin(client, app, b"/held/begun")
        stopping = asyncio.create_task(listener.stop())
        await eventually(lambda: listener.server.servers[0].sockets == ())
        await client.send(request())  # as a pipelining client may, or one that is about to see the end
        app.released.set()
        begun = await client.final_answer()
        assert (begun.body, b"connection" in begun.headers) == (b"begunended", False)
        assert _is_last(await client.final_answer())
        await stopping


@pytest.mark.parametrize("is_fresh", [True, False])
async def test_drain_answers_a_request_that_crosses_the_end_of_its_idle_connection(
    listener: Listener, *, is_fresh: bool
) -> None:
    async with connected(listener) as client:
        if not is_fresh:
            await _ask(client)
        stopping = asyncio.create_task(listener.stop())
        await _noticed(client)
        await client.send(*(bytes([each]) for each in post(b"Content-Length: 1")), b"x")
        assert _is_last(await client.final_answer())
        await stopping


async def test_drain_ends_when_idle_clients_have_closed(listener: Listener) -> None:
    async with connected(listener) as client:
        await _ask(client)
        stopping = asyncio.create_task(listener.stop())
        await _noticed(client)
        client.writer.close()
        await asyncio.wait_for(stopping, PATIENCE_SECONDS)
        assert listener.connections() == []


async def test_drain_closes_an_idle_connection_whose_client_does_not_notice(listener: Listener) -> None:
    async with connected(listener) as client:
        await asyncio.wait_for(listener.stop(), PATIENCE_SECONDS)
        assert await client.rest() == BEGINNING


async def test_drain_serves_connections_that_the_kernel_has_accepted(listener: Listener) -> None:
    address = ("127.0.0.1", listener.port)
    clients = [socket.create_connection(address) for _ in range(QUEUED)]  # the loop does not run meanwhile
    for each in clients:
        each.sendall(request())
        each.setblocking(False)
    stopping = asyncio.create_task(listener.stop())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE_SECONDS):
        answers = [await loop.sock_recv(each, 1000) for each in clients]
    assert [each[:12] for each in answers] == [b"HTTP/1.1 200"] * QUEUED
    for each in clients:
        each.close()
    await stopping
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_past_the_drain_calls_are_refused_for_a_retry_elsewhere() -> None:
    app = Held()
    async with listening(app, drain_seconds=0.2) as listener, connected(listener) as held, connected(listener) as cut:
        await _begin(held, app, b"/held")
        app.begun.clear()
        await _begin(cut, app, b"/held/begun")
        await asyncio.wait_for(listener.stop(), PATIENCE_SECONDS)
        _assert_refused(await held.final_answer())
        assert not (await cut.rest()).endswith(b"0\r\n\r\n")  # visibly broken


async def test_request_that_comes_past_the_drain_is_refused_for_a_retry_elsewhere(listener: Listener) -> None:
    async with connected(listener) as client:
        listener.server.announce_drain()
        (found,) = listener.connections()
        found._gate.is_past_drain = True
        await client.send(request())
        _assert_refused(await client.final_answer())
        assert await client.answers() == []


def _assert_refused(answer: Answer) -> None:
    assert (answer.status, answer.code) == (503, "shutting_down")
    assert (answer.headers[b"connection"], answer.headers[b"retry-after"]) == (b"close", b"1")
