"""The request, top to bottom: route, key, account, price, admission, forwarding, settlement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.clock import monotonic_seconds
from gateway.proxy import bodies
from gateway.proxy import inbound as reading
from gateway.proxy.bodies import ClientGone, PricedBody, Receive
from gateway.proxy.call import Call
from gateway.proxy.departures import Departures, client_of
from gateway.proxy.forwarding import Destination, Forwarding
from gateway.proxy.gate import Ask, Gate, Indeterminate, NotAdmitted, give_back
from gateway.proxy.inbound import Inbound, Network
from gateway.proxy.observers import FileObserver, observe_upload
from gateway.proxy.principals import Caller, Principals
from gateway.proxy.reply import Header, Reply, Send, metering_headers
from gateway.proxy.router import Match, Router
from gateway.proxy.settlement import Settler
from gateway.proxy.tally import Tally
from gateway.request_ids import uuid7
from policies.access import max_body_bytes
from policies.model import Refused, Route


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
        inbound = reading.read(scope, self._trusted_proxies)
        request_id = uuid7()
        reply = Reply(send, inbound.client_request_id or request_id)
        match: Match | None = None
        caller: Caller | None = None
        try:
            match = self._router.match(inbound.method, inbound.raw_path)
            destination = self._destinations[match.route.upstream]
            key = inbound.api_key()
            caller = await self._principals.get(key)
            caller = await self._gate.check(inbound, match, key, caller=caller)
            priced = await _read_if_priced(receive, match.route, caller)
            ticket = await self._gate.admit(_ask(request_id, inbound, match, key=key, priced=priced), caller)
        except Refused as refused:
            await self._refuse(refused, reply, inbound, match, caller)
            return
        except ClientGone:
            return
        call = Call(ticket, self._settler, received_at=received_at, files=_file_observer(match.route, inbound))
        self._tally.admitted()
        try:
            forwarding = Forwarding(call, reply, client_of(scope), self._departures)
            await forwarding.run(destination, receive, priced)
        finally:
            self._tally.settled(call, reply.status)

    def swap(self, router: Router, destinations: Mapping[str, Destination]) -> Mapping[str, Destination]:
        """Serves by a new configuration from the next request on; gives the destinations that served until now."""
        before, self._router, self._destinations = self._destinations, router, destinations
        return before

    async def _refuse(
        self, refused: Refused, reply: Reply, inbound: Inbound, match: Match | None, caller: Caller | None
    ) -> None:
        ours: list[Header] = []
        if isinstance(refused, NotAdmitted):
            ours = metering_headers(refused.caller, refused.admission, remaining=refused.admission.balance, charged=0)
        elif isinstance(refused, Indeterminate):
            self._settler.owe(give_back(refused))
        await reply.problem(refused, ours)
        route = match.route if match is not None else None
        self._tally.refused(refused, method=inbound.method, status=reply.status, route=route, caller=caller)


async def _read_if_priced(receive: Receive, route: Route, caller: Caller) -> PricedBody | None:
    subscription = caller.principal.account.subscription
    if route.price.unit != "item" or subscription is None:
        return None
    return await bodies.read_priced(receive, route.price, max_body_bytes(route, subscription.plan))


def _ask(request_id: str, inbound: Inbound, match: Match, *, key: bytes, priced: PricedBody | None) -> Ask:
    def fact(field: bytes, member: str) -> str | None:
        value = inbound.text(field)
        return priced.text(member) if value is None and priced is not None else value

    return Ask(
        request_id,
        inbound,
        match,
        key,
        items=priced.items if priced is not None else None,
        language_code=fact(b"x-language-code", "language_code"),
        category=fact(b"x-category", "category"),
        batch_id=fact(b"x-batch-id", "batch_id"),
    )


def _file_observer(route: Route, inbound: Inbound) -> FileObserver | None:
    """Uploads are looked at where analysis_history will want to know of them."""
    if route.usage_type != "analysis":
        return None
    fields = inbound.fields
    return observe_upload(
        fields.get(b"content-type", b""), fields.get(b"content-disposition", b""), fields.get(b"x-file-name", b"")
    )
