"""Permissions, and who uses them; `plans.py` grants them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, Text, cast, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.outbox import bump_catalogue
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import api_keys, permissions, plan_permissions
from policies.model import KeyStatus

NAMED = 10


@dataclass(frozen=True, slots=True)
class Permission:
    id: UUID
    name: str
    description: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PermissionUses:
    """Up to NAMED ids each of plans that grant a permission and of keys that are restricted to it."""

    plans: tuple[str, ...]
    keys: tuple[UUID, ...]


_COLUMNS = columns(permissions, Permission)


async def list_all(connection: AsyncConnection) -> tuple[Permission, ...]:
    rows = await connection.execute(select(*_COLUMNS).order_by(permissions.c.name))
    return tuple(value(Permission, row) for row in rows)


async def create(connection: AsyncConnection, name: str, *, description: str | None = None) -> Permission:
    """Raises AlreadyExists."""
    statement = insert(permissions).values(name=name, description=description).returning(*_COLUMNS)
    async with checked(connection, "permission"):
        return value(Permission, (await connection.execute(statement)).one())


async def get(connection: AsyncConnection, permission_id: UUID) -> Permission | None:
    row = (await connection.execute(select(*_COLUMNS).where(permissions.c.id == permission_id))).one_or_none()
    return None if row is None else value(Permission, row)


async def find_unknown(connection: AsyncConnection, names: Collection[str]) -> tuple[str, ...]:
    """Those of the names that no permission has, sorted."""
    if not names:
        return ()
    known = frozenset(await connection.scalars(select(permissions.c.name).where(permissions.c.name.in_(names))))
    return tuple(sorted(set(names) - known))


async def create_missing(connection: AsyncConnection, names: Collection[str]) -> None:
    """Creates the permissions among the names that do not exist; granting one to a plan publishes it."""
    for name in await find_unknown(connection, names):
        await create(connection, name)


async def get_for_update(connection: AsyncConnection, permission_id: UUID) -> Permission:
    """The permission, locked against grants and changes until the transaction ends. Raises NotFound."""
    await bump_catalogue(connection)
    query = select(*_COLUMNS).where(permissions.c.id == permission_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound("permission", permission_id)
    return value(Permission, row)


async def list_uses(connection: AsyncConnection, permission: Permission) -> PermissionUses:
    """Revoked keys are left out."""
    granting = select(plan_permissions.c.plan_id).where(plan_permissions.c.permission_id == permission.id)
    restricted = select(api_keys.c.id).where(
        api_keys.c.permissions.op("@>")(cast([permission.name], ARRAY(Text))),
        api_keys.c.status != KeyStatus.REVOKED,
    )
    plans = await connection.scalars(granting.order_by(plan_permissions.c.plan_id).limit(NAMED))
    keys = await connection.scalars(restricted.limit(NAMED))
    return PermissionUses(tuple(plans), tuple(keys))


async def change(connection: AsyncConnection, permission_id: UUID, *, name: str, description: str | None) -> Permission:
    """Raises AlreadyExists for a taken name."""
    changed = update(permissions).where(permissions.c.id == permission_id)
    async with checked(connection, "permission"):
        statement = changed.values(name=name, description=description).returning(*_COLUMNS)
        return value(Permission, (await connection.execute(statement)).one())


async def remove(connection: AsyncConnection, permission_id: UUID) -> None:
    """Raises InUse while a plan grants it."""
    async with checked(connection, "permission"):
        await connection.execute(delete(permissions).where(permissions.c.id == permission_id))
