"""Plans and permissions: what subscriptions give. Every change bumps the catalogue's version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.errors import NotFound, checked
from gateway.ledger.rows import columns, value
from gateway.ledger.tables import permissions, plan_permissions, subscription_plans
from gateway.ledger.versions import bump_catalogue
from policies.model import FeatureValue


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """What a plan says. Limits of None are no limits; `price` is per billing interval, in `currency` (ISO 4217)."""

    name: str
    price: Decimal
    description: str | None = None
    product_id: UUID | None = None
    currency: str = "USD"
    pricing_model: str = "flat"
    billing_interval: str = "month"
    billing_interval_count: int = 1
    trial_period_days: int = 0
    credits_per_period: int = 0
    credits_rollover: bool = False
    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    max_api_calls_per_day: int | None = None
    max_products_per_batch: int | None = None
    max_concurrent_requests: int | None = None
    max_file_size_bytes: int | None = None
    features: Mapping[str, FeatureValue] = field(default_factory=dict)
    stripe_price_id: str | None = None
    lemon_squeezy_variant_id: str | None = None
    lemon_squeezy_product_id: str | None = None
    is_active: bool = True
    sort_order: int = 0


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan as the catalogue has it; `version` counts its changes."""

    id: UUID
    version: int
    terms: PlanTerms
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What applying a plan did: `changed` gives (before, after) by field; all of them for a new plan."""

    name: str
    is_new: bool
    changed: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Permission:
    id: UUID
    name: str
    description: str | None
    created_at: datetime


_TERMS = columns(subscription_plans, PlanTerms)
_PLAN = [*(subscription_plans.c[name] for name in ("id", "version", "created_at", "updated_at")), *_TERMS]
_BY_ORDER = (subscription_plans.c.sort_order, subscription_plans.c.price, subscription_plans.c.name)


async def list_plans(connection: AsyncConnection) -> tuple[StoredPlan, ...]:
    """All plans, the cheapest first unless `sort_order` says otherwise."""
    rows = await connection.execute(select(*_PLAN).order_by(*_BY_ORDER))
    return tuple(_stored(row) for row in rows)


async def get(connection: AsyncConnection, plan: UUID | str) -> StoredPlan | None:
    """By id or by name."""
    is_the_one = subscription_plans.c.id == plan if isinstance(plan, UUID) else subscription_plans.c.name == plan
    row = (await connection.execute(select(*_PLAN).where(is_the_one))).one_or_none()
    return None if row is None else _stored(row)


async def create(connection: AsyncConnection, terms: PlanTerms) -> StoredPlan:
    """Raises AlreadyExists for a taken name or provider id, InvalidValue."""
    async with checked(connection, "plan"):
        made = insert(subscription_plans).values(_values(terms)).returning(*_PLAN)
        plan = _stored((await connection.execute(made)).one())
    await bump_catalogue(connection)
    return plan


async def change(connection: AsyncConnection, plan_id: UUID, terms: PlanTerms) -> StoredPlan:
    """Puts `terms` in place of the plan's. Raises NotFound, AlreadyExists, InvalidValue."""
    changed = update(subscription_plans).where(subscription_plans.c.id == plan_id)
    async with checked(connection, "plan"):
        result = await connection.execute(
            changed.values(**_values(terms), version=subscription_plans.c.version + 1).returning(*_PLAN)
        )
        row = result.one_or_none()
    if row is None:
        raise NotFound("plan", plan_id)
    await bump_catalogue(connection)
    return _stored(row)


async def remove(connection: AsyncConnection, plan_id: UUID) -> None:
    """Raises NotFound; InUse while any subscription, past ones included, is on the plan: make it inactive instead."""
    async with checked(connection, "plan"):
        result = await connection.execute(delete(subscription_plans).where(subscription_plans.c.id == plan_id))
    if result.rowcount == 0:
        raise NotFound("plan", plan_id)
    await bump_catalogue(connection)


async def seed(connection: AsyncConnection, plans: Iterable[PlanTerms]) -> tuple[str, ...]:
    """Creates the plans whose name is missing, overwrites none; gives the names it created."""
    created = []
    for terms in plans:
        missing = upsert(subscription_plans).values(_values(terms)).on_conflict_do_nothing(index_elements=["name"])
        async with checked(connection, "plan"):
            result = await connection.execute(missing.returning(subscription_plans.c.name))
            created.extend(result.scalars())
    if created:
        await bump_catalogue(connection)
    return tuple(created)


async def apply(connection: AsyncConnection, plans: Iterable[PlanTerms]) -> tuple[PlanChange, ...]:
    """Makes the named plans be as given; other plans stay. Gives what changed, without those that were so already."""
    changes = []
    for terms in plans:
        before = await get(connection, terms.name)
        if before is None:
            await create(connection, terms)
        elif before.terms != terms:
            await change(connection, before.id, terms)
        difference = _difference(before.terms if before else None, terms)
        if difference:
            changes.append(PlanChange(terms.name, before is None, difference))
    return tuple(changes)


async def list_permissions(connection: AsyncConnection) -> tuple[Permission, ...]:
    rows = await connection.execute(select(*columns(permissions, Permission)).order_by(permissions.c.name))
    return tuple(value(Permission, row) for row in rows)


async def create_permission(connection: AsyncConnection, name: str, *, description: str | None = None) -> Permission:
    """Raises AlreadyExists."""
    made = insert(permissions).values(name=name, description=description).returning(*columns(permissions, Permission))
    async with checked(connection, "permission"):
        return value(Permission, (await connection.execute(made)).one())


async def grant_permission(connection: AsyncConnection, plan_id: UUID, permission: str) -> None:
    """The plan's subscribers have it from their next request on; granting again is no error. Raises NotFound."""
    permission_id = await _permission_id(connection, permission)
    if await get(connection, plan_id) is None:
        raise NotFound("plan", plan_id)
    granted = upsert(plan_permissions).values(plan_id=plan_id, permission_id=permission_id).on_conflict_do_nothing()
    await connection.execute(granted)
    await bump_catalogue(connection)


async def withdraw_permission(connection: AsyncConnection, plan_id: UUID, permission: str) -> None:
    """Raises NotFound for a permission of no such name."""
    withdrawn = delete(plan_permissions).where(
        plan_permissions.c.plan_id == plan_id,
        plan_permissions.c.permission_id == await _permission_id(connection, permission),
    )
    await connection.execute(withdrawn)
    await bump_catalogue(connection)


async def _permission_id(connection: AsyncConnection, name: str) -> UUID:
    found: UUID | None = await connection.scalar(select(permissions.c.id).where(permissions.c.name == name))
    if found is None:
        raise NotFound("permission", name)
    return found


def _values(terms: PlanTerms) -> dict[str, Any]:
    return {item.name: getattr(terms, item.name) for item in fields(terms)}


def _difference(before: PlanTerms | None, after: PlanTerms) -> dict[str, tuple[Any, Any]]:
    old = _values(before) if before else {}
    return {name: (old.get(name), new) for name, new in _values(after).items() if not old or old[name] != new}


def _stored(row: Row[Any]) -> StoredPlan:
    terms = PlanTerms(**{column.key: getattr(row, column.key) for column in _TERMS if column.key})
    return StoredPlan(row.id, row.version, terms, row.created_at, row.updated_at)
