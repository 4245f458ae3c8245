"""The request, top to bottom: route, key, account, price, admission, forwarding, settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog

from gateway.clock import monotonic_seconds
from gateway.http.fields import NO_FIELDS, HeaderBlock, header_block
from gateway.proxy import models
from gateway.proxy.admission import idempotency
from gateway.proxy.admission.admitted_call import build_admission_request
from gateway.proxy.admission.caller import Authorization, Caller
from gateway.proxy.admission.controller import AdmissionController, NotAdmitted
from gateway.proxy.admission.idempotency import IdempotentReplay, StoredResponse
from gateway.proxy.admission.principal_cache import PrincipalCache
from gateway.proxy.forward.client_response import ClientResponse, Send, metering_block
from gateway.proxy.forward.disconnects import Client, Drains
from gateway.proxy.forward.forwarding import Destination, Forwarding
from gateway.proxy.request import body as bodies
from gateway.proxy.request import websocket
from gateway.proxy.request.api_keys import DEFAULT_FORM, KeyForm
from gateway.proxy.request.body import ClientDisconnected, Receive, WholeBody
from gateway.proxy.request.held_bodies import HeldBodies, HeldBody
from gateway.proxy.request.inbound import Inbound, Network, read_request
from gateway.proxy.request.uploads import observe_upload
from gateway.proxy.router import RouteMatch, Router
from gateway.proxy.settle.active_call import ActiveCall
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.telemetry.request_telemetry import RequestTelemetry
from gateway.request_ids import uuid7
from gateway.upstream.balancer import Upstream
from policies.model import Refused, Route

_log = structlog.get_logger()


class Handler:
    """The ASGI application of the data plane."""

    def __init__(
        self,
        router: Router,
        destinations: Mapping[str, Destination],
        *,
        principals: PrincipalCache,
        admission: AdmissionController,
        settler: Settler,
        telemetry: RequestTelemetry,
        held_bodies: HeldBodies,
        trusted_proxies: Sequence[Network] = (),
        key_form: KeyForm = DEFAULT_FORM,
    ) -> None:
        self._router = router
        self._destinations = destinations
        self._principals = principals
        self._admission = admission
        self._settler = settler
        self.telemetry = telemetry
        self._held_bodies = held_bodies
        self._trusted_proxies = trusted_proxies
        self._key_form = key_form
        self._drains = Drains()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        received_at = monotonic_seconds()
        client: Client = scope["extensions"]["gateway.client"]
        inbound = read_request(scope, self._trusted_proxies, client, key_form=self._key_form)
        request_id = uuid7()
        response = ClientResponse(client, send, inbound.client_request_id or request_id)
        held: list[HeldBody] = []
        try:
            admitted = await self._admit(
                inbound, response, request_id, received_at=received_at, receive=receive, client=client, held=held
            )
            if admitted is None:
                return
            call, destination, body = admitted
            self.telemetry.admitted.add(1)
            try:
                await Forwarding(call, response, client, self._drains).run(destination, receive, body)
            except Exception as error:
                _answer_fault(error, response)
            finally:
                self.telemetry.record_settled(call, response)
        except ClientDisconnected:
            return  # before its body was whole: nothing was admitted
        except Exception as error:
            _answer_fault(error, response)
            seconds, route = monotonic_seconds() - received_at, self._route_of(inbound)
            self.telemetry.record_failed(response, inbound=inbound, seconds=seconds, route=route)
        finally:
            for each in held:
                each.release()

    async def _admit(
        self,
        inbound: Inbound,
        response: ClientResponse,
        request_id: str,
        *,
        received_at: float,
        receive: Receive,
        client: Client,
        held: list[HeldBody],
    ) -> tuple[ActiveCall, Destination, WholeBody | None] | None:
        """The admitted call, where it goes, and its body if that was read; None where it is answered already."""
        match: RouteMatch | None = None
        caller: Caller | None = None
        try:
            match = self._router.match(inbound.method, inbound.raw_path)
            if match.route.websocket:
                websocket.check_handshake(match.route, inbound)
            destination = self._destinations.get(match.route.upstream)
            key_digest = idempotency.key_digest(inbound) if b"idempotency-key" in inbound.fields else None
            cache, admission = inbound.cache, self._admission
            key = cache.key or inbound.api_key(is_websocket_route=match.route.websocket)
            caller = self._principals.find_fresh(cache.key_digest)
            if caller is None:
                caller = await self._principals.get(key, cache, address=inbound.client_ip)
                # Such a request is read whole each time, so its cache knows no caller.
                destination = None if inbound.is_at_last_hop else destination
            # Where no admission follows, nothing else notices that the cached caller is old.
            authorization = None if destination is None else admission.authorize_cached(inbound, match, caller)
            if authorization is None:
                authorization = await admission.authorize(inbound, match, key, caller=caller)
            if destination is None:
                self._serve(match, authorization, response, inbound, received_at=received_at)
                return None
            body = None
            if bodies.is_needed(match, inbound, is_compared=key_digest is not None):
                if bodies.has_unknown_size(inbound):  # it is measured by the plan, which must be the present one
                    authorization = await admission.authorize(inbound, match, key, caller=caller)
                arrived = client.take_body()
                if key_digest is None and bodies.is_awaited(inbound, arrived):
                    await admission.check_before_body(authorization, key)
                content = await self._receive(receive, authorization, held=held) if arrived is None else arrived
                body = await bodies.read_whole(content, match, inbound, max_bytes=authorization.max_body_bytes)
            admission_request = build_admission_request(
                request_id, inbound, match, key=key, body=body, key_digest=key_digest
            )
            # Not after the admission: whatever fails behind it leaves a hold that nobody settles.
            file_observer = observe_upload(inbound) if match.route.usage_type == "analysis" else None
            admitted_call = await admission.admit(admission_request, authorization)
        except Refused as refused:
            await self._refuse(refused, response, inbound, match=match, caller=caller, received_at=received_at)
            return None
        except IdempotentReplay as replay:
            self._replay(replay, response, inbound, received_at=received_at)
            return None
        call = ActiveCall(admitted_call, self._settler, received_at=received_at, file_observer=file_observer)
        return call, destination, body

    async def _receive(self, receive: Receive, authorization: Authorization, *, held: list[HeldBody]) -> bytes:
        held.append(self._held_bodies.open(authorization.caller.account_id))
        return await bodies.receive_whole(receive, max_bytes=authorization.max_body_bytes, held=held[0])

    def swap(self, router: Router, destinations: Mapping[str, Destination]) -> Mapping[str, Destination]:
        """Serves by a new configuration from the next request on; gives the destinations that served until now."""
        before, self._router, self._destinations = self._destinations, router, destinations
        return before

    def allowed_methods(self, raw_path: bytes) -> str | None:
        """The methods of a path, as `Allow` lists them; None where no route has it."""
        return self._router.allowed_methods(raw_path)

    @property
    def upstreams(self) -> list[Upstream]:
        """The upstreams of the present configuration."""
        return [each.upstream for each in self._destinations.values()]

    async def close(self) -> None:
        """Closes the connections to the upstreams; calls still under way on them break off."""
        await asyncio.gather(*(each.upstream.close() for each in self._destinations.values()))

    def _route_of(self, inbound: Inbound) -> Route | None:
        try:
            return self._router.match(inbound.method, inbound.raw_path).route
        except Refused:
            return None

    async def _refuse(
        self,
        refused: Refused,
        response: ClientResponse,
        inbound: Inbound,
        *,
        match: RouteMatch | None,
        caller: Caller | None,
        received_at: float,
    ) -> None:
        metering = NO_FIELDS
        if isinstance(refused, NotAdmitted):
            metering = metering_block(refused.caller, refused.admission, remaining=refused.admission.balance, charged=0)
        await response.send_problem(refused, metering)
        route = match.route if match is not None else None
        seconds = monotonic_seconds() - received_at
        self.telemetry.record_refused(refused, response, inbound=inbound, seconds=seconds, route=route, caller=caller)

    def _serve(
        self,
        match: RouteMatch,
        authorization: Authorization,
        response: ClientResponse,
        inbound: Inbound,
        *,
        received_at: float,
    ) -> None:
        """Answers what the caller may use, or an OPTIONS that may go no further (RFC 9110 section 7.6.2).

        It is no call: nothing is counted, charged or recorded.
        """
        if match.route.serves_models:
            body = models.render(match.route, authorization.plan, match.path)
            response.send_whole(HTTPStatus.OK, models.FIELDS, body, NO_FIELDS)
        else:
            allow = header_block(f"allow: {self._router.allowed_methods(inbound.raw_path)}\r\n".encode())
            response.send_whole(HTTPStatus.NO_CONTENT, allow, b"", NO_FIELDS)
        seconds, caller = monotonic_seconds() - received_at, authorization.caller
        self.telemetry.record_served(match.route, caller, response, inbound=inbound, seconds=seconds)

    def _replay(
        self, replay: IdempotentReplay, response: ClientResponse, inbound: Inbound, *, received_at: float
    ) -> None:
        """Sends the response of the first call, with the balance of now; the replay is charged nothing."""
        stored, admission = StoredResponse.unpacked(replay.admission.stored_response), replay.admission
        metering = metering_block(replay.caller, admission, remaining=admission.balance, charged=0)
        fields = HeaderBlock(metering + b"idempotency-replayed: true\r\n")
        response.send_whole(stored.status, stored.fields, stored.body, fields)
        seconds = monotonic_seconds() - received_at
        self.telemetry.record_replayed(replay, response, inbound=inbound, seconds=seconds)


def _answer_fault(error: Exception, response: ClientResponse) -> None:
    """Answers a fault of the gateway itself; a response that has begun is cut."""
    _log.error("request_failed", request_id=response.request_id, exc_info=error)
    response.send_internal_error()
