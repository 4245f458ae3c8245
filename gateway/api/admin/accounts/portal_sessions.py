"""Portal sessions: a link that signs a user in to the portal, for a product with logins of its own."""

from __future__ import annotations

from datetime import datetime
from secrets import token_bytes
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from gateway.api import hand_over
from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.errors import Conflict, Invalid
from gateway.api.hand_over import HandedOver, HandOverCodes
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.fields import Line
from gateway.api.schemas.pages import RequestModel, ResponseModel
from gateway.ledger.accounts import login_sessions, users
from gateway.ledger.db.errors import NotFound
from policies.access.tokens import REFRESH_BYTES, digest, refresh_token
from policies.model import AccountStatus

router = APIRouter(prefix="/portal-sessions", tags=["users"])


class NewPortalSession(RequestModel):
    user_id: UUID
    return_url: str | None = Field(
        default=None,
        max_length=2000,
        examples=["https://app.example.com/settings"],
        description="Where the portal leads back to; of `portal.return_origins`, where those are configured.",
    )
    reason: Line | None = Field(default=None, description="Stands in the audit log.")


class PortalSession(ResponseModel):
    url: str = Field(description="Send the user's browser there. Good once.")
    expires_at: datetime = Field(description="Until when the link is good; the session then lasts 8 hours.")


@router.post("", status_code=201, summary="Sign a user in to the portal", responses=UNKNOWN | CONFLICTS)
async def create_portal_session(
    body: NewPortalSession, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep
) -> PortalSession:
    """For a product that knows who its user is: no second password."""
    if dependencies.portal_url is None:
        raise Conflict("This process does not know the address of the portal; set portal.url.")
    if body.return_url is not None and not hand_over.is_allowed(body.return_url, dependencies.return_origins):
        raise Invalid("return_url", "must be an http(s) URL of a site that portal.return_origins lists")
    secret, expires_at = refresh_token(token_bytes(REFRESH_BYTES)), hand_over.expires_at()
    async with unit_of_work.change() as change:
        user = await users.get(change.connection, body.user_id)
        if user is None:
            raise NotFound("user", body.user_id)
        if user.status is AccountStatus.SUSPENDED:
            raise Conflict("This user is suspended.")
        await login_sessions.create(
            change.connection, user.id, token_hash=digest(secret), expires_at=expires_at, address=None
        )
        await change.record("portal.hand_over", "user", entity_id=user.id, reason=body.reason)
    code = HandOverCodes(dependencies.peppers).sign(HandedOver(secret, body.return_url))
    return PortalSession(url=f"{dependencies.portal_url}/portal/enter?code={code}", expires_at=expires_at)
