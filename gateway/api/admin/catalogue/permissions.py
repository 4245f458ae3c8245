"""Permissions: named rights that routes require and plans grant."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.catalogue.plans import existing_plan
from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.errors import Conflict
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.fields import Line, Text, Word
from gateway.api.schemas.pages import (
    PageModel,
    PatchModel,
    RequestModel,
    ResponseModel,
    ShortListQuery,
    page_of_all,
    unset,
)
from gateway.ledger.catalogue import permissions, plans
from gateway.ledger.db.errors import NotFound
from policies.model import Route

router = APIRouter(tags=["permissions"])


class Permission(ResponseModel):
    id: UUID
    name: str
    description: str | None
    created_at: datetime


class NewPermission(RequestModel):
    name: Word = Field(examples=["analyze"])
    description: Text | None = None


class PermissionPatch(PatchModel):
    name: Word = unset()
    description: Text | None = None


@router.get("/permissions", summary="List permissions")
async def list_permissions(
    query: Annotated[ShortListQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[Permission]:
    """By name."""
    async with unit_of_work.read() as connection:
        rows = await permissions.list_all(connection)
    return page_of_all([Permission.model_validate(permission) for permission in rows], query)


@router.post("/permissions", status_code=201, summary="Create a permission", responses=CONFLICTS)
async def create_permission(body: NewPermission, unit_of_work: UnitOfWorkDep) -> Permission:
    async with unit_of_work.change() as change:
        row = await permissions.create(change.connection, body.name, description=body.description)
        created = Permission.model_validate(row)
        await change.record("permissions.create", "permission", entity_id=created.id, after=created)
    return created


@router.get("/permissions/{permission_id}", summary="Get a permission", responses=UNKNOWN)
async def get_permission(permission_id: UUID, unit_of_work: UnitOfWorkDep) -> Permission:
    async with unit_of_work.read() as connection:
        row = await permissions.get(connection, permission_id)
    if row is None:
        raise NotFound("permission", permission_id)
    return Permission.model_validate(row)


@router.patch("/permissions/{permission_id}", summary="Change a permission", responses=UNKNOWN | CONFLICTS)
async def change_permission(
    permission_id: UUID, patch: PermissionPatch, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep
) -> Permission:
    """Its name only while no route, plan or key uses it: they know it by its name."""
    async with unit_of_work.change() as change:
        row = await permissions.get_for_update(change.connection, permission_id)
        before = Permission.model_validate(row)
        values = {"name": before.name, "description": before.description} | patch.changes()
        if values["name"] != before.name:
            await _refuse_if_used(change.connection, row, dependencies.routes.values(), to="renamed")
        after = Permission.model_validate(await permissions.change(change.connection, permission_id, **values))
        await change.record("permissions.change", "permission", entity_id=permission_id, before=before, after=after)
    return after


@router.delete(
    "/permissions/{permission_id}", status_code=204, summary="Delete a permission", responses=UNKNOWN | CONFLICTS
)
async def delete_permission(permission_id: UUID, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep) -> None:
    """Only one that no route, plan or key uses."""
    async with unit_of_work.change() as change:
        row = await permissions.get_for_update(change.connection, permission_id)
        await _refuse_if_used(change.connection, row, dependencies.routes.values(), to="deleted")
        await permissions.remove(change.connection, permission_id)
        before = Permission.model_validate(row)
        await change.record("permissions.delete", "permission", entity_id=permission_id, before=before)


@router.put(
    "/plans/{plan}/permissions/{permission}", status_code=204, summary="Grant a permission to a plan", responses=UNKNOWN
)
async def grant_permission(plan: Line, permission: Line, unit_of_work: UnitOfWorkDep) -> None:
    """The plan's subscribers have it from their next request on. Granting again changes nothing."""
    async with unit_of_work.change() as change:
        row = await existing_plan(change.connection, plan)
        await plans.grant_permission(change.connection, row.id, permission)
        await change.record("permissions.grant", "plan", entity_id=row.id, reason=permission)


@router.delete(
    "/plans/{plan}/permissions/{permission}", status_code=204, summary="Take a permission away", responses=UNKNOWN
)
async def withdraw_permission(plan: Line, permission: Line, unit_of_work: UnitOfWorkDep) -> None:
    async with unit_of_work.change() as change:
        row = await existing_plan(change.connection, plan)
        await plans.withdraw_permission(change.connection, row.id, permission)
        await change.record("permissions.withdraw", "plan", entity_id=row.id, reason=permission)


async def _refuse_if_used(
    connection: AsyncConnection, permission: permissions.Permission, routes: Iterable[Route], *, to: str
) -> None:
    uses = await permissions.list_uses(connection, permission)
    users = {
        "routes": sorted(route.name for route in routes if route.permission == permission.name),
        "plans": uses.plans,
        "keys": uses.keys,
    }
    if any(users.values()):
        named = "; ".join(f"{kind} {', '.join(map(str, some))}" for kind, some in users.items() if some)
        raise Conflict(f"{permission.name!r} can be {to} once nothing uses it any more: {named}.")
