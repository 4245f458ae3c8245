"""No client makes the listener wait for ever, remember without bound, or lose an answer."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

import pytest

from gateway.http.fields import NO_FIELDS
from gateway.listener import connection, connection_gate, ending
from gateway.listener.server import ListenerLimits
from tests.listener.listening import PROBE, Client, Listener, Recorder, connected, listening, respond, whole_body
from tests.proxy.requests import post, request
from tests.support.polling import eventually

HASTY = ListenerLimits(header_timeout_seconds=0.1, body_idle_timeout_seconds=0.1, keep_alive_seconds=0.1)
IDLE_ONLY = ListenerLimits(keep_alive_seconds=0.1)
UPLOAD = post(b"Content-Length: 100000000")
CHUNK = b"x" * 65536


UNFINISHED = post(b"Content-Length: 5")


class Scripted:
    """An application that does as its test says; tells how each call went."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()
        self.ended = asyncio.Event()
        self.messages: list[str] = []

    def watch(self, scope: Any) -> None:
        scope["extensions"]["gateway.client"].on_disconnect = self.left.set
        self.started.set()


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


class Uploading(Scripted):
    """Says when it was called, waits for leave to go on, takes the whole body and answers its size."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.watch(scope)
        await self.go_on.wait()
        body = await whole_body(receive)
        if body is not None:
            await respond(send, 200, b"%d" % len(body))
        self.ended.set()


class Taking(Scripted):
    """Takes the body at once, twice; what had not come by then it receives, and takes nothing after. Answers all."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope["extensions"]["gateway.client"]
        taken = [client.take_body(), client.take_body()]
        self.started.set()
        received = await whole_body(receive) if taken[0] is None else None
        await respond(send, 200, repr((*taken, received, client.take_body())).encode())


class Unread(Scripted):
    """Refuses without a look at the body."""

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await respond(send, 401, b"no")


class Whole(Scripted):
    """Answers at once, without waiting for whether its client takes it."""

    answered = 0

    async def __call__(self, scope: Any, _receive: Any, _send: Any) -> None:
        scope["extensions"]["gateway.client"].answer(200, NO_FIELDS, CHUNK)
        self.answered += 1
        self.started.set()


