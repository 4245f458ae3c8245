"""Plans of the configuration: created where missing, overwritten on request only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import permissions, plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from policies.billing.providers import ID_FIELDS


@dataclass(frozen=True, slots=True)
class ConfiguredPlan:
    """A plan of the configuration. With `permissions` None it is created with those that routes require."""

    id: str
    terms: PlanTerms
    permissions: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What `apply` changed: `changed` is (before, after) by field; all fields for a new plan."""

    plan_id: str
    is_new: bool
    changed: Mapping[str, tuple[Any, Any]]


# A fixed number, "offers" in ASCII. Of nodes that start at once, one creates the plans and the others find them.
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
ADVISORY_LOCK = int.from_bytes(b"offers", "big")


async def seed(
    connection: AsyncConnection, configured: Collection[ConfiguredPlan], *, route_permissions: Collection[str] = ()
) -> tuple[str, ...]:
    """Creates missing plans and overwrites nothing; gives the ids of the created plans.

    Permissions that routes require are created. Only a plan that is created here, and lists none, has them: a route
    that begins to require one is open to nobody until an administrator grants it. A plan whose name another plan has is
    not created.
    """
    await connection.execute(_LOCK, {"key": ADVISORY_LOCK})
    stored = await plans.list_plans(connection)
    ids, names = {plan.id for plan in stored}, {plan.terms.name for plan in stored}
    missing = [plan for plan in configured if plan.id not in ids and plan.terms.name not in names]
    await permissions.create_missing(connection, [*route_permissions, *_listed(missing)])
    for plan in missing:
        await _create(connection, plan, route_permissions)
    return tuple(plan.id for plan in missing)


async def apply(
    connection: AsyncConnection, configured: Collection[ConfiguredPlan], *, route_permissions: Collection[str] = ()
) -> tuple[PlanChange, ...]:
    """Makes plans equal to the configuration; other plans, and permissions that it does not list, stay.

    Gives the plans that changed. Raises AlreadyExists, InvalidValue, and NotFound for a route's permission that `seed`
    has not created: created here, no other plan would get it.
    """
    await connection.execute(_LOCK, {"key": ADVISORY_LOCK})
    await permissions.create_missing(connection, _listed(configured))
    changes = []
    for plan in configured:
        before = await plans.get(connection, plan.id)
        if before is None:
            after = await _create(connection, plan, route_permissions)
        elif _is_up_to_date(before, plan):
            continue
        else:
            after = await plans.change(connection, plan.id, plan.terms, permissions=plan.permissions)
        changes.append(PlanChange(plan.id, before is None, _difference(before, after)))
    return tuple(changes)


def _listed(configured: Iterable[ConfiguredPlan]) -> list[str]:
    return [permission for plan in configured for permission in plan.permissions or ()]


async def _create(connection: AsyncConnection, plan: ConfiguredPlan, route_permissions: Collection[str]) -> StoredPlan:
    granted = route_permissions if plan.permissions is None else plan.permissions
    return await plans.create(connection, plan.terms, plan_id=plan.id, permissions=granted)


def _is_up_to_date(stored: StoredPlan, plan: ConfiguredPlan) -> bool:
    return stored.terms == plan.terms and plan.permissions in (None, stored.permissions)


def _difference(before: StoredPlan | None, after: StoredPlan) -> dict[str, tuple[Any, Any]]:
    old, new = _fields(before) if before else {}, _fields(after)
    return {name: (old.get(name), value) for name, value in new.items() if not old or old[name] != value}


def _fields(plan: StoredPlan) -> dict[str, Any]:
    values = {item.name: getattr(plan.terms, item.name) for item in fields(PlanTerms) if item.name != "provider_ids"}
    ids = {name: plan.terms.provider_ids.get(name) for name in ID_FIELDS}
    return values | ids | {"permissions": plan.permissions}
