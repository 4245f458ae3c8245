"""Plans, their tiers and their permissions.

Every change first bumps the catalogue's version: the lock of that row serializes all changes, so none deadlock. It
ends by recording the plan's new version (`plan_versions.py`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plan_versions, price_news, provider_prices
from gateway.ledger.catalogue.price_news import PriceChange
from gateway.ledger.db.errors import InvalidValue, NotFound, checked
from gateway.ledger.db.outbox import bump_catalogue
from gateway.ledger.db.rows import columns
from gateway.ledger.db.tables import permissions, plan_permissions, pricing_tiers, subscription_plans
from gateway.ledger.db.tables.catalogue import MIRRORED_IDS
from policies.billing.invoicing import PriceTier, Pricing, tiers_mode
from policies.billing.overage import Overage
from policies.billing.periods import Interval
from policies.billing.price_checks import Offer, OfferedPrice
from policies.billing.providers import PROVIDERS
from policies.model import FeatureValue, PastDue


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Units up to and including `up_to` (None: all the rest) at `unit_price` each, plus `flat_price` once."""

    up_to: int | None
    unit_price: Decimal
    flat_price: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """The terms of a plan. A limit of None is no limit; `price` is per billing interval, in `currency` (ISO 4217).

    `tiers` are sorted by `up_to`; `tiers_mode` is for usage only. `provider_ids` are the payment providers' ids of the
    plan, by the field that has them (`policies.billing.providers.ID_FIELDS`).
    """

    name: str
    price: Decimal
    description: str | None = None
    product_id: UUID | None = None
    currency: str = "USD"
    pricing_model: str = "flat"
    tiers: tuple[Tier, ...] = ()
    billing_interval: Interval = "month"
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
    max_credits_per_call: int | None = None
    tiers_mode: str | None = None
    overage_credits: int | None = None
    overage_price: Decimal | None = None
    overage_stripe_price_id: str | None = None
    features: Mapping[str, FeatureValue] = field(default_factory=dict)
    provider_ids: Mapping[str, str] = field(default_factory=dict)
    is_active: bool = True
    sort_order: int = 0
    past_due: PastDue = PastDue.PURCHASED_ONLY
    fallback_plan: str | None = None

    @property
    def overage(self) -> Overage | None:
        """None where nothing is postpaid."""
        return None if self.overage_credits is None else Overage(self.overage_credits, self.overage_price)

    @property
    def pricing(self) -> Pricing:
        """How invoices price a period."""
        tiers = tuple(PriceTier(tier.up_to, tier.unit_price, tier.flat_price) for tier in self.tiers)
        return Pricing(self.pricing_model, self.price, self.currency, tiers, self.tiers_mode)


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan in the catalogue; `version` counts its changes, those of permissions included."""

    id: str
    version: int
    terms: PlanTerms
    permissions: frozenset[str]
    created_at: datetime
    updated_at: datetime

    @property
    def offer(self) -> Offer:
        terms = self.terms
        interval = (terms.billing_interval, terms.billing_interval_count)
        pricing = terms.pricing
        price = OfferedPrice(
            terms.price, terms.currency, interval, terms.pricing_model, pricing.tiers, tiers_mode(pricing)
        )
        return Offer(self.id, price, terms.provider_ids)


async def list_plans(connection: AsyncConnection) -> tuple[StoredPlan, ...]:
    """All plans by `sort_order`, then the cheapest first."""
    rows = await connection.execute(select(*_PLAN).order_by(*_BY_ORDER))
    return tuple(_stored(row) for row in rows)


async def get(connection: AsyncConnection, plan_id: str) -> StoredPlan | None:
    row = (await connection.execute(select(*_PLAN).where(subscription_plans.c.id == plan_id))).one_or_none()
    return None if row is None else _stored(row)


async def get_version(connection: AsyncConnection, plan_id: str, version: int) -> StoredPlan | None:
    """The plan in a former version; None for an unknown one."""
    stored = await plan_versions.get(connection, plan_id, version)
    if stored is None:
        return None
    terms = PlanTerms(
        **{column.name: getattr(stored, column.name) for column in _COLUMNS},
        tiers=tuple(map(_tier, stored.tiers)),
        provider_ids=await provider_prices.ids_at_version(connection, plan_id, version),
    )
    return StoredPlan(plan_id, version, terms, frozenset(stored.permissions), stored.created_at, stored.updated_at)


async def find(connection: AsyncConnection, named: str) -> StoredPlan | None:
    """The plan of this id or, failing that, of this name."""
    has_id, has_name = subscription_plans.c.id == named, subscription_plans.c.name == named
    row = (await connection.execute(select(*_PLAN).where(has_id | has_name).order_by(has_id.desc()).limit(1))).first()
    return None if row is None else _stored(row)


def slug_of(name: str) -> str:
    """`Pro, yearly` becomes `pro-yearly`: accents dropped, hyphens for all but letters and digits."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64]


