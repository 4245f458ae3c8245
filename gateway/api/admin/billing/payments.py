"""Payments: charges, refunds and disputes in the state of their provider."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.pages import PageModel, PageQuery, page_of
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import payments

router = APIRouter(prefix="/payments", tags=["payments"])


class PaymentQuery(PageQuery):
    user_id: UUID | None = None
    transaction_type: Literal["subscription", "credits", "refund", "dispute"] | None = None
    status: Literal["pending", "completed", "failed", "refunded", "partially_refunded", "disputed"] | None = None


@router.get("", summary="List payments, newest first")
async def list_payments(query: Annotated[PaymentQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Payment]:
    async with unit_of_work.read() as connection:
        page = await payments.list_payments(connection, **query.model_dump())
    return page_of(page, Payment.model_validate)


@router.get("/{payment_id}", summary="Get a payment", responses=UNKNOWN)
async def get_payment(payment_id: UUID, unit_of_work: UnitOfWorkDep) -> Payment:
    async with unit_of_work.read() as connection:
        return Payment.model_validate(await existing_payment(connection, payment_id))


async def existing_payment(connection: AsyncConnection, payment_id: UUID) -> payments.Payment:
    found = await payments.get(connection, payment_id)
    if found is None:
        raise NotFound("payment", payment_id)
    return found
