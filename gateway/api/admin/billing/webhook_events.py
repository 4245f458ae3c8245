"""The inbox of provider events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.checkout import CheckoutServiceDep, ProviderName
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import webhook_events

router = APIRouter(prefix="/webhook-events", tags=["payments"])


class WebhookEvent(ResponseModel):
    id: UUID
    provider: str
    provider_event_id: str
    event_type: str
    status: str = Field(description="received, processed, ignored or failed")
    attempts: int
    error_message: str | None
    occurred_at: datetime | None = Field(description="By the provider's clock.")
    next_attempt_at: datetime | None = Field(description="Of one that failed: null once it is given up.")
    processed_at: datetime | None
    created_at: datetime


class WebhookEventWithPayload(WebhookEvent):
    payload: dict[str, Any]


class WebhookEventQuery(PageQuery):
    provider: ProviderName | None = None
    status: Literal["received", "processed", "ignored", "failed"] | None = None


@router.get("", summary="List webhook events, newest first")
async def list_webhook_events(
    query: Annotated[WebhookEventQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[WebhookEvent]:
    async with unit_of_work.read() as connection:
        page = await webhook_events.list_events(connection, **query.model_dump())
    return page_of(page, WebhookEvent.model_validate)


@router.get("/{event_id}", summary="Get a webhook event with its payload", responses=UNKNOWN)
async def get_webhook_event(event_id: UUID, unit_of_work: UnitOfWorkDep) -> WebhookEventWithPayload:
    async with unit_of_work.read() as connection:
        found = await webhook_events.get(connection, event_id)
    if found is None:
        raise NotFound("webhook event", event_id)
    return WebhookEventWithPayload.model_validate(found)


@router.post("/{event_id}/replay", summary="Act on a webhook event again", responses=UNKNOWN)
async def replay_webhook_event(
    event_id: UUID, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep
) -> WebhookEvent:
    """Harmless for one that has been acted on: what it is about is fetched as it is now."""
    async with unit_of_work.change() as change:
        due = WebhookEvent.model_validate(await webhook_events.requeue(change.connection, event_id))
        await change.record("webhook_events.replay", "webhook_event", entity_id=event_id, after=due)
    if checkout_service.process_event is not None:
        await checkout_service.process_event(event_id)
    return await get_webhook_event(event_id, unit_of_work)