async def create(
    connection: AsyncConnection, terms: PlanTerms, *, plan_id: str | None = None, permissions: Iterable[str] = ()
) -> StoredPlan:
    """Creates a plan; without an id, the id is the slug of the name.

    Raises AlreadyExists for a taken id, name or provider id, InvalidValue, and NotFound for an unknown permission.
    """
    chosen = plan_id or slug_of(terms.name)
    if not chosen:
        raise InvalidValue("plan", "id is required where the name has no letter or digit to make one of")
    await bump_catalogue(connection)
    granted = await _permission_ids(connection, permissions)
    async with checked(connection, "plan"):
        await connection.execute(insert(subscription_plans).values(id=chosen, **_values(terms)))
    await provider_prices.update(connection, chosen, before={}, after=terms.provider_ids)
    await _replace_tiers(connection, chosen, terms.tiers)
    await _replace_permissions(connection, chosen, granted)
    await plan_versions.record(connection, chosen)
    return await _existing(connection, chosen)


async def change(
    connection: AsyncConnection,
    plan_id: str,
    terms: PlanTerms,
    *,
    permissions: Iterable[str] | None = None,
    subscribers: Literal["migrate", "keep"] | None = None,
) -> StoredPlan:
    """Replaces the plan's terms, and its permissions unless None.

    `subscribers` get the new version from their next request on (migrate), or stay on theirs until `migrate` (keep).
    None: a change of what a period costs leaves them the period that they are in, and whoever a provider bills stays at
    the price that the provider charges; a change of wording alone moves nobody; any other change migrates, and leaves
    whoever has another price the price of this period.
    Raises NotFound for an unknown plan or permission, AlreadyExists, InvalidValue.
    """
    await bump_catalogue(connection)
    former = await get(connection, plan_id)
    reach = subscribers or _reach(former, terms, permissions)
    if reach in ("keep", "next_period"):
        await plan_versions.pin_subscribers(connection, plan_id, is_for_period=reach == "next_period")
    granted = None if permissions is None else await _permission_ids(connection, permissions)
    async with checked(connection, "plan"):
        await _change(connection, plan_id, _values(terms))
    before = await _existing(connection, plan_id)
    await provider_prices.update(connection, plan_id, before=before.terms.provider_ids, after=terms.provider_ids)
    await _replace_tiers(connection, plan_id, terms.tiers)
    if granted is not None:
        await _replace_permissions(connection, plan_id, granted)
    await plan_versions.record(connection, plan_id)
    prices = PriceChange(plan_id, terms.name, former=(former or before).terms.pricing, present=terms.pricing)
    if reach == "migrate" and subscribers is None:
        waiting = await plan_versions.let_wait(connection, plan_id)
        await price_news.tell(connection, prices, had=await _prices(connection, prices, waiting))
    if subscribers == "migrate":
        kept = await plan_versions.list_kept(connection, plan_id)
        had = await _prices(connection, prices, [version for version, _ in kept])
        await price_news.tell_at_once(connection, prices, had=had, kept=kept)
    if reach == "migrate":
        await plan_versions.unpin_subscribers(connection, plan_id, leaves_waiting=subscribers is None)
        await plan_versions.carry_waiting(connection, plan_id)
    if subscribers != "migrate" and prices.former != prices.present:
        waiting = await plan_versions.list_waiting(connection, plan_id)
        await price_news.tell(connection, prices, had=await _prices(connection, prices, (None, *waiting)))
    return await _existing(connection, plan_id)


