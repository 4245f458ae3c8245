"""What the user paid, and what was given back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.api.account.dependencies import Me
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.pages import PageModel, PageQuery, page_of
from gateway.ledger.payments import payments

router = APIRouter(prefix="/me/payments", tags=["billing"], responses=SIGNED_IN)


@router.get("", summary="Your payments, refunds and disputes, newest first")
async def list_my_payments(wanted: Annotated[PageQuery, Query()], me: Me) -> PageModel[Payment]:
    async with me.unit_of_work.read() as connection:
        page = await payments.list_payments(connection, user_id=me.id, cursor=wanted.cursor, limit=wanted.limit)
    return page_of(page, Payment.model_validate)
