"""What the client is told besides the upstream's answer: ids, limits, credits, and problems in place of an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gateway.http.fields import NO_FIELDS, HeaderBlock
from gateway.http.problems import Problem, problem, render
from gateway.http.tunnel import Wire
from gateway.meter.admissions import Admission
from gateway.proxy.admission.outage_credit import FLOATING
from gateway.proxy.admission.principals import Caller
from gateway.proxy.forward.disconnects import Client
from gateway.proxy.forward.upstream_response import DROPPED, passed_block
from policies.access.limits import remaining as remaining_of_limits
from policies.model import Refused

Send = Callable[[Any], Awaitable[None]]
Header = tuple[bytes, bytes]


class Reply:
    """One response to one client, under one request id."""

    __slots__ = ("_client", "_send", "request_id", "status")

    def __init__(self, client: Client, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self._client = client
        self._send = send

    async def whole(self, status: int, fields: HeaderBlock, body: bytes, ours: HeaderBlock) -> None:
        """Answers all at once. `fields` are the upstream's or a problem's, as `passed_block` gives them."""
        if self._client.answer is None:
            await self.start(status, [*_listed(fields), (b"content-length", b"%d" % len(body))], ours)
            await self.end(body)
            return
        self.status = status
        own = b"x-request-id: %b\r\n" % self.request_id.encode()  # of letters that `is_echoable` allows
        self._client.answer(status, HeaderBlock(fields + own + ours), body)

    async def start(self, status: int, upstream_headers: Sequence[Header], ours: HeaderBlock) -> None:
        headers = self._headers(upstream_headers, ours)
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    def switch(self, protocol: bytes, *, upstream_headers: Sequence[Header], ours: HeaderBlock) -> Wire:
        """Answers 101, and gives the connection of the client."""
        wire = self._client.upgrade(protocol, self._headers(upstream_headers, ours))
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        return wire

    def problem(
        self, refused: Refused, ours: HeaderBlock = NO_FIELDS, *, closes: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Says why there is no other answer; with `closes`, that it is the last on this connection."""
        answer = render(refused, self.request_id)
        return self._last(answer, ours) if closes else self._problem(answer, ours)

    async def fault(self) -> None:
        """Says that the gateway failed, as far as it can still be said."""
        if self.status:
            self._client.abort()
            return
        answer = problem("internal_error", "The gateway failed; this call is not charged.", request_id=self.request_id)
        await self._problem(answer, NO_FIELDS)

    def _problem(self, answer: Problem, ours: HeaderBlock) -> Coroutine[Any, Any, None]:
        return self.whole(answer.status, _block_of(answer.fields), answer.body, ours)

    async def _last(self, answer: Problem, ours: HeaderBlock) -> None:
        await self.start(answer.status, [*answer.headers, (b"connection", b"close")], ours)
        await self.end(answer.body)

    def _headers(self, upstream_headers: Sequence[Header], ours: HeaderBlock) -> list[Header]:
        headers = [header for header in upstream_headers if header[0] not in DROPPED]
        headers.append((b"x-request-id", self.request_id.encode()))
        headers += _listed(ours)
        return headers


def metering_block(caller: Caller, admission: Admission, *, remaining: int, charged: int | None) -> HeaderBlock:
    """RateLimit-Policy, RateLimit, X-Credits-Remaining, and X-Credits-Charged where it is known."""
    left = remaining_of_limits(caller.limits, admission.used, admission.reset_seconds)
    block = caller.metering_template % (remaining, *left)
    if admission.epoch == FLOATING:
        block += b"gateway-mode: float\r\n"
    if charged is not None:
        block += b"x-credits-charged: %d\r\n" % charged
    return HeaderBlock(block)  # of numbers and the names of windows


@lru_cache(maxsize=1024)
def _block_of(headers: tuple[Header, ...]) -> HeaderBlock:
    """Problems of one code have the same few headers, so they are checked once: 6 µs less a refusal."""
    return passed_block(headers)


def _listed(block: HeaderBlock) -> list[Header]:
    """A block as ASGI has it."""
    fields = [line.partition(b":") for line in block.split(b"\r\n")[:-1]]
    return [(name, value.strip()) for name, _, value in fields]
