"""What the user paid, and what was given back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.api.account.dependencies import Me
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.pages import Listing, Paging, listing
from gateway.ledger.payments import payments

router = APIRouter(prefix="/me/payments", tags=["billing"], responses=SIGNED_IN)


@router.get("", summary="Your payments, refunds and disputes, newest first")
async def list_my_payments(wanted: Annotated[Paging, Query()], me: Me) -> Listing[Payment]:
    async with me.desk.read() as connection:
        page = await payments.list_payments(connection, user_id=me.id, cursor=wanted.cursor, limit=wanted.limit)
    return listing(page, Payment.model_validate)
