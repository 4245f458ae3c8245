"""Fields and models that several endpoints of the account API share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from gateway.api.schemas.pages import ResponseModel
from policies.access import passwords
from policies.model import AccountStatus

# Any length that a former rule allowed: a later rule must lock nobody out.
Password = Annotated[str, StringConstraints(min_length=1, max_length=1024), Field(examples=["correct horse battery"])]
NewPassword = Annotated[
    str,
    StringConstraints(min_length=passwords.MIN_LENGTH, max_length=passwords.MAX_LENGTH),
    Field(examples=["correct horse battery"]),
]
Token = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TokenPair(BaseModel):
    """What a login gives. The refresh token is good once: using it gives the next one."""

    access_token: str = Field(description="For `Authorization: Bearer`.")
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of a scheme (RFC 6750)
    expires_in: int = Field(description="Seconds that the access token is good for.", examples=[900])


class Profile(ResponseModel):
    id: UUID
    email: str
    email_verified_at: datetime | None
    name: str | None
    company: str | None
    billing_address: str | None
    vat_id: str | None
    time_zone: str
    status: AccountStatus
    created_at: datetime
