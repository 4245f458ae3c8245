"""The bytes of one admitted call, to the upstream and back, and the one settlement at the end of them.

The last bytes of an answer are held back until the call is settled: a client that has its answer whole can rely on the
record of it. A broken answer is cut, so that it looks broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.clock import monotonic_seconds
from gateway.http.fields import NO_FIELDS, HeaderBlock, header_block
from gateway.http.problem_types import STATUS
from gateway.http.tunnel import Tunnel
from gateway.proxy.forward.client_response import Reply, metering_block
from gateway.proxy.forward.disconnects import Client, Departures
from gateway.proxy.forward.upstream_response import answer_of
from gateway.proxy.request import websocket
from gateway.proxy.request.body import ClientGone, Receive, StreamedBody, WholeBody
from gateway.proxy.request.inbound import Inbound, request_block
from gateway.proxy.settle.call import Call
from gateway.upstream.balancer import Upstream
from gateway.upstream.errors import UpstreamError
from gateway.upstream.request_head import Request
from gateway.upstream.response import Response
from policies.access.authorization import max_body_bytes
from policies.model import Outcome, Refused


@dataclass(frozen=True, slots=True)
class Destination:
    """An upstream with the fields that the configuration sets towards it, which replace the client's own."""

    upstream: Upstream
    header_block: HeaderBlock = NO_FIELDS
    header_names: tuple[bytes, ...] = ()


