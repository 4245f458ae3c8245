"""Plans: limits, credits and prices of subscriptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.catalogue.plan_terms import check_fallback, checked, tiers_of
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.admin.preconditions import STALE, PreconditionDep, TaggingDep
from gateway.api.checkout import CheckoutService, CheckoutServiceDep
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.api_keys import check_permissions
from gateway.api.schemas.billing_records import PriceDifference, Tier
from gateway.api.schemas.fields import (
    Count,
    Credits,
    Currency,
    FeatureName,
    FeatureSetting,
    Flag,
    Line,
    PositiveCount,
    PositiveCredits,
    PositiveSize,
    Price,
    Size,
    Text,
    TrialDays,
    Word,
)
from gateway.api.schemas.pages import (
    PageModel,
    PatchModel,
    RequestModel,
    ResponseModel,
    ShortListQuery,
    page_of_all,
    unset,
)
from gateway.ledger.catalogue import plan_migration, plans
from gateway.ledger.db.errors import InUse, NotFound
from gateway.ledger.db.outbox import bump_catalogue
from gateway.payments import price_checks
from policies.billing.money import plain
from policies.billing.overage import Overage
from policies.billing.providers import ID_FIELDS, provider_ids
from policies.model import FeatureValue, PastDue

router = APIRouter(prefix="/plans", tags=["plans"])

PricingModel = Literal["flat", "per_seat", "tiered", "volume", "usage"]
TiersMode = Literal["graduated", "volume"]
Interval = Literal["day", "week", "month", "year"]
Permissions = Annotated[list[Word], Field(max_length=100)]


class NoOtherNames:
    """Adds to the schema that names which do not match the pattern are refused."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {**handler(core), "additionalProperties": False}


Features = Annotated[dict[FeatureName, FeatureSetting], NoOtherNames()]


class NewTier(RequestModel):
    up_to: PositiveSize | None = None
    unit_price: Price
    flat_price: Price = Decimal(0)


class NewOverage(RequestModel):
    credits: PositiveCredits = Field(description="How far below zero a balance may go.")
    price: Price | None = Field(
        default=None, description="Of each credit below zero, before tax; none where the plan is priced by usage."
    )
    stripe_price_id: Line | None = Field(default=None, description="The metered price that bills them at Stripe.")


class PlanOverage(ResponseModel):
    credits: int
    price: str | None = Field(examples=["0.002"])
    stripe_price_id: str | None


class Plan(ResponseModel):
    id: str = Field(examples=["pro"])
    version: int = Field(description="Grows with every change.")
    name: str
    description: str | None
    product_id: UUID | None
    price: str = Field(description="Per billing interval.", examples=["29.99"])
    currency: str
    pricing_model: PricingModel
    tiers: list[Tier] = Field(description="Of tiered and volume pricing, and of usage.")
    tiers_mode: TiersMode | None = Field(description="How tiers price usage.")
    billing_interval: Interval
    billing_interval_count: int
    trial_period_days: int
    credits_per_period: int
    credits_rollover: bool
    requests_per_minute: int | None
    requests_per_hour: int | None
    max_api_calls_per_day: int | None
    max_products_per_batch: int | None
    max_concurrent_requests: int | None
    max_file_size_bytes: int | None
    max_credits_per_call: int | None
    overage: PlanOverage | None = Field(description="Postpaid: usage beyond the credits, which is billed.")
    features: dict[str, FeatureValue]
    permissions: list[str]
    stripe_price_id: str | None
    lemon_squeezy_variant_id: str | None
    lemon_squeezy_product_id: str | None
    is_active: bool
    sort_order: int
    past_due: PastDue
    fallback_plan: str | None
    created_at: datetime
    updated_at: datetime
    price_differences: list[PriceDifference] | None = Field(
        default=None, description="Where a provider charges something else, in answers that save a plan; null: unknown."
    )


class NewPlan(RequestModel):
    """Limits that are null or left out are no limits."""

    id: Word | None = Field(default=None, examples=["team"], description="Made of the name where it is left out.")
    name: Line = Field(examples=["Team"])
    price: Price = Field(
        examples=["49.00"],
        description="Per billing interval, seat or unit, by `pricing_model`; 0 where tiers price it. As a string, so it"
        " stays exact.",
    )
    description: Text | None = None
    product_id: UUID | None = None
    currency: Currency = "USD"
    pricing_model: PricingModel = "flat"
    tiers: list[NewTier] = Field(default_factory=list, max_length=100, description="Rising by `up_to`.")
    tiers_mode: TiersMode | None = Field(default=None, description="How tiers price usage; graduated if left out.")
    billing_interval: Interval = "month"
    billing_interval_count: PositiveCount = 1
    trial_period_days: TrialDays = 0
    credits_per_period: Credits = 0
    credits_rollover: Flag = False
    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    max_api_calls_per_day: Count | None = None
    max_products_per_batch: Count | None = None
    max_concurrent_requests: Count | None = None
    max_file_size_bytes: Size | None = None
    max_credits_per_call: PositiveCredits | None = None
    overage: NewOverage | None = Field(default=None, description="Postpaid: usage beyond the credits, to be billed.")
    features: Features = Field(default_factory=dict, examples=[{"analysis": True}])
    permissions: Permissions = Field(default_factory=list, description="Names of existing permissions.")
    stripe_price_id: Line | None = None
    lemon_squeezy_variant_id: Line | None = None
    lemon_squeezy_product_id: Line | None = None
    is_active: Flag = Field(default=True, description="False: no new subscriptions.")
    sort_order: Count = 0
    past_due: PastDue = Field(
        default=PastDue.PURCHASED_ONLY,
        description="From a failed renewal until that is paid or the grace is over: serve advances the credits of the"
        " unpaid period, purchased_only gives access without them, stop refuses calls.",
    )
    fallback_plan: Line | None = Field(
        default=None,
        examples=["free"],
        description="Id of the plan whose limits and features hold once a subscription has ended, for credits that are"
        " left.",
    )


