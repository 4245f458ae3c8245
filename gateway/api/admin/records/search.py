"""Search: one box for whatever an operator has in hand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.schemas.fields import Line
from gateway.api.schemas.pages import PageModel, RequestModel, ResponseModel
from gateway.ledger.accounts import search
from gateway.ledger.accounts.search import Kind
from policies.access import keys

router = APIRouter(prefix="/search", tags=["search"])


class SearchHit(ResponseModel):
    kind: Kind
    id: UUID
    user_id: UUID | None = Field(description="Whose it is; null for a webhook event.")
    title: str
    detail: str
    created_at: datetime


class SearchQuery(RequestModel):
    q: Annotated[
        Line,
        Field(
            min_length=2,
            examples=["holt"],
            description="A word of an address, name or company, or its beginning; the shown beginning or the last 4 of "
            "a key; an external id; any id; the number of an invoice; an id of a payment provider.",
        ),
    ]
    limit: Annotated[int, Field(ge=1, le=50, description="How many at most of each kind of clue.")] = 10


@router.get("", summary="Find accounts, keys, calls, invoices and payments by what is at hand")
async def find(
    query: Annotated[SearchQuery, Query()], unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep
) -> PageModel[SearchHit]:
    """Exact matches first, all on one page. A whole key is looked for by what is shown of it."""
    wanted = query.q
    if keys.is_well_formed(dependencies.key_prefix, wanted.strip().encode()):
        wanted = keys.recognised(dependencies.key_prefix, wanted.strip()).prefix
    async with unit_of_work.read() as connection:
        hits = await search.find(connection, wanted, limit=query.limit)
    return PageModel[SearchHit](data=[SearchHit.model_validate(hit) for hit in hits], next_cursor=None)
