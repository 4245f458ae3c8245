"""Plans as a configuration offers them: created where they are missing, overwritten only on purpose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan to be. `permissions` None says nothing of them: the plan is created with those that routes ask for."""

    id: str
    terms: PlanTerms
    permissions: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What applying an offer did: `changed` gives (before, after) by field; all of them for a new plan."""

    plan_id: str
    is_new: bool
    changed: Mapping[str, tuple[Any, Any]]


# Any fixed number will do; it spells "offers". Of nodes that start at once, one creates and the others find.
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
ADVISORY_LOCK = int.from_bytes(b"offers", "big")


async def seed(
    connection: AsyncConnection, offers: Collection[Offer], *, route_permissions: Collection[str] = ()
) -> tuple[str, ...]:
    """Creates what is missing and overwrites nothing; gives the ids of the plans it created.

    A permission that a route asks for is granted once, when it is created itself, to the offered plans that do not list
    theirs: an administrator may withdraw it for good. A plan whose name another one has is not created.
    """
    await connection.execute(_LOCK, {"key": ADVISORY_LOCK})
    stored = await plans.list_plans(connection)
    ids, names = {plan.id for plan in stored}, {plan.terms.name for plan in stored}
    missing = [offer for offer in offers if offer.id not in ids and offer.terms.name not in names]
    new = await _create_permissions(connection, [*route_permissions, *_listed(missing)])
    for offer in offers:
        if offer.id in ids and offer.permissions is None:
            for permission in sorted(new & set(route_permissions)):
                await plans.grant_permission(connection, offer.id, permission)
    for offer in missing:
        await _create(connection, offer, route_permissions)
    return tuple(offer.id for offer in missing)


async def apply(
    connection: AsyncConnection, offers: Collection[Offer], *, route_permissions: Collection[str] = ()
) -> tuple[PlanChange, ...]:
    """Makes the offered plans be as given; others stay, and so do permissions where an offer says nothing of them.

    Gives what changed, without those that were so already. Raises AlreadyExists, InvalidValue, and NotFound where a new
    plan is to have a permission of the routes that was never seeded: created here, no other plan would get it.
    """
    await connection.execute(_LOCK, {"key": ADVISORY_LOCK})
    await _create_permissions(connection, _listed(offers))
    changes = []
    for offer in offers:
        before = await plans.get(connection, offer.id)
        if before is None:
            after = await _create(connection, offer, route_permissions)
        elif _is_as_offered(before, offer):
            continue
        else:
            after = await plans.change(connection, offer.id, offer.terms, permissions=offer.permissions)
        changes.append(PlanChange(offer.id, before is None, _difference(before, after)))
    return tuple(changes)


def _listed(offers: Iterable[Offer]) -> list[str]:
    return [permission for offer in offers for permission in offer.permissions or ()]


async def _create_permissions(connection: AsyncConnection, names: Iterable[str]) -> frozenset[str]:
    """Those of the names that are new."""
    known = {permission.name for permission in await plans.list_permissions(connection)}
    new = frozenset(names) - known
    for name in sorted(new):
        await plans.create_permission(connection, name)
    return new


async def _create(connection: AsyncConnection, offer: Offer, route_permissions: Collection[str]) -> StoredPlan:
    permissions = route_permissions if offer.permissions is None else offer.permissions
    return await plans.create(connection, offer.terms, plan_id=offer.id, permissions=permissions)


def _is_as_offered(plan: StoredPlan, offer: Offer) -> bool:
    return plan.terms == offer.terms and offer.permissions in (None, plan.permissions)


def _difference(before: StoredPlan | None, after: StoredPlan) -> dict[str, tuple[Any, Any]]:
    old, new = _written(before) if before else {}, _written(after)
    return {name: (old.get(name), value) for name, value in new.items() if not old or old[name] != value}


def _written(plan: StoredPlan) -> dict[str, Any]:
    return {item.name: getattr(plan.terms, item.name) for item in fields(PlanTerms)} | {"permissions": plan.permissions}