class PlanPatch(PatchModel):
    name: Line = unset()
    price: Price = unset()
    description: Text | None = None
    product_id: UUID | None = None
    currency: Currency = unset()
    pricing_model: PricingModel = unset()
    tiers: Annotated[list[NewTier], Field(max_length=100)] = unset()
    tiers_mode: TiersMode | None = None
    billing_interval: Interval = unset()
    billing_interval_count: PositiveCount = unset()
    trial_period_days: TrialDays = unset()
    credits_per_period: Credits = unset()
    credits_rollover: Flag = unset()
    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    max_api_calls_per_day: Count | None = None
    max_products_per_batch: Count | None = None
    max_concurrent_requests: Count | None = None
    max_file_size_bytes: Size | None = None
    max_credits_per_call: PositiveCredits | None = None
    overage: NewOverage | None = None
    features: Features = unset()
    permissions: Permissions = unset()
    stripe_price_id: Line | None = None
    lemon_squeezy_variant_id: Line | None = None
    lemon_squeezy_product_id: Line | None = None
    is_active: Flag = unset()
    sort_order: Count = unset()
    past_due: PastDue = unset()
    fallback_plan: Line | None = None
    subscribers: Literal["migrate", "keep"] | None = Field(
        default=None,
        description="migrate: the change is for everyone, at once. keep: who is on the plan keeps the version it has,"
        " until `POST /plans/{plan}/migrate`. Left out: a change of price, currency, pricing model, tiers or interval,"
        " or another id of the price at a provider, leaves subscribers the period that they are in, and whoever a"
        " provider bills keeps the version; a change of"
        " name, description, product, order or `is_active` moves nobody; any other change is for everyone, at once:"
        " who kept a version at another price is told, and has the present price from the next period on.",
    )


class PlanMigration(ResponseModel):
    migrated: int = Field(description="How many subscriptions are moved, now or with their next period.")