class Forwarding:
    __slots__ = ("_call", "_client", "_departures", "_is_at_upstream", "_reply", "_request", "_streamed")

    def __init__(self, call: Call, reply: Reply, client: Client, departures: Departures) -> None:
        self._call = call
        self._reply = reply
        self._client = client
        self._departures = departures
        self._streamed: StreamedBody | None = None
        self._request: Request | None = None
        self._is_at_upstream = False

    async def run(self, destination: Destination, receive: Receive, body: WholeBody | None) -> None:
        """Forwards, answers and settles. What fails by a fault of ours is left to the caller to settle."""
        watch = self._departures.watch(self._client, self._is_worth_draining)
        try:
            if self._client.is_gone:
                raise ClientGone
            request = self._request = self._rendered(destination, body)
            if body is None and self._call.ticket.ask.inbound.content_length != 0:
                await self._attach_body(request, receive)
            self._call.forwarded_at = monotonic_seconds()
            self._is_at_upstream = True
            response = await destination.upstream.send(request)
            self._is_at_upstream = False
            try:
                await (self._switch(response, destination) if response.status == 101 else self._deliver(response))
            finally:
                response.close()
        except UpstreamError as error:
            self._is_at_upstream = False
            await self._fail(error)
        except ClientGone:
            await self._settle(Outcome.CLIENT_ABORTED, self._reply.status or None)
        except Refused as refused:
            await self._refuse(refused)
        except asyncio.CancelledError:
            if not watch.is_cut:
                await self._settle(Outcome.ABANDONED, None)
                raise
            await self._settle(Outcome.CLIENT_ABORTED, self._reply.status or None)
        finally:
            watch.end()

    def _is_worth_draining(self) -> bool:
        """Not while it waits for a connection: then nothing of the request has left, and nothing of it will."""
        return not self._is_at_upstream or self._request is None or self._request.is_sent

    def _rendered(self, destination: Destination, body: WholeBody | None) -> Request:
        ticket = self._call.ticket
        inbound = ticket.ask.inbound
        request = Request(
            inbound.method.encode(),
            inbound.target,
            fields_towards(destination, inbound, ticket.caller.identity_block, ticket.ask.request_id),
        )
        if body is not None:
            request.body = body.content
            if self._call.files is not None:
                self._call.files.feed(body.content)
            self._call.request_bytes = len(body.content)
        elif ticket.ask.match.route.websocket and websocket.is_asked(ticket.ask.match.route, inbound):
            request.upgrade = websocket.PROTOCOL
        return request

    async def _attach_body(self, request: Request, receive: Receive) -> None:
        ticket = self._call.ticket
        inbound = ticket.ask.inbound
        limit = max_body_bytes(ticket.ask.match.route, ticket.subscription.plan)
        streamed = self._streamed = StreamedBody(receive, limit, self._call.files)
        here = self._client.take_body()
        # A client that expects 100 Continue gets it when the upstream is ready: the body is asked for only then.
        if here is not None:
            here = streamed.whole(here)
        elif b"expect" not in inbound.fields:
            here = await streamed.whole_if_small()
        request.body = aiter(streamed) if here is None else here
        request.content_length = inbound.content_length

    async def _deliver(self, response: Response) -> None:
        call, status = self._call, response.status
        answer = answer_of(response.head)
        call.observe_response(answer)
        if call.keeping is not None:
            call.keeping.begin(status, answer.passed, dict(response.headers).get(b"content-length"))
        chunk = response.take()
        if response.complete and call.ticket.ask.inbound.method != "HEAD":
            balance = await self._finish(status, chunk)
            await self._reply.whole(status, answer.passed, chunk, self._metering(balance, call.charged))
            return
        await self._reply.start(status, response.headers, self._metering(None, call.known_charge(status)))
        while not response.complete:
            if chunk:
                call.passed(chunk)
                await self._reply.body(chunk)
            await response.more()
            chunk = response.take()
        await self._finish(status, chunk)
        await self._reply.end(chunk)

    async def _switch(self, response: Response, destination: Destination) -> None:
        """From here on it is the client's and the upstream's own protocol; what it used is charged, whoever ends it."""
        call = self._call
        call.observe_response(answer_of(response.head))
        websocket.check_answer(call.ticket.ask.inbound, response.headers)
        if self._client.is_gone:
            raise ClientGone
        ours = self._metering(None, call.known_charge(response.status))
        client = self._reply.switch(websocket.PROTOCOL, upstream_headers=response.headers, ours=ours)
        tunnel = Tunnel(client, response.switched(), idle_timeout_seconds=destination.upstream.idle_timeout_seconds)
        try:
            try:
                await tunnel.ended()
            finally:
                call.request_bytes, call.response_bytes = tunnel.bytes_up, tunnel.bytes_down
                await self._settle(Outcome.SUCCEEDED, response.status)
            await tunnel.close()
        finally:
            tunnel.abort()

    def _finish(self, status: int, last_chunk: bytes) -> Coroutine[Any, Any, int | None]:
        self._call.passed(last_chunk)
        if self._call.keeping is not None:
            self._call.keeping.is_complete = True
        outcome = Outcome.CLIENT_ABORTED if self._client.is_gone else self._call.outcome_of(status)
        return self._settle(outcome, status)

    async def _fail(self, error: UpstreamError) -> None:
        status = self._reply.status or STATUS[error.code]
        balance = await self._settle(error.outcome, status, error_code=error.code)
        await self._answer_or_cut(Refused(error.code, error.detail), self._metering(balance, 0))

    async def _refuse(self, refused: Refused) -> None:
        """The body turned out larger than may pass, on its way."""
        status = self._reply.status or STATUS[refused.code]
        balance = await self._settle(Outcome.CLIENT_ABORTED, status, error_code=refused.code)
        await self._answer_or_cut(refused, self._metering(balance, 0), closes=True)

    async def _answer_or_cut(self, refused: Refused, ours: HeaderBlock, *, closes: bool = False) -> None:
        if self._reply.status:
            self._client.abort()
        else:
            await self._reply.problem(refused, ours, closes=closes)

    def _settle(
        self, outcome: Outcome, status: int | None, *, error_code: str | None = None
    ) -> Coroutine[Any, Any, int | None]:
        call, streamed = self._call, self._streamed
        if streamed is not None:
            call.request_bytes = streamed.size_bytes
        is_begun = self._request is not None and self._request.is_sent
        call.was_sent = is_begun and (streamed is None or streamed.is_complete)
        return call.settle(outcome, status, error_code=error_code)

    def _metering(self, balance: int | None, charged: int | None) -> HeaderBlock:
        """Where the balance after settlement is not known, it is the one after admission less what is known."""
        ticket = self._call.ticket
        if balance is None:
            balance = ticket.admission.balance + (0 if charged is None else ticket.held - charged)
        return metering_block(ticket.caller, ticket.admission, remaining=balance, charged=charged)


def fields_towards(destination: Destination, inbound: Inbound, identity: bytes, request_id: str) -> HeaderBlock:
    """All fields of a request but host and framing; `identity` are those that say who calls."""
    remembered = inbound.remembered
    if remembered.identity is not identity or remembered.upstream_block is not destination.header_block:
        passed: bytes = inbound.passed
        for name in destination.header_names:
            if b"\n" + name + b":" in b"\n" + passed:
                passed = _without(passed, name)
        remembered.block = header_block(passed + identity + inbound.way + destination.header_block)
        remembered.identity, remembered.upstream_block = identity, destination.header_block
    return HeaderBlock(remembered.block + request_block(inbound, request_id))


def _without(block: bytes, name: bytes) -> bytes:
    lines = block.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(name + b":"))
