"""What leaves the listener: framing of its own making, nothing injected, nothing broken that looks whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.listener.listening import PROBE, connected, listening, respond
from tests.proxy.requests import post, request

HEAD = request(b"HEAD /a HTTP/1.1")
TEN = request(b"GET /a HTTP/1.0")


class Answering:
    """Answers /a as its test says; anything else with 200."""

    def __init__(
        self, *bodies: bytes, status: int = 200, headers: Sequence[tuple[Any, Any]] = (), is_finished: bool = True
    ) -> None:
        self.bodies, self.status, self.headers, self.is_finished = bodies, status, headers, is_finished
        self.failure: BaseException | None = None

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] != "/a":
            await respond(send, 200, b"ok")
            return
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
            for body in self.bodies:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if self.is_finished:
                await send({"type": "http.response.body"})
        except RuntimeError as error:
            self.failure = error
            raise


async def raw(app: Any, *pieces: bytes) -> bytes:
    async with listening(app) as listener, connected(listener) as client:
        await client.send(*pieces)
        return await client.rest()


async def lines_of(app: Any, data: bytes) -> list[bytes]:
    head, _, _ = (await raw(app, data)).partition(b"\r\n\r\n")
    return head.split(b"\r\n")


def closing(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


GET = closing(request())


class TestFraming:
    async def test_response_keeps_its_content_length(self) -> None:
        sent = await raw(Answering(b"he", b"llo", headers=[(b"content-length", b"5")]), GET)
        assert sent.endswith(b"content-length: 5\r\n" + date_of(sent) + b"connection: close\r\n\r\nhello")

    async def test_response_without_length_is_chunked(self) -> None:
        sent = await raw(Answering(b"he", b"", b"llo"), GET)
        assert sent.endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")

    async def test_response_to_http_1_0_ends_with_the_connection(self) -> None:
        sent = await raw(Answering(b"he", b"llo"), TEN)
        assert b"chunked" not in sent
        assert sent.endswith(b"connection: close\r\n\r\nhello")

    @pytest.mark.parametrize("name", [b"transfer-encoding", b"Transfer-Encoding"])
    async def test_response_ignores_the_transfer_coding_of_the_application(self, name: bytes) -> None:
        sent = await raw(Answering(b"x", headers=[(name, b"gzip, chunked")]), GET)
        assert sent.lower().count(b"transfer-encoding") == 1
        assert b"gzip" not in sent
        assert sent.endswith(b"1\r\nx\r\n0\r\n\r\n")

    @pytest.mark.parametrize("name", [b"connection", b"keep-alive", b"upgrade"])
    async def test_response_has_no_hop_by_hop_fields_of_the_application(self, name: bytes) -> None:
        sent = await raw(Answering(headers=[(name, b"x")]), request() + PROBE)
        assert name + b": x" not in sent

    async def test_response_can_close_the_connection(self) -> None:
        sent = await raw(Answering(headers=[(b"connection", b"Close")]), request() + PROBE)
        assert sent.count(b"HTTP/1.1") == 1
        assert sent.count(b"connection: close") == 1

    @pytest.mark.parametrize("length", [b"5", b"0", b"100000000000"])
    async def test_response_to_head_has_a_length_and_no_body(self, length: bytes) -> None:
        async with (
            listening(Answering(b"hello", headers=[(b"content-length", length)])) as listener,
            connected(listener) as client,
        ):
            await client.send(HEAD + PROBE)
            answer = await client.answer(is_head=True)
            assert answer is not None
            assert answer.headers[b"content-length"] == length
            assert [each.status for each in await client.answers()] == [200]

    @pytest.mark.parametrize("status", [204, 304])
    async def test_response_with_a_bodiless_status_has_no_body(self, status: int) -> None:
        async with (
            listening(Answering(b"hello", status=status, headers=[(b"content-length", b"5")])) as listener,
            connected(listener) as client,
        ):
            await client.send(request() + PROBE)
            answers = await client.answers()
            assert [each.status for each in answers] == [status, 200]
            assert (b"content-length" in answers[0].headers) is (status == 304)

    async def test_error_response_to_head_has_no_body(self) -> None:
        sent = await raw(Answering(), request(b"HEAD /a HTTP/1.1", host=None))
        assert sent.startswith(b"HTTP/1.1 400")
        assert sent.endswith(b"\r\n\r\n")


class TestFields:
    async def test_response_gets_a_date_and_no_server(self) -> None:
        names = [line.partition(b":")[0] for line in await lines_of(Answering(), GET)]
        assert names.count(b"date") == 1
        assert b"server" not in names

    async def test_response_keeps_date_and_server_of_the_application(self) -> None:
        lines = await lines_of(Answering(headers=[(b"Date", b"then"), (b"Server", b"theirs")]), GET)
        assert [line for line in lines if line[:4] in (b"date", b"serv")] == [b"date: then", b"server: theirs"]

    async def test_response_fields_keep_order_and_repetition(self) -> None:
        headers = [(b"set-cookie", b"a"), (b"x", b""), (b"set-cookie", b"b"), (b"y", b"\xff\t1")]
        assert (await lines_of(Answering(headers=headers), GET))[1:5] == [
            b"set-cookie: a",
            b"x: ",
            b"set-cookie: b",
            b"y: \xff\t1",
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((b"x", b"1%c2" % octet) for octet in [*range(9), *range(10, 32), 127]),
            (b"x", b"1\r\nset-cookie: evil"),
            (b"x", b"1\r\n\r\n<script>"),
            *((b"x%cy" % octet, b"1") for octet in b'\r\n\x00 :\t(),/;<=>?@[]{}"\\\x7f\x80'),
            (b"", b"1"),
            (b"content-length", b"+5"),
            (b"content-length", b"5, 5"),
            (b"content-length", b""),
            (b"x", "text"),
            ("x", b"text"),
        ],
    )
    async def test_response_that_could_inject_a_field_becomes_a_500(self, name: Any, value: Any) -> None:
        sent = await raw(Answering(headers=[(name, value)]), request())
        assert sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"evil" not in sent
        assert b"script" not in sent
        assert b'"internal_error"' in sent

    @pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 999, -200])
    async def test_response_with_an_interim_status_becomes_a_500(self, status: int) -> None:
        assert (await raw(Answering(status=status), request())).startswith(b"HTTP/1.1 500 ")

    @pytest.mark.parametrize("status", [200, 299, 418, 499, 599])
    async def test_response_status_without_a_phrase_is_sent(self, status: int) -> None:
        assert (await lines_of(Answering(status=status), GET))[0].startswith(b"HTTP/1.1 %d " % status)


class TestBreaking:
    @pytest.mark.parametrize("bodies", [(b"hell",), (b"hello!",), (), (b"he", b"llo!")])
    async def test_response_body_of_another_length_is_cut(self, bodies: tuple[bytes, ...]) -> None:
        app = Answering(*bodies, headers=[(b"content-length", b"5")])
        sent = await raw(app, request() + PROBE)
        assert len(sent.partition(b"\r\n\r\n")[2]) < 5
        assert isinstance(app.failure, RuntimeError)

    async def test_response_body_without_an_end_is_cut(self) -> None:
        sent = await raw(Answering(b"hello", is_finished=False), request() + PROBE)
        assert not sent.endswith(b"0\r\n\r\n")

    async def test_response_that_ends_with_the_connection_breaks_off_by_a_reset(self) -> None:
        async with listening(Answering(b"hello", is_finished=False)) as listener, connected(listener) as client:
            await client.send(TEN)
            with pytest.raises(ConnectionResetError):
                await client.rest()

    async def test_application_that_fails_gets_a_500(self) -> None:
        async def failing(_scope: Any, _receive: Any, _send: Any) -> None:
            raise ValueError("secret")

        assert await self._code(failing) == "internal_error"

    async def test_application_without_a_response_gets_a_500(self) -> None:
        async def silent(_scope: Any, _receive: Any, _send: Any) -> None:
            return

        assert await self._code(silent) == "internal_error"

    async def test_application_that_is_cancelled_gets_a_503(self) -> None:
        async def cancelled(_scope: Any, _receive: Any, _send: Any) -> None:
            raise asyncio.CancelledError

        assert await self._code(cancelled) == "shutting_down"

    @pytest.mark.parametrize(
        "kinds", [("http.response.body",), ("http.response.start",) * 2, ("x",), ("http.response.start", "x")]
    )
    async def test_application_messages_out_of_order_raise(self, kinds: tuple[str, ...]) -> None:
        failures = []

        async def confused(_scope: Any, _receive: Any, send: Any) -> None:
            try:
                for kind in kinds:
                    await send({"type": kind, "status": 200, "headers": []})
            except RuntimeError as error:
                failures.append(error)

        await raw(confused, request())
        assert len(failures) == 1

    @staticmethod
    async def _code(app: Any) -> str | None:
        async with listening(app) as listener, connected(listener) as client:
            await client.send(request() + PROBE)
            (answer,) = await client.answers()
            assert b"secret" not in answer.body
            return answer.code


class TestCutting:
    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"9")]])
    async def test_aborted_response_is_incomplete_to_the_client(self, headers: list[tuple[bytes, bytes]]) -> None:
        async def aborting(scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            scope["extensions"]["gateway.client"].abort()
            await send({"type": "http.response.body", "body": b"too late"})

        sent = await raw(aborting, request() + PROBE)
        assert b"too late" not in sent
        assert not sent.endswith(b"0\r\n\r\n")


async def test_pipelined_responses_keep_their_order() -> None:
    async def echo(_scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await respond(send, 200, message["body"])

    async with listening(echo) as listener, connected(listener) as client:
        await client.send(b"".join(post(b"Content-Length: 3", body=b"%03d" % number) for number in range(100)) + PROBE)
        assert [each.body for each in await client.answers()] == [*(b"%03d" % number for number in range(100)), b""]


def date_of(sent: bytes) -> bytes:
    start = sent.index(b"date: ")
    return sent[start : sent.index(b"\r\n", start) + 2]