async def _prices(
    connection: AsyncConnection, prices: PriceChange, versions: Iterable[int | None]
) -> dict[int | None, Pricing]:
    """By version, None being the plan; the former price where a version is unknown."""
    found = {each: None if each is None else await get_version(connection, prices.plan_id, each) for each in versions}
    return {each: prices.former if plan is None else plan.terms.pricing for each, plan in found.items()}


async def remove(connection: AsyncConnection, plan_id: str) -> None:
    """Raises NotFound; InUse while any subscription, past ones included, is on the plan: make it inactive instead."""
    await bump_catalogue(connection)
    async with checked(connection, "plan"):
        result = await connection.execute(delete(subscription_plans).where(subscription_plans.c.id == plan_id))
    if result.rowcount == 0:
        raise NotFound("plan", plan_id)


async def grant_permission(connection: AsyncConnection, plan_id: str, permission: str) -> None:
    """Grants the plan a permission, from the next request on. Idempotent. Raises NotFound."""
    await _set_permission(connection, plan_id, permission, is_granted=True)


async def withdraw_permission(connection: AsyncConnection, plan_id: str, permission: str) -> None:
    """Takes a permission from the plan. Idempotent. Raises NotFound for an unknown plan or permission."""
    await _set_permission(connection, plan_id, permission, is_granted=False)


async def _set_permission(connection: AsyncConnection, plan_id: str, permission: str, *, is_granted: bool) -> None:
    await bump_catalogue(connection)
    plan = await get(connection, plan_id)
    if plan is None:
        raise NotFound("plan", plan_id)
    await _permission_id(connection, permission)
    names = plan.permissions | {permission} if is_granted else plan.permissions - {permission}
    if names != plan.permissions:
        await _change(connection, plan_id, {})
        await _replace_permissions(connection, plan_id, await _permission_ids(connection, names))
        await plan_versions.record(connection, plan_id)
        await plan_versions.carry_waiting(connection, plan_id)


# What decides neither what a period costs nor what it gives.
WORDING = frozenset({"name", "description", "product_id", "is_active", "sort_order"})


def _reach(
    before: StoredPlan | None, terms: PlanTerms, permissions: Iterable[str] | None
) -> Literal["migrate", "next_period", "nobody"]:
    """Whom a change reaches that does not say so."""
    if before is None:
        return "migrate"
    changed = changed_fields(before, terms, permissions)
    if changed & plan_versions.COST or _replaces_price_id(before.terms, terms):
        return "next_period"
    return "nobody" if changed <= WORDING else "migrate"


def _replaces_price_id(before: PlanTerms, after: PlanTerms) -> bool:
    """A provider goes on charging by the former id, which the present version of the plan has no more."""
    former, present = before.provider_ids, after.provider_ids
    price_fields = [each.price_field for each in PROVIDERS.values()]
    return any(former.get(name) not in (None, present.get(name)) for name in price_fields)


def changed_fields(before: StoredPlan, terms: PlanTerms, permissions: Iterable[str] | None = None) -> frozenset[str]:
    """The names of the terms that differ, `permissions` included; None leaves those."""
    names = {item.name for item in fields(PlanTerms) if getattr(before.terms, item.name) != getattr(terms, item.name)}
    is_same = permissions is None or frozenset(permissions) == before.permissions
    return frozenset(names if is_same else {*names, "permissions"})


