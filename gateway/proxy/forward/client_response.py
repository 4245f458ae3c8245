"""The response to the client: the upstream's with the request id, limits and credits, or a problem document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gateway.http.fields import NO_FIELDS, Header, HeaderBlock
from gateway.http.problems import Problem, problem, render
from gateway.http.tunnel import Wire
from gateway.meter.admissions import Admission
from gateway.proxy.admission.caller import Caller
from gateway.proxy.forward.disconnects import Client
from gateway.proxy.forward.upstream_response import DROPPED, render_fields
from policies.access.limits import remaining as remaining_of_limits
from policies.model import Refused
from policies.wording import counted

Send = Callable[[Any], Awaitable[None]]


class ClientResponse:
    """One response to one client, under one request id."""

    __slots__ = ("_client", "_send", "request_id", "status")

    def __init__(self, client: Client, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self._client = client
        self._send = send

    def send_whole(self, status: int, fields: HeaderBlock, body: bytes, own_fields: HeaderBlock) -> None:
        """Sends all at once. `fields` are the upstream's or a problem's, as `render_fields` gives them."""
        self.status = status
        request_id = b"x-request-id: %b\r\n" % self.request_id.encode()  # of letters that `is_echoable` allows
        self._client.answer(status, HeaderBlock(fields + request_id + own_fields), body)

    async def start(self, status: int, upstream_headers: Sequence[Header], own_fields: HeaderBlock) -> None:
        headers = self._headers(upstream_headers, own_fields)
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send_chunk(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    def switch_protocol(self, protocol: bytes, *, upstream_headers: Sequence[Header], own_fields: HeaderBlock) -> Wire:
        """Sends 101, and gives the connection of the client."""
        wire = self._client.upgrade(protocol, self._headers(upstream_headers, own_fields))
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        return wire

    async def send_problem(
        self, refused: Refused, own_fields: HeaderBlock = NO_FIELDS, *, closes: bool = False
    ) -> None:
        """Sends a problem document; `closes` makes it the last response on this connection."""
        document = render(refused, self.request_id)
        if not closes:
            self._send_document(document, own_fields)
            return
        await self.start(document.status, [*document.headers, (b"connection", b"close")], own_fields)
        await self.end(document.body)

    def send_shutting_down(self, charge: int) -> None:
        """Sends 503, or cuts the connection where a response has begun. `charge` is what the call was settled at."""
        if self.status:
            self._client.abort()
            return
        detail = "The gateway stopped before the upstream had answered; this call is not charged."
        if charge:
            credits = counted(charge, "credit")
            detail = f"The gateway stopped before it had passed the answer on; this call is charged {credits}."
        document = problem("shutting_down", detail, request_id=self.request_id, extras={"retry_after": 1})
        self._send_document(document, NO_FIELDS)

    def send_internal_error(self) -> None:
        """Sends 500, or cuts the connection where a response has begun."""
        if self.status:
            self._client.abort()
            return
        detail = "The gateway failed; this call is not charged."
        self._send_document(problem("internal_error", detail, request_id=self.request_id), NO_FIELDS)

    def _send_document(self, document: Problem, own_fields: HeaderBlock) -> None:
        self.send_whole(document.status, _render_problem_fields(document.fields), document.body, own_fields)

    def _headers(self, upstream_headers: Sequence[Header], own_fields: HeaderBlock) -> list[Header]:
        headers = [header for header in upstream_headers if header[0] not in DROPPED]
        headers.append((b"x-request-id", self.request_id.encode()))
        headers += _parse(own_fields)
        return headers


def metering_block(caller: Caller, admission: Admission, *, remaining: int, charged: int | None) -> HeaderBlock:
    """RateLimit-Policy, RateLimit, X-Credits-Remaining, and X-Credits-Charged if `charged` is known."""
    left = remaining_of_limits(caller.limits, admission.used, admission.reset_seconds)
    block = caller.metering_template % (remaining, *left)
    if charged is not None:
        block += b"x-credits-charged: %d\r\n" % charged
    return HeaderBlock(block)  # of numbers and the names of windows


@lru_cache(maxsize=1024)
def _render_problem_fields(headers: tuple[Header, ...]) -> HeaderBlock:
    """Problems of one code have the same few headers, so they are checked once: a refusal costs 6 µs less."""
    return render_fields(headers)


def _parse(block: HeaderBlock) -> list[Header]:
    """A block as the list that ASGI takes."""
    fields = [line.partition(b":") for line in block.split(b"\r\n")[:-1]]
    return [(name, value.strip()) for name, _, value in fields]