class Downloading(Scripted):
    """Sends up to 256 MiB."""

    sent = 0

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.watch(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while self.sent < 4096 and not scope["extensions"]["gateway.client"].is_disconnected:
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.sent += 1
            await asyncio.sleep(0)
        self.ended.set()


async def assert_timed_out(client: Client) -> None:
    answer = await client.final_answer()
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert await client.answers() == []


class TestHead:
    async def test_head_that_never_begins_times_out(self) -> None:
        async with listening(Recorder(), HASTY) as listener, connected(listener) as client:
            await assert_timed_out(client)

    @pytest.mark.parametrize("part", [b"G", b"GET /a HTTP/1.1\r\n", request()[:-1], request()[:-2]])
    async def test_head_that_never_ends_times_out(self, part: bytes) -> None:
        async with listening(Recorder(), HASTY) as listener, connected(listener) as client:
            await client.send(part)
            await assert_timed_out(client)

    async def test_head_timeout_does_not_restart_with_each_byte(self) -> None:
        async with listening(Recorder(), HASTY) as listener, connected(listener) as client:
            timed_out = asyncio.create_task(assert_timed_out(client))
            for octet in request(b"GET /a HTTP/1.1", b"x: " + b"1" * 500):
                if timed_out.done():
                    break
                client.writer.write(bytes((octet,)))
                await asyncio.sleep(0.01)
            await timed_out

    async def test_head_of_a_later_request_times_out(self) -> None:
        async with listening(Recorder(), HASTY) as listener, connected(listener) as client:
            await client.send(request() + b"GET /b")
            assert (await client.final_answer()).status == 200
            await assert_timed_out(client)

    @pytest.mark.parametrize("behind", [b"", b"\r\n"])
    async def test_idle_connection_is_closed_without_a_response(self, behind: bytes) -> None:
        async with listening(Recorder(), HASTY) as listener, connected(listener) as client:
            await client.send(request() + behind)
            assert [answer.status for answer in await client.answers()] == [200]

    async def test_connection_in_use_is_not_idle(self) -> None:
        async with (
            listening(Recorder(), ListenerLimits(keep_alive_seconds=0.5)) as listener,
            connected(listener) as client,
        ):
            for _ in range(8):
                await client.send(request())
                assert (await client.final_answer()).status == 200
                await asyncio.sleep(0.1)


class TestBody:
    async def test_body_that_has_come_is_taken_once(self) -> None:
        async with listening(Taking()) as listener, connected(listener) as client:
            for sent, body in ((post(b"Content-Length: 5", body=b"hello"), b"hello"), (request(), b"")):
                await client.send(sent)
                assert (await client.final_answer()).body == repr((body, None, None, None)).encode()

    async def test_body_that_has_not_come_whole_is_received(self) -> None:
        app = Taking()
        async with listening(app) as listener, connected(listener) as client:
            await client.send(post(b"Content-Length: 5", body=b"he"))
            await wait(app.started)
            await client.send(b"llo")
            assert (await client.final_answer()).body == repr((None, None, b"hello", None)).encode()

    @pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
    async def test_body_that_stops_times_out_and_disconnects_the_application(self, framing: bytes) -> None:
        app = Uploading()
        app.go_on.set()
        async with listening(app, HASTY) as listener, connected(listener) as client:
            await client.send(post(framing, body=b"5\r\nh"))
            await assert_timed_out(client)
            await wait(app.ended)
            assert app.left.is_set()

    async def test_body_that_makes_progress_does_not_time_out(self) -> None:
        app = Uploading()
        app.go_on.set()
        limits = ListenerLimits(body_idle_timeout_seconds=0.5)
        async with listening(app, limits) as listener, connected(listener) as client:
            await client.send(post(b"Content-Length: 8"))
            for _ in range(8):
                await asyncio.sleep(0.1)
                await client.send(b"x")
            assert (await client.final_answer()).body == b"8"

    async def test_application_has_no_timeout(self) -> None:
        app = Uploading()
        async with listening(app, HASTY) as listener, connected(listener) as client:
            await client.send(post(b"Content-Length: 8", body=b"x"))
            await asyncio.sleep(0.3)
            app.go_on.set()
            await client.send(b"x" * 7)
            assert (await client.final_answer()).body == b"8"

    async def test_response_is_cut_when_the_request_body_stops(self) -> None:
        async def duplex(_scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await whole_body(receive)

        async with listening(duplex, HASTY) as listener, connected(listener) as client:
            await client.send(post(b"Content-Length: 8", body=b"x"))
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"chunked" in head
            assert body == b""  # no last chunk: visibly broken


class TestBounds:
    async def test_upload_that_is_not_taken_stays_bounded(self) -> None:
        app = Uploading()
        async with listening(app) as listener, connected(listener) as client:
            client.writer.write(UPLOAD + CHUNK * 200)
            await wait(app.started)
            found = await self._settled(listener)
            exchange = found._exchange
            assert exchange is not None
            assert found._is_paused
            assert exchange.buffered <= connection.MAX_UNREAD_BYTES + 256 * 1024

    async def test_pipelined_requests_stay_bounded(self) -> None:
        app = Uploading()
        async with listening(app) as listener, connected(listener) as client:
            client.writer.write(request() * 100_000)
            await wait(app.started)
            found = await self._settled(listener)
            assert found._is_paused
            assert len(found._unread) <= connection.MAX_UNREAD_BYTES + 256 * 1024
            app.go_on.set()
            assert [(await client.final_answer()).body for _ in range(5000)] == [b"0"] * 5000

    async def test_response_that_is_not_read_stays_bounded_and_is_cut(self) -> None:
        app = Downloading()
        async with (
            listening(app, ListenerLimits(body_idle_timeout_seconds=0.3)) as listener,
            connected(listener) as client,
        ):
            client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
            await client.send(request())
            await wait(app.started)
            (found,) = listener.connections()
            assert found.transport.get_write_buffer_size() <= 3 * len(CHUNK)
            await wait(app.left)
            await wait(app.ended)
            assert app.sent < 4096

    async def test_pipelined_responses_that_are_not_read_stay_bounded(self) -> None:
        app = Whole()
        async with listening(app) as listener, connected(listener) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
            client.writer.write(request() * 500)
            await wait(app.started)
            (found,) = listener.connections()
            await eventually(lambda: found.is_congested)
            answered = app.answered
            await asyncio.sleep(0.05)
            assert app.answered == answered < 500, "it waits for its client"
            assert found.transport.get_write_buffer_size() <= 2 * len(CHUNK)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert [len((await client.final_answer()).body) for _ in range(500)] == [len(CHUNK)] * 500

    async def test_connection_above_the_limit_gets_a_503_where_all_are_at_work(self) -> None:
        async with (
            listening(Recorder(), ListenerLimits(max_connections=2)) as listener,
            connected(listener) as first,
            connected(listener) as second,
        ):
            for client in (first, second):
                await client.send(UNFINISHED, b"h")
            async with connected(listener) as third:
                answer = await third.final_answer()
                assert (answer.status, answer.code) == (503, "too_many_connections")
                assert await third.answers() == []
            for client in (first, second):
                await client.send(b"ello" + PROBE)
                assert [each.status for each in await client.answers()] == [200, 200]

    async def test_connection_above_the_limit_takes_the_place_of_the_longest_idle(self) -> None:
        async with (
            listening(Recorder(), ListenerLimits(max_connections=3)) as listener,
            connected(listener) as busy,
            connected(listener) as idle,
            connected(listener) as younger,
        ):
            await busy.send(UNFINISHED, b"h")
            for client in (idle, younger):
                await client.send(request(b"GET /a HTTP/1.1"))
                assert (await client.final_answer()).status == 200
            async with connected(listener) as newest:
                await newest.send(PROBE)
                assert [each.status for each in await newest.answers()] == [200]
            assert await idle.answers() == []
            await busy.send(b"ello" + PROBE)
            await younger.send(PROBE)
            assert [each.status for each in await busy.answers()] == [200, 200]
            assert [each.status for each in await younger.answers()] == [200]

    async def test_connection_limit_fits_the_descriptors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (68, 1024))
        async with listening(Recorder()) as listener, connected(listener) as first, connected(listener) as second:
            for client in (first, second):
                await client.send(UNFINISHED, b"h")
            async with connected(listener) as third:
                assert (await third.final_answer()).code == "too_many_connections"

    async def test_connections_far_above_the_limit_are_closed_without_a_response(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_gate, "MAX_REFUSED_CONNECTIONS", 1)
        async with listening(Recorder(), ListenerLimits(max_connections=1)) as listener, connected(listener) as busy:
            await busy.send(UNFINISHED, b"h")
            async with connected(listener):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                assert await reader.read() == b""
                writer.close()

    async def test_connections_of_an_address_are_bounded(self) -> None:
        limits = ListenerLimits(max_connections_per_address=1)
        async with listening(Recorder(), limits) as listener:
            async with connected(listener) as first, connected(listener) as second:
                assert (await second.final_answer()).code == "too_many_connections"
                await first.send(PROBE)
                assert [each.status for each in await first.answers()] == [200]
            await eventually(lambda: not listener.connections())
            async with connected(listener) as next_one:
                await next_one.send(PROBE)
                assert [each.status for each in await next_one.answers()] == [200]

    @staticmethod
    async def _settled(listener: Listener) -> Any:
        (found,) = listener.connections()
        while not found._is_paused:
            found.progress.clear()
            await wait(found.progress)
        return found


class TestContinue:
    async def test_expect_continue_is_answered_when_the_body_is_received(self) -> None:
        app = Uploading()
        async with listening(app) as listener, connected(listener) as client:
            await client.send(post(b"Expect: 100-continue", b"Content-Length: 5"))
            await wait(app.started)
            asking = asyncio.create_task(client.answer())
            await asyncio.sleep(0.05)
            assert not asking.done()
            app.go_on.set()
            interim = await asking
            assert interim is not None
            assert interim.status == 100
            await client.send(b"hello" + PROBE)
            assert [answer.body for answer in await client.answers()] == [b"5", b"0"]

    async def test_expect_continue_is_not_answered_before_a_refusal(self) -> None:
        async with listening(Unread()) as listener, connected(listener) as client:
            await client.send(post(b"Expect: 100-continue", b"Content-Length: 5"))
            assert [answer.status for answer in await client.answers()] == [401]

    async def test_expect_continue_of_http_1_0_is_ignored(self) -> None:
        app = Uploading()
        async with listening(app) as listener, connected(listener) as client:
            await client.send(request(b"POST /p HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 5"))
            app.go_on.set()
            await wait(app.started)
            await client.send(b"hello")
            answer = await client.answer()
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"5")

    async def test_expect_continue_is_not_answered_once_the_body_comes(self) -> None:
        app = Uploading()
        async with listening(app) as listener, connected(listener) as client:
            await client.send(post(b"Expect: 100-continue", b"Content-Length: 5"), b"hello")
            app.go_on.set()
            answer = await client.answer()
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"5")