@router.get("", summary="List plans")
async def list_plans(query: Annotated[ShortListQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Plan]:
    """By `sort_order`, then price."""
    async with unit_of_work.read() as connection:
        return page_of_all([plan_model(plan) for plan in await plans.list_plans(connection)], query)


@router.post("", status_code=201, summary="Create a plan", responses=UNKNOWN | CONFLICTS)
async def create_plan(body: NewPlan, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep) -> Plan:
    if body.id is None and not plans.slug_of(body.name):
        raise Invalid("id", "is required where the name has no letter or digit to make one of")
    fields = body.model_dump(exclude={"id", "tiers", "overage", "permissions", *ID_FIELDS})
    fields |= _overage(body.overage)
    terms = checked(plans.PlanTerms(**fields, tiers=tiers_of(body.tiers), provider_ids=provider_ids(body)))
    async with unit_of_work.change() as change:
        await check_fallback(change.connection, body.fallback_plan, own_id=body.id)
        await check_permissions(change.connection, body.permissions)
        with _references(body.product_id):
            row = await plans.create(change.connection, terms, plan_id=body.id, permissions=body.permissions)
        created = plan_model(row)
        await change.record("plans.create", "plan", entity_id=created.id, after=created)
    return await _compared(created, row, checkout_service)


@router.get("/{plan}", summary="Get a plan by id or name", responses=UNKNOWN)
async def get_plan(plan: Line, unit_of_work: UnitOfWorkDep, tagging: TaggingDep) -> Plan:
    async with unit_of_work.read() as connection:
        return tagging.tagged(plan_model(await existing_plan(connection, plan)))


@router.patch("/{plan}", summary="Change a plan", responses=UNKNOWN | CONFLICTS | STALE)
async def change_plan(
    plan: Line,
    patch: PlanPatch,
    unit_of_work: UnitOfWorkDep,
    checkout_service: CheckoutServiceDep,
    precondition: PreconditionDep,
) -> Plan:
    """Limits and features hold for all its subscribers from their next request on, unless they are to keep theirs."""
    changes = patch.changes()
    permissions = changes.pop("permissions", None)
    subscribers = changes.pop("subscribers", None)
    if "tiers" in changes:
        changes["tiers"] = tiers_of(patch.tiers)
    if "overage" in changes:
        changes |= _overage(patch.overage)
        del changes["overage"]
    async with unit_of_work.change() as change:
        # This locks the catalogue: the later of two concurrent changes builds on the earlier one.
        await bump_catalogue(change.connection)
        row = await existing_plan(change.connection, plan)
        precondition.check(plan_model(row))
        ids = {**row.terms.provider_ids} | {name: changes.pop(name) for name in ID_FIELDS if name in changes}
        changes["provider_ids"] = {name: external_id for name, external_id in ids.items() if external_id is not None}
        terms = checked(replace(row.terms, **changes), before=row.terms)
        await check_fallback(change.connection, patch.fallback_plan, own_id=row.id)
        await check_permissions(change.connection, permissions)
        with _references(patch.product_id):
            changed = await plans.change(
                change.connection, row.id, terms, permissions=permissions, subscribers=subscribers
            )
        after = plan_model(changed)
        await change.record("plans.change", "plan", entity_id=row.id, before=plan_model(row), after=after)
    return precondition.tagged(await _compared(after, changed, checkout_service))


@router.post("/{plan}/migrate", summary="Move subscribers of older versions to this one", responses=UNKNOWN)
async def migrate_plan(plan: Line, unit_of_work: UnitOfWorkDep) -> PlanMigration:
    """From their next request on, or where the price differs and no provider charges it from their next period on.
    They are told (`subscription.terms_changed`, `subscription.price_changed`). Whoever followed the plan anyway is on
    it already."""
    async with unit_of_work.change() as change:
        await bump_catalogue(change.connection)
        row = await existing_plan(change.connection, plan)
        done = PlanMigration(migrated=await plan_migration.migrate(change.connection, row.id))
        await change.record("plans.migrate", "plan", entity_id=row.id, after=done)
    return done


@router.delete("/{plan}", status_code=204, summary="Delete a plan", responses=UNKNOWN | CONFLICTS | STALE)
async def delete_plan(plan: Line, unit_of_work: UnitOfWorkDep, precondition: PreconditionDep) -> None:
    """Only one that never had a subscriber. Set `is_active` to false to stop selling a plan."""
    async with unit_of_work.change() as change:
        await bump_catalogue(change.connection)
        row = await existing_plan(change.connection, plan)
        precondition.check(plan_model(row))
        try:
            await plans.remove(change.connection, row.id)
        except InUse:
            raise Conflict("Subscriptions are or were on this plan; set is_active to false instead.") from None
        await change.record("plans.delete", "plan", entity_id=row.id, before=plan_model(row))


async def _compared(saved: Plan, stored: plans.StoredPlan, checkout_service: CheckoutService) -> Plan:
    """The answer names the prices that differ; the plan is saved anyway."""
    found = await price_checks.check(checkout_service.providers.values(), stored.offer)
    if found is None or not checkout_service.providers:
        return saved
    shown = [PriceDifference(provider=each.provider, **asdict(each.difference)) for each in found]
    return saved.model_copy(update={"price_differences": shown})


def plan_model(plan: plans.StoredPlan) -> Plan:
    terms = plan.terms
    own = {name: getattr(plan, name) for name in ("id", "version", "created_at", "updated_at")}
    own["permissions"] = sorted(plan.permissions)
    elsewhere = own.keys() | ID_FIELDS.keys() | {"overage", "price_differences"}
    said = {name: getattr(terms, name) for name in Plan.model_fields if name not in elsewhere}
    ids = {name: terms.provider_ids.get(name) for name in ID_FIELDS}
    priced = {"price": plain(terms.price), "tiers": [Tier.of(tier) for tier in terms.tiers]}
    overage = terms.overage and _overage_model(terms.overage, terms.overage_stripe_price_id)
    return Plan.model_validate(own | said | ids | priced | {"overage": overage})


async def existing_plan(connection: AsyncConnection, named: str) -> plans.StoredPlan:
    """By id or by name. Raises NotFound."""
    plan = await plans.find(connection, named)
    if plan is None:
        raise NotFound("plan", named)
    return plan


async def offered_plan(connection: AsyncConnection, named: str) -> plans.StoredPlan:
    """A plan that new subscriptions can have. Raises NotFound, Conflict."""
    plan = await existing_plan(connection, named)
    if not plan.terms.is_active:
        raise Conflict(f"The plan {plan.id} is not sold any more; choose one whose is_active is true.")
    return plan


def _overage(body: NewOverage | None) -> dict[str, Any]:
    given = {} if body is None else body.model_dump()
    return {f"overage_{name}": given.get(name) for name in NewOverage.model_fields}


def _overage_model(overage: Overage, stripe_price_id: str | None) -> PlanOverage:
    price = None if overage.price is None else plain(overage.price)
    return PlanOverage(credits=overage.credits, price=price, stripe_price_id=stripe_price_id)


@contextmanager
def _references(product_id: UUID | None) -> Iterator[None]:
    """Raises NotFound for the product, the only reference of a plan that may be unknown."""
    try:
        yield
    except InUse:
        raise NotFound("product", product_id) from None
