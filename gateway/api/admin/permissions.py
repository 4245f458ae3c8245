"""Permissions: named rights that routes ask for and plans grant."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from gateway.api.admin.collaborators import TheDesk
from gateway.api.admin.plans import existing_plan
from gateway.api.fields import Line, Text, Word
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.shapes import Given, Listing, Shown
from gateway.ledger import plans

router = APIRouter(tags=["permissions"])


class Permission(Shown):
    id: UUID
    name: str
    description: str | None
    created_at: datetime


class NewPermission(Given):
    name: Word = Field(examples=["analyze"])
    description: Text | None = None


@router.get("/permissions", summary="List permissions")
async def list_permissions(desk: TheDesk) -> Listing[Permission]:
    """All of them, by name."""
    async with desk.read() as connection:
        found = await plans.list_permissions(connection)
    return Listing(data=[Permission.model_validate(permission) for permission in found], next_cursor=None)


@router.post("/permissions", status_code=201, summary="Create a permission", responses=CONFLICTS)
async def create_permission(given: NewPermission, desk: TheDesk) -> Permission:
    async with desk.change() as change:
        made = await plans.create_permission(change.connection, given.name, description=given.description)
        created = Permission.model_validate(made)
        await change.note("permissions.create", "permission", entity_id=created.id, after=created)
    return created


@router.put(
    "/plans/{plan}/permissions/{permission}", status_code=204, summary="Grant a permission to a plan", responses=UNKNOWN
)
async def grant_permission(plan: Line, permission: Line, desk: TheDesk) -> None:
    """The plan's subscribers have it from their next request on. Granting again changes nothing."""
    async with desk.change() as change:
        found = await existing_plan(change.connection, plan)
        await plans.grant_permission(change.connection, found.id, permission)
        await change.note("permissions.grant", "plan", entity_id=found.id, reason=permission)


@router.delete(
    "/plans/{plan}/permissions/{permission}", status_code=204, summary="Take a permission away", responses=UNKNOWN
)
async def withdraw_permission(plan: Line, permission: Line, desk: TheDesk) -> None:
    async with desk.change() as change:
        found = await existing_plan(change.connection, plan)
        await plans.withdraw_permission(change.connection, found.id, permission)
        await change.note("permissions.withdraw", "plan", entity_id=found.id, reason=permission)
