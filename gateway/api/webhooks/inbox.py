"""Receives the webhooks of payment providers: stores what they signed before it answers, then processes it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Request

from gateway import metrics
from gateway.api.account.dependencies import DependenciesDep
from gateway.api.checkout import CheckoutService, CheckoutServiceDep
from gateway.api.openapi import PAID_FOR, UNKNOWN, Responses
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import webhook_events
from gateway.payments.provider import InvalidWebhook, Provider
from policies.billing.payments import ProviderEvent
from policies.billing.providers import PROVIDERS

router = APIRouter(tags=["webhooks"], responses=PAID_FOR)

_INVALID: Responses = {400: {"description": "`invalid_webhook`: not signed by the provider, or too old"}}
_BY_PATH_SEGMENT = {names.path_segment: names.name for names in PROVIDERS.values()}
PathSegment = Annotated[
    str, Path(alias="provider", description="The payment provider.", json_schema_extra={"enum": [*_BY_PATH_SEGMENT]})
]

# Events of providers are a dozen levels deep. What is read, stored or shown of one takes a frame or two for each level.
MAX_DEPTH = 100

# The event loop keeps only weak references to tasks.
_tasks: set[asyncio.Task[None]] = set()


class Received(ResponseModel):
    """`is_new` false: it had come before."""

    received: bool = True
    is_new: bool


@router.post("/webhooks/{provider}", summary="Where a payment provider sends its events", responses=_INVALID | UNKNOWN)
async def receive_provider_event(
    path_segment: PathSegment,
    request: Request,
    dependencies: DependenciesDep,
    checkout_service: CheckoutServiceDep,
) -> Received:
    """Answers 2xx only after the event is committed: the provider sends again whatever is not acknowledged."""
    name = _BY_PATH_SEGMENT.get(path_segment)
    if name is None:
        raise NotFound("payment provider", path_segment)
    provider = checkout_service.provider(name)
    payload, event = await _verified_event(provider, request)
    async with dependencies.database.transaction() as connection:
        event_id = await webhook_events.record(
            connection,
            name,
            provider_event_id=event.id,
            event_type=event.type,
            payload=payload,
            occurred_at=event.occurred_at,
            unrelated_reason=event.unrelated_reason,
        )
    event_type = event.type if event.type in provider.traits.event_types else metrics.OTHER
    metrics.WEBHOOK_EVENTS.labels(name, event_type, "duplicate" if event_id is None else "received").inc()
    if event_id is not None and event.unrelated_reason is None:
        _start_processing(checkout_service, event_id)
    return Received(is_new=event_id is not None)


async def _verified_event(provider: Provider, request: Request) -> tuple[dict[str, Any], ProviderEvent]:
    """Raises InvalidWebhook."""
    body = await request.body()
    try:
        payload = _verified_payload(provider, body, request.headers)
        return payload, provider.parse(payload, digest=hashlib.sha256(body).hexdigest())
    except InvalidWebhook:
        metrics.WEBHOOK_EVENTS.labels(provider.name, metrics.OTHER, "refused").inc()
        raise


def _verified_payload(provider: Provider, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Verifies the bytes before it parses them. Raises InvalidWebhook."""
    provider.verify(body, headers, now=now())
    try:
        payload = _storable(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise InvalidWebhook("the body is not JSON") from error
    if not isinstance(payload, dict):
        raise InvalidWebhook("the body is not a JSON object")
    return payload


def _storable(found: Any, *, depth: int = 0) -> Any:
    """With `?` for what PostgreSQL's jsonb cannot hold (NUL, half a surrogate pair), null for numbers without end.

    A refused event would come again for days, and the provider may have taken the text from a customer. Raises
    InvalidWebhook for what is nested deeper than any event.
    """
    if depth > MAX_DEPTH:
        raise InvalidWebhook(f"the body is nested more than {MAX_DEPTH} levels deep")
    if isinstance(found, str):
        return found.replace("\0", "?").encode(errors="replace").decode()
    if isinstance(found, dict):
        return {_storable(name): _storable(value, depth=depth + 1) for name, value in found.items()}
    if isinstance(found, list):
        return [_storable(value, depth=depth + 1) for value in found]
    return None if isinstance(found, float) and not isfinite(found) else found


def _start_processing(checkout_service: CheckoutService, event_id: UUID) -> None:
    """In a task, since the provider waits for the answer. The worker processes what is lost here."""
    if checkout_service.process_event is None:
        return
    task = asyncio.ensure_future(checkout_service.process_event(event_id))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
