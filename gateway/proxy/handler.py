"""The request, top to bottom: route, key, account, price, admission, forwarding, settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from gateway.clock import monotonic_seconds
from gateway.http.fields import NO_FIELDS, HeaderBlock
from gateway.proxy.admission import idempotency
from gateway.proxy.admission.controller import Gate, NotAdmitted, ask_of
from gateway.proxy.admission.idempotency import Repeated, StoredAnswer
from gateway.proxy.admission.principals import Caller, Principals
from gateway.proxy.forward.client_response import Reply, Send, metering_block
from gateway.proxy.forward.disconnects import Client, Departures, client_of
from gateway.proxy.forward.forwarding import Destination, Forwarding
from gateway.proxy.metering.observers import observe_upload
from gateway.proxy.request import body as bodies
from gateway.proxy.request import inbound as reading
from gateway.proxy.request import websocket
from gateway.proxy.request.body import ClientGone, Receive
from gateway.proxy.request.inbound import Inbound, Network
from gateway.proxy.router import Match, Router
from gateway.proxy.settle.call import Call
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.telemetry.request_telemetry import Tally
from gateway.request_ids import uuid7
from gateway.upstream.balancer import Upstream
from policies.model import Outcome, Refused

_log = structlog.get_logger()


class Handler:
    """The ASGI application of the data plane."""

    def __init__(
        self,
        router: Router,
        destinations: Mapping[str, Destination],
        *,
        principals: Principals,
        gate: Gate,
        settler: Settler,
        tally: Tally,
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        self._router = router
        self._destinations = destinations
        self._principals = principals
        self._gate = gate
        self._settler = settler
        self._tally = tally
        self._trusted_proxies = trusted_proxies
        self._departures = Departures()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        received_at = monotonic_seconds()
        client = client_of(scope)
        inbound = reading.read(scope, self._trusted_proxies, client.note)
        request_id = uuid7()
        reply = Reply(client, send, inbound.client_request_id or request_id)
        try:
            await self._serve(inbound, reply, request_id, received_at=received_at, receive=receive, client=client)
        except Exception as error:
            _log.error("a request failed by a fault of the gateway", request_id=reply.request_id, exc_info=error)
            await reply.fault()

    async def _serve(
        self, inbound: Inbound, reply: Reply, request_id: str, *, received_at: float, receive: Receive, client: Client
    ) -> None:
        match: Match | None = None
        caller: Caller | None = None
        try:
            match = self._router.match(inbound.method, inbound.raw_path)
            if match.route.websocket:
                websocket.check(match.route, inbound)
            destination = self._destinations[match.route.upstream]
            repeats_by = idempotency.key_digest(inbound)
            key = inbound.api_key()
            sent, check = inbound.remembered, self._gate.check
            caller = self._principals.fresh(sent.digest) or await self._principals.get(key, sent)
            clearance = self._gate.clear(inbound, match, caller) or await check(inbound, match, key, caller=caller)
            plan = clearance.subscription.plan
            body = None
            if bodies.is_needed(match.route, is_compared=repeats_by is not None):
                body = await bodies.read(client.take_body(), receive, match.route, plan=plan)
            ask = ask_of(request_id, inbound, match, key=key, body=body, repeats_by=repeats_by)
            ticket = await self._gate.admit(ask, clearance)
        except Refused as refused:
            await self._refuse(refused, reply, inbound, match=match, caller=caller, received_at=received_at)
            return
        except Repeated as repeated:
            await _tell_again(repeated, reply)
            self._tally.repeated(repeated, reply, inbound=inbound, seconds=monotonic_seconds() - received_at)
            return
        except ClientGone:
            return
        call = Call(ticket, self._settler, received_at=received_at, files=observe_upload(match.route, inbound))
        self._tally.admitted()
        try:
            await Forwarding(call, reply, client, self._departures).run(destination, receive, body)
        finally:
            if not call.is_settled:
                await call.settle(Outcome.ABANDONED, None, error_code="internal_error")
            self._tally.settled(call, reply)

    def swap(self, router: Router, destinations: Mapping[str, Destination]) -> Mapping[str, Destination]:
        """Serves by a new configuration from the next request on; gives the destinations that served until now."""
        before, self._router, self._destinations = self._destinations, router, destinations
        return before

    @property
    def upstreams(self) -> list[Upstream]:
        """Those that serve now."""
        return [each.upstream for each in self._destinations.values()]

    async def close(self) -> None:
        """Closes the connections to the upstreams; calls still under way on them break off."""
        await asyncio.gather(*(each.upstream.close() for each in self._destinations.values()))

    async def _refuse(
        self,
        refused: Refused,
        reply: Reply,
        inbound: Inbound,
        *,
        match: Match | None,
        caller: Caller | None,
        received_at: float,
    ) -> None:
        ours = NO_FIELDS
        if isinstance(refused, NotAdmitted):
            ours = metering_block(refused.caller, refused.admission, remaining=refused.admission.balance, charged=0)
        await reply.problem(refused, ours)
        route = match.route if match is not None else None
        seconds = monotonic_seconds() - received_at
        self._tally.refused(refused, reply, inbound=inbound, seconds=seconds, route=route, caller=caller)


async def _tell_again(repeated: Repeated, reply: Reply) -> None:
    """The answer of the first call, with what is left by now; this one is charged nothing."""
    answer, admission = StoredAnswer.unpacked(repeated.admission.stored_response), repeated.admission
    ours = metering_block(repeated.caller, admission, remaining=admission.balance, charged=0)
    ours = HeaderBlock(ours + b"idempotency-replayed: true\r\n")
    await reply.whole(answer.status, answer.fields, answer.body, ours)
