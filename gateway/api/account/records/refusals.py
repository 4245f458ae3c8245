"""What was refused of the caller's requests, and why."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.account.dependencies import AccountDependencies, DependenciesDep, Me
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.pages import PageModel, RequestModel, ResponseModel
from gateway.clock import now
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.ledger.usage import refusals

router = APIRouter(prefix="/me", tags=["usage"], responses=SIGNED_IN)


class Refused(ResponseModel):
    """Requests of your keys to a route that were refused for the same reason; none of them cost anything."""

    endpoint: str
    code: str = Field(examples=["insufficient_credits"])
    meaning: str
    remedy: str
    count: int
    last_at: datetime = Field(description="The minute of the last one.")


class RefusalQuery(RequestModel):
    days: Annotated[int, Field(ge=1, le=90, description="How many days back.")] = 30
    limit: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50


@router.get("/refusals", summary="What was refused, and why")
async def list_refusals(
    query: Annotated[RefusalQuery, Query()], me: Me, dependencies: DependenciesDep
) -> PageModel[Refused]:
    """By route and reason, the most frequent first, some seconds behind the requests. Not those without a key."""
    return PageModel(data=await refused_calls(me.id, dependencies, query=query), next_cursor=None)


async def refused_calls(user_id: UUID, dependencies: AccountDependencies, *, query: RefusalQuery) -> list[Refused]:
    since = now() - timedelta(days=query.days)
    async with dependencies.database.read() as connection:
        found = await refusals.list_for_user(connection, user_id, since=since, limit=query.limit)
    return [_explained(each) for each in found]


def _explained(found: refusals.RefusalCount) -> Refused:
    known = PROBLEM_TYPES.get(found.code)
    return Refused(
        endpoint=found.endpoint,
        code=found.code,
        meaning=known.meaning if known else "",
        remedy=known.remedy if known else "",
        count=found.count,
        last_at=found.last_at,
    )