class TestEarlyAnswers:
    async def test_response_before_the_body_closes_the_connection(self) -> None:
        async with listening(Unread()) as listener, connected(listener) as client:
            await client.send(UPLOAD, PROBE)
            (answer,) = await client.answers()
            assert (answer.status, answer.headers[b"connection"]) == (401, b"close")

    async def test_response_after_the_body_keeps_the_connection(self) -> None:
        async with listening(Unread()) as listener, connected(listener) as client:
            await client.send(post(b"Content-Length: 5", body=b"GET /") + request() + PROBE)
            assert [answer.status for answer in await client.answers()] == [401, 401, 401]

    async def test_client_that_still_sends_can_read_its_response(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ending, "LINGER_SECONDS", 0.1)
        async with listening(Unread()) as listener, connected(listener) as client:
            (found,) = listener.connections()
            client.writer.write(UPLOAD + CHUNK * 100)
            assert (await client.final_answer()).status == 401
            await asyncio.wait_for(found.lost.wait(), 10)
            assert found.taken <= len(UPLOAD) + 2 * ending.MAX_LINGER_BYTES + 512 * 1024

    async def test_client_that_does_not_close_is_closed_after_the_linger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ending, "LINGER_SECONDS", 0.1)
        async with listening(Recorder()) as listener, connected(listener) as client:
            (found,) = listener.connections()
            await client.send(PROBE)
            assert (await client.final_answer()).status == 200
            await asyncio.wait_for(found.lost.wait(), 10)
            assert listener.connections() == []


