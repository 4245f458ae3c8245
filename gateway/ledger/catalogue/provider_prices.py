"""What payment providers call the prices and products of plans, now and formerly.

A price id belongs to one plan for ever: a subscription or an event that names a former id still finds the plan, and the
versions of the plan that had it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.db.tables import plan_provider_prices, subscription_plans
from policies.billing.providers import ID_FIELDS, PROVIDERS

_IS_CURRENT = plan_provider_prices.c.valid_to.is_(None)
# Of two ids that a version had, as where a former id returned later, the newer one: the last of equal keys stays.
_BY_KEY = func.coalesce(
    func.jsonb_object_agg(
        plan_provider_prices.c.provider + "." + plan_provider_prices.c.kind,
        aggregate_order_by(plan_provider_prices.c.external_id, plan_provider_prices.c.first_version),
    ),
    text("'{}'::jsonb"),
    type_=JSONB,
)

_CLOSE = text("""
    UPDATE plan_provider_prices r SET valid_to = now(), last_version = p.version - 1
      FROM subscription_plans p
     WHERE p.id = :plan_id AND r.plan_id = p.id AND r.provider = :provider AND r.kind = :kind AND r.valid_to IS NULL
""")
# A former id that sold nothing was a mistake, so another plan may have it.
_RELEASE = text("""
    DELETE FROM plan_provider_prices r
     WHERE r.provider = :provider AND r.kind = 'price' AND r.external_id = :external_id
       AND r.plan_id <> :plan_id AND r.valid_to IS NOT NULL
       AND NOT EXISTS (SELECT FROM subscriptions s WHERE s.plan_id = r.plan_id AND s.provider = r.provider)
       AND NOT EXISTS (SELECT FROM checkouts c WHERE c.provider = r.provider AND c.price_id = r.external_id)
""")
_OWNER = text("""
    SELECT plan_id FROM plan_provider_prices
     WHERE provider = :provider AND kind = 'price' AND external_id = :external_id
""")
_OPEN = text("""
    INSERT INTO plan_provider_prices (plan_id, provider, kind, external_id, first_version)
    SELECT p.id, :provider, :kind, :external_id, p.version FROM subscription_plans p WHERE p.id = :plan_id
    ON CONFLICT (provider, external_id) WHERE kind = 'price' DO UPDATE SET valid_to = NULL, last_version = NULL
""")


@dataclass(frozen=True, slots=True)
class PlanPrice:
    """The plan of a price id, and the versions of the plan that had it. `last_version` None: it has it now."""

    plan_id: str
    first_version: int = 1
    last_version: int | None = None

    def covers(self, version: int) -> bool:
        return self.first_version <= version and (self.last_version is None or version <= self.last_version)


async def find(connection: AsyncConnection, provider: str, *, price_id: str | None) -> PlanPrice | None:
    """By a present or former id."""
    row = plan_provider_prices.c
    query = select(row.plan_id, row.first_version, row.last_version).where(
        row.provider == provider, row.kind == "price", row.external_id == price_id
    )
    found = (await connection.execute(query)).one_or_none()
    return None if found is None else PlanPrice(*found)


async def find_sold(connection: AsyncConnection, provider: str, price_ids: Collection[str]) -> frozenset[str]:
    """Those of the ids that are or were the price of a plan."""
    if not price_ids:
        return frozenset()
    row = plan_provider_prices.c
    known = select(row.external_id).where(
        row.provider == provider, row.kind == "price", row.external_id.in_(sorted(set(price_ids)))
    )
    return frozenset(await connection.scalars(known))


async def list_ids(connection: AsyncConnection, provider: str) -> frozenset[str]:
    """All prices of plans at the provider, present and former."""
    row = plan_provider_prices.c
    return frozenset(
        await connection.scalars(select(row.external_id).where(row.provider == provider, row.kind == "price"))
    )


def current_ids() -> ColumnElement[Mapping[str, str]]:
    """The ids of the plan in the enclosing query over subscription_plans; `by_field` reads the value."""
    is_its = plan_provider_prices.c.plan_id == subscription_plans.c.id
    return select(_BY_KEY).where(is_its, _IS_CURRENT).scalar_subquery().label("provider_ids")


async def ids_at_version(connection: AsyncConnection, plan_id: str, version: int) -> dict[str, str]:
    """The ids by field that the plan had in this version."""
    row = plan_provider_prices.c
    was_valid = (row.first_version <= version) & (row.last_version.is_(None) | (row.last_version >= version))
    found: Mapping[str, str] | None = await connection.scalar(select(_BY_KEY).where(row.plan_id == plan_id, was_valid))
    return by_field(found or {})


def by_field(ids: Mapping[str, str]) -> dict[str, str]:
    found = {name: ids.get(f"{provider}.{kind}") for name, (provider, kind) in ID_FIELDS.items()}
    return {name: external_id for name, external_id in found.items() if external_id is not None}


async def update(
    connection: AsyncConnection, plan_id: str, *, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    """Closes the ids that changed and opens the new ones, once the plan has its new version.

    Raises AlreadyExists, naming the field, for a price id that is or was another plan's.
    """
    for name, (provider, kind) in ID_FIELDS.items():
        external_id = after.get(name)
        if external_id == before.get(name):
            continue
        row = {"plan_id": plan_id, "provider": provider, "kind": kind}
        await connection.execute(_CLOSE, row)
        if external_id is not None:
            await _open(connection, {**row, "external_id": external_id})


async def _open(connection: AsyncConnection, row: Mapping[str, str]) -> None:
    if row["kind"] == "price":
        price = {name: row[name] for name in ("plan_id", "provider", "external_id")}
        await connection.execute(_RELEASE, price)
        owner = await connection.scalar(_OWNER, {name: row[name] for name in ("provider", "external_id")})
        if owner not in (None, row["plan_id"]):
            raise AlreadyExists("plan", PROVIDERS[row["provider"]].price_field)
    await connection.execute(_OPEN, row)
