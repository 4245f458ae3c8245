"""Automatic top-ups as the customer and the operator see them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.schemas.billing_records import Amount
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.ledger.payments import top_ups
from policies.billing.top_ups import Spent, TopUpStatus


class LastTopUp(ResponseModel):
    status: str = Field(description="pending, completed or failed")
    amount: Amount
    currency: str
    error: str | None
    created_at: datetime


class TopUp(ResponseModel):
    status: TopUpStatus = Field(
        description="off; awaiting_card: no card is saved yet; on; stopped: it failed, or the card was removed"
    )
    pack: str | None
    threshold: int | None
    price: Amount | None = Field(description="Of the pack, as it was agreed to.")
    currency: str | None
    daily_limit: Amount | None
    monthly_limit: Amount | None
    spent_today: Amount
    spent_this_month: Amount
    card: str | None = Field(examples=["visa 4242"])
    stopped_reason: str | None
    stopped_at: datetime | None
    last: LastTopUp | None


async def top_up_of(connection: AsyncConnection, user_id: UUID) -> TopUp:
    found = await top_ups.get_settings(connection, user_id)
    last = await top_ups.find_last(connection, user_id)
    spent = Spent(Decimal(0), Decimal(0)) if found is None else await top_ups.spent(connection, found, now=now())
    agreed = None if found is None or found.status is TopUpStatus.OFF else found
    return TopUp(
        status=TopUpStatus.OFF if agreed is None else agreed.status,
        pack=agreed and agreed.pack_id,
        threshold=agreed and agreed.threshold,
        price=agreed and agreed.price,
        currency=agreed and agreed.currency,
        daily_limit=agreed and agreed.daily_limit,
        monthly_limit=agreed and agreed.monthly_limit,
        spent_today=spent.today,
        spent_this_month=spent.this_month,
        card=agreed and agreed.payment_method,
        stopped_reason=agreed and agreed.stopped_reason,
        stopped_at=agreed and agreed.stopped_at,
        last=None
        if last is None
        else LastTopUp(
            status=last.status,
            amount=last.price,
            currency=last.currency,
            error=last.error_message,
            created_at=last.created_at,
        ),
    )