def _array(column: ColumnElement[Any], *, of: Any, by: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column's values in the plan's rows, as an array of the same statement, hence of one snapshot."""
    return func.array(select(column).where(of).order_by(by).scalar_subquery(), type_=ARRAY(column.type))


_IS_ITS_TIER = pricing_tiers.c.plan_id == subscription_plans.c.id
_IS_ITS_PERMISSION = (plan_permissions.c.plan_id == subscription_plans.c.id) & (
    plan_permissions.c.permission_id == permissions.c.id
)
_COLUMNS = [subscription_plans.c[item.name] for item in fields(PlanTerms) if item.name not in ("tiers", "provider_ids")]
_TIER_COLUMNS = columns(pricing_tiers, Tier)
_PLAN = [
    *(subscription_plans.c[name] for name in ("id", "version", "created_at", "updated_at")),
    *_COLUMNS,
    # NULL, the rest, sorts last.
    *(
        _array(column, of=_IS_ITS_TIER, by=pricing_tiers.c.up_to).label(f"tiers_{column.key}")
        for column in _TIER_COLUMNS
    ),
    _array(permissions.c.name, of=_IS_ITS_PERMISSION, by=permissions.c.name).label("permission_names"),
    provider_prices.current_ids(),
]
_BY_ORDER = (subscription_plans.c.sort_order, subscription_plans.c.price, subscription_plans.c.name)


async def _change(connection: AsyncConnection, plan_id: str, changes: Mapping[str, Any]) -> None:
    """The caller has bumped the catalogue. Raises NotFound."""
    changed = update(subscription_plans).where(subscription_plans.c.id == plan_id)
    result = await connection.execute(changed.values(**changes, version=subscription_plans.c.version + 1))
    if result.rowcount == 0:
        raise NotFound("plan", plan_id)


async def _replace_tiers(connection: AsyncConnection, plan_id: str, tiers: Iterable[Tier]) -> None:
    await connection.execute(delete(pricing_tiers).where(pricing_tiers.c.plan_id == plan_id))
    rows = [{"plan_id": plan_id, **{item.name: getattr(tier, item.name) for item in fields(Tier)}} for tier in tiers]
    if rows:
        async with checked(connection, "pricing tier"):
            await connection.execute(insert(pricing_tiers), rows)


async def _replace_permissions(connection: AsyncConnection, plan_id: str, ids: Iterable[UUID]) -> None:
    await connection.execute(delete(plan_permissions).where(plan_permissions.c.plan_id == plan_id))
    rows = [{"plan_id": plan_id, "permission_id": permission_id} for permission_id in ids]
    if rows:
        await connection.execute(insert(plan_permissions), rows)


async def _permission_ids(connection: AsyncConnection, names: Iterable[str]) -> list[UUID]:
    return [await _permission_id(connection, name) for name in sorted(set(names))]


async def _permission_id(connection: AsyncConnection, name: str) -> UUID:
    found: UUID | None = await connection.scalar(select(permissions.c.id).where(permissions.c.name == name))
    if found is None:
        raise NotFound("permission", name)
    return found


async def _existing(connection: AsyncConnection, plan_id: str) -> StoredPlan:
    return _stored((await connection.execute(select(*_PLAN).where(subscription_plans.c.id == plan_id))).one())


def _tier(stored: Mapping[str, str | None]) -> Tier:
    """From `plan_versions`, which stores exact numbers as text."""
    up_to, unit_price, flat_price = (stored[name] for name in ("up_to", "unit_price", "flat_price"))
    return Tier(
        up_to=None if up_to is None else int(up_to),
        unit_price=Decimal(unit_price or 0),
        flat_price=Decimal(flat_price or 0),
    )


def _values(terms: PlanTerms) -> dict[str, Any]:
    mirrored = {name: terms.provider_ids.get(name) for name in MIRRORED_IDS}
    return {column.name: getattr(terms, column.name) for column in _COLUMNS} | mirrored


def _stored(row: Row[Any]) -> StoredPlan:
    parts = zip(*(getattr(row, f"tiers_{column.key}") for column in _TIER_COLUMNS), strict=True)
    tiers = tuple(Tier(up_to=up_to, unit_price=unit, flat_price=flat) for up_to, unit, flat in parts)
    terms = PlanTerms(
        **{column.name: getattr(row, column.name) for column in _COLUMNS},
        tiers=tiers,
        provider_ids=provider_prices.by_field(row.provider_ids),
    )
    return StoredPlan(row.id, row.version, terms, frozenset(row.permission_names), row.created_at, row.updated_at)