class TestLeaving:
    @pytest.mark.parametrize("reset", [False, True])
    async def test_disconnect_of_the_client_reaches_the_application(self, *, reset: bool) -> None:
        app = Uploading()
        app.go_on.set()
        async with listening(app) as listener, connected(listener) as client:
            await client.send(UPLOAD)
            await wait(app.started)
            if reset:
                client.writer.transport.abort()
            else:
                client.writer.close()
            await wait(app.left)
            await wait(app.ended)
            await eventually(lambda: listener.connections() == [])
            assert app.left.is_set()

    @pytest.mark.parametrize("field", [b"Connection: keep-alive", b"Connection: close"])
    async def test_disconnect_after_the_response_reaches_nobody(self, field: bytes) -> None:
        app = Uploading()
        app.go_on.set()
        async with listening(app) as listener, connected(listener) as client:
            (found,) = listener.connections()
            await client.send(request(b"GET /a HTTP/1.1", field))
            await client.final_answer()
            client.writer.close()
            await asyncio.wait_for(found.lost.wait(), 10)
            assert not app.left.is_set()

    async def test_application_that_waits_gets_a_disconnect_after_its_response(self) -> None:
        heard = asyncio.get_running_loop().create_future()

        async def listening_on(_scope: Any, receive: Any, send: Any) -> None:
            await receive()
            waiting = asyncio.create_task(receive())
            await respond(send, 200, b"ok")
            heard.set_result(await waiting)

        async with listening(listening_on) as listener, connected(listener) as client:
            await client.send(request())
            assert (await client.final_answer()).status == 200
            assert await asyncio.wait_for(heard, 10) == {"type": "http.disconnect"}


async def test_small_responses_are_sent_without_delay() -> None:
    async with listening(Recorder()) as listener, connected(listener):
        (found,) = listener.connections()
        own = found.transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
