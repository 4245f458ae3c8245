"""The credit ledger of the caller: every movement with the balance after it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from gateway.api import csv_export
from gateway.api.account.dependencies import AccountDependencies, DependenciesDep, Me
from gateway.api.csv_export import Format, NextPage
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.credits import movements

router = APIRouter(prefix="/me", tags=["credits"], responses=SIGNED_IN)


class OwnLedgerEntry(ResponseModel):
    """Without who made it and what they noted for themselves."""

    id: int
    created_at: datetime
    kind: str = Field(examples=["grant"])
    amount: int = Field(description="Signed: what the movement did to the balance.")
    balance_after: int
    grant_id: UUID | None
    reason: str | None


class LedgerQuery(PageQuery):
    format: Format | None = Field(
        default=None, description="csv: all of it, whatever the limit; or `Accept: text/csv`."
    )


@router.get(
    "/ledger",
    summary="Every movement of your credits",
    response_model=PageModel[OwnLedgerEntry],
    responses=csv_export.CSV,
)
async def list_ledger(
    query: Annotated[LedgerQuery, Query()], request: Request, me: Me, dependencies: DependenciesDep
) -> PageModel[OwnLedgerEntry] | Response:
    """Newest first. What calls cost is booked in batches, some seconds behind the calls."""
    page = entries(me.id, dependencies)
    if csv_export.is_requested(request, query.format):
        return as_csv(page)
    found: PageModel[OwnLedgerEntry] = await page(query.cursor, query.limit)
    return found


def entries(user_id: UUID, dependencies: AccountDependencies) -> NextPage:
    async def page(cursor: str | None, limit: int) -> PageModel[OwnLedgerEntry]:
        async with dependencies.database.read() as connection:
            found = await movements.list_ledger(connection, user_id, cursor=cursor, limit=limit)
        return page_of(found, OwnLedgerEntry.model_validate)

    return page


def as_csv(page: NextPage) -> Response:
    return csv_export.stream(tuple(OwnLedgerEntry.model_fields), page, file_name="ledger.csv")
