"""Forwards one admitted call to the upstream, sends the response to the client, and settles.

The last bytes of a response wait until the call is settled: a client that has its whole response can rely on the record
of it. An incomplete response is cut, so that the client sees that it is incomplete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.clock import monotonic_seconds
from gateway.http.fields import NO_FIELDS, Header, HeaderBlock, header_block
from gateway.http.problem_types import STATUS
from gateway.http.tunnel import Tunnel
from gateway.proxy.forward.client_response import ClientResponse, metering_block
from gateway.proxy.forward.disconnects import Client, DisconnectWatch, Drains
from gateway.proxy.forward.measured_request import adapt, readable_fields
from gateway.proxy.forward.redirects import Origins
from gateway.proxy.forward.upstream_response import PASS_ALL, ResponsePolicy, read_head, render_fields
from gateway.proxy.request import websocket
from gateway.proxy.request.body import ClientDisconnected, Receive, StreamedBody, WholeBody, form_scan
from gateway.proxy.request.inbound import Inbound, tracing_block
from gateway.proxy.settle.active_call import ActiveCall
from gateway.upstream.balancer import Upstream
from gateway.upstream.errors import UpstreamError
from gateway.upstream.request_head import Request, has_host
from gateway.upstream.response import Response
from policies.model import Outcome, Refused

STREAMED_FROM_BYTES = 32 * 1024
# What the gateway says of each request, unless the configuration says it.
_GENERATED = frozenset(
    (
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via"),
        *(b"x-request-id", b"traceparent", b"tracestate"),
    )
)


@dataclass(frozen=True, slots=True)
class Destination:
    """An upstream, and the fields that the configuration sets towards it, which replace the client's.

    `passed_names` are fields that are withheld from upstreams which do not allow them. `asks_for_usage` is whether a
    stream may ask it to report its usage, `passes_authorization` whether it gets the credentials that a client sends
    besides its key, `passes_host` whether it gets their Host, and `response_policy` what is believed and passed on of
    its responses. `origins` are what its redirects may call itself by.
    """

    upstream: Upstream
    header_block: HeaderBlock = NO_FIELDS
    header_names: tuple[bytes, ...] = ()
    asks_for_usage: bool = True
    passed_names: frozenset[bytes] = frozenset()
    passes_authorization: bool = False
    response_policy: ResponsePolicy = PASS_ALL
    origins: Origins = Origins()  # noqa: RUF009 - immutable
    passes_host: bool = False


class Forwarding:
    __slots__ = (
        "_admitted_call",
        "_call",
        "_client",
        "_client_response",
        "_drains",
        "_is_at_upstream",
    )

    def __init__(self, call: ActiveCall, response: ClientResponse, client: Client, drains: Drains) -> None:
        self._call = call
        self._admitted_call = call.admitted_call
        self._client_response = response
        self._client = client
        self._drains = drains
        self._is_at_upstream = False

    async def run(self, destination: Destination, receive: Receive, body: WholeBody | None) -> None:
        """Forwards, responds and settles, also after an unexpected exception."""
        watch = DisconnectWatch(self._drains, self._client, self._observe_disconnect)
        try:
            if self._client.is_disconnected:
                raise ClientDisconnected
            request = self._call.request = self._render(destination, body)
            if body is None and self._admitted_call.inbound.content_length != 0:
                await self._attach_body(request, receive)
            self._call.forwarded_at = monotonic_seconds()
            self._is_at_upstream = True
            response = await destination.upstream.send(request)
            self._is_at_upstream = False
            try:
                await (
                    self._switch(response, destination)
                    if response.status == 101
                    else self._deliver(response, destination)
                )
            finally:
                if not response.complete:
                    response.close()
        except UpstreamError as error:
            self._is_at_upstream = False
            await self._fail(error)
        except ClientDisconnected:
            await self._call.settle(Outcome.CLIENT_ABORTED, self._client_response.status or None)
        except Refused as refused:
            await self._refuse(refused)
        except asyncio.CancelledError:
            if not watch.is_cancelled:
                await self._call.settle(Outcome.ABANDONED, None)
                self._client_response.send_shutting_down(self._call.charge)
                raise
            await self._call.settle(Outcome.CLIENT_ABORTED, self._client_response.status or None)
        finally:
            watch.end()
            if not self._call.is_settled:
                await self._call.settle(Outcome.ABANDONED, None, error_code="internal_error")

    def _observe_disconnect(self) -> bool:
        """Notes what the client had; tells whether the call is worth draining.

        It is not while the request waits for a connection: nothing of it is sent then, and nothing will be.
        """
        call = self._call
        call.observe_disconnect()
        return not self._is_at_upstream or call.request is None or call.request.is_sent

    def _render(self, destination: Destination, body: WholeBody | None) -> Request:
        call, admitted_call = self._call, self._admitted_call
        inbound = admitted_call.inbound
        request = Request(
            inbound.method.encode(),
            admitted_call.upstream_path + b"?" + inbound.query if inbound.query else admitted_call.upstream_path,
            render_request_fields(destination, inbound, admitted_call.caller.identity_block, admitted_call.request_id),
        )
        request.account, request.has_host = admitted_call.caller.keys.account, inbound.cache.has_host
        if body is not None:
            request.body = body.content
            if call.file_observer is not None:
                call.file_observer.feed(body.content)
            call.request_bytes = len(body.content)
            if not call.route.price.is_fixed:
                adapted = adapt(
                    request.header_block, body.content, body.asked, asks_for_usage=destination.asks_for_usage
                )
                request.header_block, request.body, call.hides_usage = adapted
        elif call.route.websocket and websocket.is_upgrade(call.route, inbound):
            request.upgrade = websocket.PROTOCOL
        elif not call.route.price.is_fixed:
            request.header_block = readable_fields(request.header_block)
        return request

    async def _attach_body(self, request: Request, receive: Receive) -> None:
        inbound, limit, observer = (
            self._admitted_call.inbound,
            self._admitted_call.max_body_bytes,
            self._call.file_observer,
        )
        streamed = self._call.upload = StreamedBody(receive, limit, observer, scan=form_scan(inbound))
        content = self._client.take_body()
        # A slow upload takes no connection from others: it leases one when it is whole, or large enough to stream.
        if content is not None:
            streamed.pass_whole(content)
        else:
            content = await streamed.read_if_small(STREAMED_FROM_BYTES)
        request.body = aiter(streamed) if content is None else content
        request.content_length = inbound.content_length

    async def _deliver(self, response: Response, destination: Destination) -> None:
        call, status, policy = self._call, response.status, destination.response_policy
        upstream_response = read_head(response.head, policy)
        call.observe_response(upstream_response)
        fields, sent_headers = upstream_response.fields, response.headers
        if upstream_response.leads_elsewhere:
            sent_headers = destination.origins.public(sent_headers, call.route.strip_prefix)
            fields = render_fields(policy.passed(sent_headers))
        if call.capture is not None:
            call.capture.begin(status, fields, dict(response.headers).get(b"content-length"))
        chunk = response.take()
        is_whole = response.complete and self._admitted_call.inbound.method != "HEAD"
        if not is_whole:
            headers = policy.passed(_without_length(sent_headers) if call.hides_usage else sent_headers)
            await self._client_response.start(status, headers, self._metering(None, call.known_charge(status)))
            response.on_failure = self._cut_slow_client
            while not response.complete:
                if chunk and (chunk := call.observe_chunk(chunk)):
                    await self._client_response.send_chunk(chunk)
                chunk = b""  # which would stay in memory for as long as the next one does not come
                await response.wait_for_more()
                chunk = response.take()
        chunk = call.observe_end(chunk)
        balance = await call.settle(Outcome.CLIENT_ABORTED if self._client.is_disconnected else None, status)
        if is_whole:
            self._client_response.send_whole(status, fields, chunk, self._metering(balance, call.charge))
        else:
            await self._client_response.end(chunk)

    def _cut_slow_client(self, error: BaseException) -> None:
        """Ends the wait for a client that takes nothing, which nothing else would end."""
        if isinstance(error, UpstreamError) and error.outcome is Outcome.CLIENT_ABORTED:
            self._client.abort()

    async def _switch(self, response: Response, destination: Destination) -> None:
        """Connects the client and the upstream by a tunnel. What it used is charged, whoever ends it."""
        call = self._call
        policy = destination.response_policy
        call.observe_response(read_head(response.head, policy))
        websocket.check_response(self._admitted_call.inbound, response.headers)
        if self._client.is_disconnected:
            raise ClientDisconnected
        metering = self._metering(None, call.known_charge(response.status))
        client = self._client_response.switch_protocol(
            websocket.PROTOCOL, upstream_headers=policy.passed(response.headers), own_fields=metering
        )
        tunnel = Tunnel(client, response.hand_over(), idle_timeout_seconds=destination.upstream.idle_timeout_seconds)
        try:
            try:
                await tunnel.ended()
            finally:
                call.request_bytes, call.response_bytes = tunnel.bytes_up, tunnel.bytes_down
                await call.settle(Outcome.SUCCEEDED, response.status)
            await tunnel.close()
        finally:
            tunnel.abort()

    async def _fail(self, error: UpstreamError) -> None:
        status = self._client_response.status or STATUS[error.code]
        code = None if error.outcome is Outcome.CLIENT_ABORTED else error.code
        balance = await self._call.settle(error.outcome, status, error_code=code)
        await self._send_problem_or_cut(Refused(error.code, error.detail), self._metering(balance, self._call.charge))

    async def _refuse(self, refused: Refused) -> None:
        """Ends a call whose body turned out too large, or is a form that holds a key."""
        begun = self._client_response.status
        balance = await self._call.settle(
            Outcome.CLIENT_ABORTED, begun or STATUS[refused.code], error_code=refused.code, is_refused=not begun
        )
        await self._send_problem_or_cut(refused, self._metering(balance, 0), closes=True)

    async def _send_problem_or_cut(self, refused: Refused, metering: HeaderBlock, *, closes: bool = False) -> None:
        if self._client_response.status:
            self._client.abort()
        else:
            await self._client_response.send_problem(refused, metering, closes=closes)

    def _metering(self, balance: int | None, charged: int | None) -> HeaderBlock:
        """Where the balance after settlement is unknown, it is computed from the one at admission."""
        call = self._admitted_call
        if balance is None:
            balance = call.admission.balance + (0 if charged is None else call.quote.hold - charged)
        block = metering_block(call.caller, call.admission, remaining=balance, charged=charged)
        return HeaderBlock(block + b"gateway-mode: float\r\n") if call.is_on_outage_credit else block


def render_request_fields(
    destination: Destination, inbound: Inbound, identity_block: HeaderBlock, request_id: str
) -> HeaderBlock:
    """All fields towards the upstream except framing, and Host where the upstream gets its own."""
    cache = inbound.cache
    if cache.identity_block is not identity_block or cache.destination is not destination:
        end_to_end: bytes = inbound.end_to_end
        if allowed := [b"%b: %b\r\n" % field for field in inbound.withheld if field[0] in destination.passed_names]:
            end_to_end += header_block(b"".join(allowed))
        if destination.passes_authorization:
            end_to_end += inbound.credentials
        if destination.passes_host and (host := inbound.fields.get(b"host")):
            end_to_end += header_block(b"host: %b\r\n" % host)
        for name in destination.header_names:
            if b"\n" + name + b":" in b"\n" + end_to_end:
                end_to_end = _without(end_to_end, name)
        cache.request_block = HeaderBlock(end_to_end + identity_block + destination.header_block)
        cache.has_host = has_host(cache.request_block)
        if not _GENERATED.isdisjoint(destination.header_names):
            cache.destination = None  # what the gateway generates differs with each request
            generated: bytes = inbound.forwarded_headers + tracing_block(inbound, request_id)
            for name in destination.header_names:
                generated = _without(generated, name)
            return HeaderBlock(cache.request_block + generated)
        cache.identity_block, cache.destination = identity_block, destination
    return HeaderBlock(cache.request_block + inbound.forwarded_headers + tracing_block(inbound, request_id))


def _without_length(headers: Sequence[Header]) -> list[Header]:
    return [field for field in headers if field[0] != b"content-length"]


def _without(block: bytes, name: bytes) -> bytes:
    lines = block.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(name + b":"))
