"""Models of API keys, the same in both APIs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.errors import Invalid
from gateway.api.schemas.fields import Count, Credits, FutureInstant, Instant, Line, Network, Word
from gateway.api.schemas.pages import PatchModel, RequestModel, ResponseModel, unset
from gateway.clock import now
from gateway.ledger.accounts import api_keys
from gateway.ledger.catalogue import permissions

ShownStatus = Literal["active", "disabled", "revoked", "expired"]
CREDIT_CAP = (
    "Credits it may spend in a period of the subscription, together with all keys that came of it by rotation; null: "
    "all. A call that turns out dearer than was foreseen is charged in full."
)
Permissions = Annotated[list[Word], Field(max_length=100)]
Networks = Annotated[list[Network], Field(max_length=100)]


class Key(ResponseModel):
    id: UUID
    user_id: UUID
    name: str
    prefix: str = Field(description="The key's first characters, to recognise it by.")
    last4: str
    status: ShownStatus
    permissions: list[str] | None = Field(description="null: every permission of the plan.")
    allowed_ips: list[str] = Field(description="CIDRs; empty: from anywhere.")
    credit_cap: int | None = Field(description=CREDIT_CAP)
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class IssuedKey(Key):
    key: str = Field(description="The key itself. It is in this answer only and cannot be read again.")


class KeyTerms(RequestModel):
    name: Line = Field(default="default", examples=["production"])
    permissions: Permissions | None = Field(default=None, description="Narrows the plan's permissions.")
    allowed_ips: Networks = Field(default_factory=list, examples=[["203.0.113.0/24"]])
    credit_cap: Credits | None = Field(default=None, description=CREDIT_CAP)
    expires_at: Instant | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])


class NewKeyTerms(KeyTerms):
    expires_at: FutureInstant | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])


class KeyPatch(PatchModel):
    name: Line = unset()
    status: Literal["active", "disabled"] = unset()
    permissions: Permissions | None = None
    allowed_ips: Networks = unset()
    credit_cap: Credits | None = None
    expires_at: Instant | None = None


class Rotation(RequestModel):
    grace_seconds: Count = Field(default=0, examples=[3600], description="How long the old key goes on working.")
    reason: Line | None = Field(default=None, description="Stands in the audit log.")


async def check_permissions(connection: AsyncConnection, names: Collection[str] | None) -> None:
    """Raises Invalid for names that no permission has: who misspells one would find a key that may do nothing."""
    if unknown := await permissions.find_unknown(connection, names or ()):
        raise Invalid("permissions", f"no permission has the name {', '.join(unknown)}")


def key_model(key: api_keys.ApiKey, instant: datetime) -> Key:
    """The key as it is at `instant`."""
    status = key.status_at(instant)
    return Key.model_validate({name: getattr(key, name) for name in Key.model_fields} | {"status": status})


def issued_key_model(key: api_keys.ApiKey, secret: str) -> IssuedKey:
    return IssuedKey(**key_model(key, now()).model_dump(), key=secret)
