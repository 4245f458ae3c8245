"""Where payment providers report: what they signed is stored before they are told that it arrived, then acted on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request

from gateway import metrics
from gateway.api.account.dependencies import DependenciesDep
from gateway.api.checkout import PaymentsNotConfigured, TheTill, Till
from gateway.api.openapi import PAID_FOR, Responses
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.ledger.db.session import Database
from gateway.ledger.payments import webhook_events
from gateway.payments.provider import InvalidWebhook, Provider
from policies.billing.payments import LEMON_SQUEEZY_EVENTS, STRIPE_EVENTS

router = APIRouter(tags=["webhooks"], responses=PAID_FOR)

_KNOWN = STRIPE_EVENTS.keys() | LEMON_SQUEEZY_EVENTS.keys()
_REFUSED: Responses = {400: {"description": "`invalid_webhook`: not signed by the provider, or too old"}}

# Tasks that nothing refers to may be collected before they end.
_acting: set[asyncio.Task[None]] = set()


class Received(ResponseModel):
    """`is_new` false: it had come before."""

    received: bool = True
    is_new: bool


@router.post("/webhooks/stripe", summary="Where Stripe sends its events", responses=_REFUSED)
async def receive_stripe_event(request: Request, dependencies: DependenciesDep, till: TheTill) -> Received:
    return await _receive(request, dependencies.database, till, "stripe")


@router.post("/webhooks/lemon-squeezy", summary="Where Lemon Squeezy sends its events", responses=_REFUSED)
async def receive_lemon_squeezy_event(request: Request, dependencies: DependenciesDep, till: TheTill) -> Received:
    return await _receive(request, dependencies.database, till, "lemon_squeezy")


async def _receive(request: Request, database: Database, till: Till, named: str) -> Received:
    """Answers 2xx once the event is committed, and never before: what is not, the provider will send again."""
    provider = till.providers.get(named)
    if provider is None:
        raise PaymentsNotConfigured(f"This gateway takes no payments by {named}.")
    body = await request.body()
    try:
        payload = _verified(provider, body, request.headers)
        event = provider.parse(payload, digest=hashlib.sha256(body).hexdigest())
    except InvalidWebhook:
        metrics.WEBHOOK_EVENTS.labels(named, metrics.OTHER, "refused").inc()
        raise
    async with database.transaction() as connection:
        event_id = await webhook_events.receive(
            connection,
            named,
            provider_event_id=event.id,
            event_type=event.type,
            payload=payload,
            occurred_at=event.occurred_at,
            foreign=event.foreign,
        )
    label = event.type if event.type in _KNOWN else metrics.OTHER
    metrics.WEBHOOK_EVENTS.labels(named, label, "duplicate" if event_id is None else "received").inc()
    if event_id is not None and event.foreign is None:
        _act_on(till, event_id)
    return Received(is_new=event_id is not None)


def _verified(provider: Provider, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The signature is of the bytes, so they are read after it. Raises InvalidWebhook."""
    provider.verify(body, headers, now=now())
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise InvalidWebhook("the body is not JSON") from error
    if not isinstance(payload, dict):
        raise InvalidWebhook("the body is not a JSON object")
    return payload


def _act_on(till: Till, event_id: UUID) -> None:
    """At once, but not before the answer: the provider waits for that. The worker acts on what is lost here."""
    if till.act is None:
        return
    task = asyncio.ensure_future(till.act(event_id))
    _acting.add(task)
    task.add_done_callback(_acting.discard)
