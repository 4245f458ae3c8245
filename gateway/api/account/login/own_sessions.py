"""The caller's own sessions: which there are, and ending one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.account.dependencies import Me
from gateway.api.errors import NotFound
from gateway.api.openapi import SIGNED_IN, UNKNOWN
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.accounts import login_sessions

router = APIRouter(prefix="/me/sessions", tags=["account"], responses=SIGNED_IN)


class OwnSession(ResponseModel):
    id: UUID
    address: str | None = Field(description="Where it began.", examples=["203.0.113.7"])
    created_at: datetime
    expires_at: datetime
    is_current: bool = Field(description="Whether this request belongs to it.")


@router.get("", summary="Your sessions")
async def list_my_sessions(query: Annotated[PageQuery, Query()], me: Me) -> PageModel[OwnSession]:
    """Those that have not ended, newest first."""
    async with me.unit_of_work.read() as connection:
        page = await login_sessions.list_live(connection, me.id, cursor=query.cursor, limit=query.limit)
    return page_of(page, lambda each: _shown(each, me))


@router.delete("/{session_id}", status_code=204, summary="End one of your sessions", responses=UNKNOWN)
async def end_my_session(session_id: UUID, me: Me) -> None:
    """Its tokens are good no longer, from the next request on."""
    async with me.unit_of_work.change() as change:
        if not await login_sessions.revoke_own(change.connection, me.id, session_id):
            raise NotFound("session", session_id)
        await change.record("account.end_session", "user", entity_id=me.id)


def _shown(found: login_sessions.LiveSession, me: Me) -> OwnSession:
    return OwnSession(
        id=found.id,
        address=found.address,
        created_at=found.created_at,
        expires_at=found.expires_at,
        is_current=found.id == me.session_id,
    )
