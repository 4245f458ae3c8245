"""Coupons that customers enter at a checkout, and their redemptions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.admin.preconditions import STALE, PreconditionDep, TaggingDep
from gateway.api.checkout import CheckoutService, CheckoutServiceDep
from gateway.api.errors import Invalid
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.coupons import Coupon, Redemption, coupon_of
from gateway.api.schemas.fields import (
    CouponPeriods,
    Currency,
    Flag,
    FutureInstant,
    Line,
    Percent,
    PositiveCount,
    PositiveCredits,
    Price,
    Text,
)
from gateway.api.schemas.pages import PageModel, PageQuery, PatchModel, RequestModel, page_of, unset
from gateway.ledger.catalogue import coupons, plans
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import redemptions
from policies.billing.money import fits

router = APIRouter(tags=["coupons"])

Code = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_upper=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{2,39}$"),
    Field(description="What customers enter, in capitals or not.", examples=["LAUNCH20"]),
]
Ids = Annotated[list[Line], Field(max_length=100)]
_PLANS = "By id; null: every plan, [] none."
_PACKS = "By id; null: every pack, [] none."
_TOTAL = "Of all accounts; null: no limit."


class NewCoupon(RequestModel):
    code: Code
    description: Text | None = None
    percent_off: Percent | None = Field(
        default=None, examples=["20"], description="One of this, `amount_off` and `bonus_credits`."
    )
    amount_off: Price | None = Field(default=None, description="Of one payment, in `currency`.")
    currency: Currency | None = Field(default=None, description="Of `amount_off`.")
    bonus_credits: PositiveCredits | None = Field(
        default=None, description="Come with a pack, and are a part of what was bought: a refund takes them back too."
    )
    periods: CouponPeriods = Field(default=1, description="Of a plan, from the first payment on.")
    plans: Ids | None = Field(default=None, description=_PLANS)
    packs: Ids | None = Field(default=None, description=_PACKS)
    max_redemptions: PositiveCount | None = Field(default=None, description=_TOTAL)
    once_per_account: Flag = True
    expires_at: FutureInstant | None = None
    is_active: Flag = True

    @model_validator(mode="after")
    def _gives_one_thing(self) -> Self:
        if [self.percent_off, self.amount_off, self.bonus_credits].count(None) != 2:
            raise ValueError("give one of percent_off, amount_off and bonus_credits")
        if (self.amount_off is None) != (self.currency is None):
            raise ValueError("give amount_off and currency together")
        if self.amount_off == 0:
            raise ValueError("amount_off takes nothing off")
        if self.amount_off is not None and self.currency is not None and not fits(self.amount_off, self.currency):
            raise ValueError(f"amount_off is no amount of {self.currency}")
        return self


class CouponPatch(PatchModel):
    """What a coupon gives stays as it is: make another one instead."""

    description: Text | None = None
    plans: Ids | None = Field(default=None, description=_PLANS)
    packs: Ids | None = Field(default=None, description=_PACKS)
    max_redemptions: PositiveCount | None = Field(default=None, description=_TOTAL)
    once_per_account: Flag = unset()
    expires_at: FutureInstant | None = None
    is_active: Flag = unset()


class RedemptionQuery(PageQuery):
    coupon_id: UUID | None = None
    user_id: UUID | None = None
    status: Literal["reserved", "redeemed", "released"] | None = None


@router.post("/coupons", status_code=201, summary="Create a coupon", responses=CONFLICTS)
async def create_coupon(body: NewCoupon, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep) -> Coupon:
    async with unit_of_work.change() as change:
        await _check_sold(change.connection, checkout_service, plan_ids=body.plans or (), pack_ids=body.packs or ())
        created = coupon_of(await coupons.create(change.connection, **body.model_dump()), redeemed=0, discounts={})
        await change.record("coupons.create", "coupon", entity_id=created.id, after=created)
    return created


@router.get("/coupons", summary="List coupons")
async def list_coupons(query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Coupon]:
    async with unit_of_work.read() as connection:
        page = await coupons.list_coupons(connection, cursor=query.cursor, limit=query.limit)
        ids = tuple(each.id for each in page.data)
        redeemed = await redemptions.count_redeemed(connection, ids)
        discounts = await redemptions.sum_discounts(connection, ids)
    return page_of(page, lambda each: coupon_of(each, redeemed=redeemed[each.id], discounts=discounts[each.id]))


@router.get("/coupons/{coupon_id}", summary="Get a coupon", responses=UNKNOWN)
async def get_coupon(coupon_id: UUID, unit_of_work: UnitOfWorkDep, tagging: TaggingDep) -> Coupon:
    async with unit_of_work.read() as connection:
        row = await coupons.get(connection, coupon_id)
        if row is None:
            raise NotFound("coupon", coupon_id)
        return tagging.tagged(await _shown(connection, row))


@router.patch("/coupons/{coupon_id}", summary="Change or disable a coupon", responses=UNKNOWN | CONFLICTS | STALE)
async def change_coupon(
    coupon_id: UUID,
    patch: CouponPatch,
    unit_of_work: UnitOfWorkDep,
    precondition: PreconditionDep,
    checkout_service: CheckoutServiceDep,
) -> Coupon:
    """Checkouts that were begun before can still be paid at, within the hour that they last."""
    async with unit_of_work.change() as change:
        before = await _shown(change.connection, await coupons.get_for_update(change.connection, coupon_id))
        precondition.check(before)
        await _check_sold(change.connection, checkout_service, plan_ids=patch.plans or (), pack_ids=patch.packs or ())
        after = await _shown(change.connection, await coupons.patch(change.connection, coupon_id, **patch.changes()))
        await change.record("coupons.change", "coupon", entity_id=coupon_id, before=before, after=after)
    return precondition.tagged(after)


@router.get("/coupon-redemptions", summary="Who used which coupon")
async def list_redemptions(
    query: Annotated[RedemptionQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[Redemption]:
    """Reserved while its checkout can be paid at, redeemed once it is, released where it never was."""
    async with unit_of_work.read() as connection:
        page = await redemptions.list_redemptions(connection, **query.model_dump())
    return page_of(page, Redemption.model_validate)


async def _shown(connection: AsyncConnection, row: coupons.Coupon) -> Coupon:
    redeemed = await redemptions.count_redeemed(connection, (row.id,))
    discounts = await redemptions.sum_discounts(connection, (row.id,))
    return coupon_of(row, redeemed=redeemed[row.id], discounts=discounts[row.id])


async def _check_sold(
    connection: AsyncConnection,
    checkout_service: CheckoutService,
    *,
    plan_ids: Collection[str],
    pack_ids: Collection[str],
) -> None:
    """Raises Invalid for what is not for sale, so that no typo makes a coupon that is good for nothing."""
    for plan_id in plan_ids:
        if await plans.get(connection, plan_id) is None:
            raise Invalid("plans", f"there is no plan {plan_id}")
    known = {pack.id for pack in checkout_service.packs}
    for pack_id in pack_ids:
        if pack_id not in known:
            raise Invalid("packs", f"there is no pack {pack_id}")
