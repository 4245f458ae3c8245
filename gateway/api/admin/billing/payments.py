"""Payments: charges, refunds and disputes in the state of their provider."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api import csv_export
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.api.unit_of_work import UnitOfWork
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import payment_lists, payments
from gateway.ledger.payments.payment_lists import PaymentDimension, PaymentFilter

router = APIRouter(prefix="/payments", tags=["payments"])


GroupBy = Annotated[str, StringConstraints(pattern=usage_aggregates.pattern(PaymentDimension))] | None
Sort = Annotated[str, StringConstraints(pattern=rf"^-?({'|'.join(payment_lists.SORTABLE)})$")] | None


class PaymentQuery(PageQuery):
    user_id: UUID | None = None
    transaction_type: Literal["subscription", "credits", "refund", "dispute"] | None = None
    status: Literal["pending", "completed", "failed", "refunded", "partially_refunded", "disputed"] | None = None
    provider: Line | None = Field(default=None, examples=["stripe"], description="`manual`: recorded here.")
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    currency: Line | None = Field(default=None, examples=["USD"])
    since: Instant | None = Field(default=None, alias="from", description="Processed from this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Processed before this instant.")
    sort: Sort = Field(
        default=None,
        examples=["-amount"],
        description=f"One of {', '.join(payment_lists.SORTABLE)}, descending with a leading `-`; else newest first.",
    )
    group_by: GroupBy = Field(
        default=None,
        examples=["month,provider"],
        description=f"Sums by currency instead of payments: any of {', '.join(PaymentDimension)}, separated by "
        "commas, in the order to sort by. Only of what customers paid, unless `transaction_type` or `type` says "
        "otherwise.",
    )
    format: csv_export.Format | None = Field(default=None, description="csv: all rows of the list, as `Accept` says.")

    def filter(self) -> PaymentFilter:
        return PaymentFilter(**self.model_dump(exclude={"limit", "cursor", "group_by", "sort", "format"}))


class PaymentSum(ResponseModel):
    """Payments that share what they are grouped by; null where they are not grouped by it. Days are those of UTC."""

    day: date | None
    month: date | None = Field(description="Its first day.")
    provider: str | None
    plan_id: str | None
    status: str | None
    transaction_type: str | None
    user_id: UUID | None
    currency: str
    payments: int
    amount: Decimal
    refunded_amount: Decimal
    credits_awarded: int


@router.get(
    "",
    summary="List or sum payments",
    response_model=PageModel[PaymentSum] | PageModel[Payment],
    responses=csv_export.CSV,
)
async def list_payments(
    query: Annotated[PaymentQuery, Query()], request: Request, unit_of_work: UnitOfWorkDep
) -> PageModel[PaymentSum] | PageModel[Payment] | Response:
    """Newest first unless `sort` says otherwise. As CSV with `?format=csv` or `Accept: text/csv`."""
    if query.group_by is not None:
        return await _sums(query, query.group_by, unit_of_work)

    async def page(cursor: str | None, limit: int) -> PageModel[Payment]:
        async with unit_of_work.read() as connection:
            found = await payment_lists.list_payments(
                connection, query.filter(), sort=query.sort, cursor=cursor, limit=limit
            )
        return page_of(found, Payment.model_validate)

    if csv_export.is_requested(request, query.format):
        return csv_export.stream(tuple(Payment.model_fields), page, file_name="payments.csv")
    return await page(query.cursor, query.limit)


async def _sums(query: PaymentQuery, group_by: str, unit_of_work: UnitOfWork) -> PageModel[PaymentSum]:
    by = [PaymentDimension(name) for name in dict.fromkeys(group_by.split(","))]
    async with unit_of_work.read() as connection:
        found = await payment_lists.sum_payments(connection, query.filter(), by, cursor=query.cursor, limit=query.limit)
    return page_of(found, PaymentSum.model_validate)


@router.get("/{payment_id}", summary="Get a payment", responses=UNKNOWN)
async def get_payment(payment_id: UUID, unit_of_work: UnitOfWorkDep) -> Payment:
    async with unit_of_work.read() as connection:
        return Payment.model_validate(await existing_payment(connection, payment_id))


async def existing_payment(connection: AsyncConnection, payment_id: UUID) -> payments.Payment:
    found = await payments.get(connection, payment_id)
    if found is None:
        raise NotFound("payment", payment_id)
    return found
