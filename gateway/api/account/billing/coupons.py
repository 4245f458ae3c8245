"""What a coupon would give a customer, and the coupons that they have used."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.account.billing.own_subscription import offered_plan
from gateway.api.account.dependencies import Me
from gateway.api.billed_subscriptions import is_free
from gateway.api.checkout import CheckoutServiceDep, check_seats
from gateway.api.errors import Invalid
from gateway.api.openapi import SIGNED_IN, UNKNOWN
from gateway.api.schemas.coupons import OwnRedemption
from gateway.api.schemas.fields import CouponCode, Line, PositiveCount
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, ResponseModel, page_of
from gateway.api.selling import coupons
from gateway.clock import now
from gateway.ledger.payments import redemptions
from policies.billing.coupons import describe, discount_of
from policies.billing.money import plain

router = APIRouter(prefix="/me/coupons", tags=["billing"], responses=SIGNED_IN)


class WantedOffer(RequestModel):
    code: CouponCode
    plan: Line | None = Field(default=None, description="One of this and `pack`.")
    pack: Line | None = None
    quantity: PositiveCount = Field(default=1, description="Seats, of a plan that has them.")


class CouponPreview(ResponseModel):
    code: str
    description: str = Field(description="What it gives, in words.", examples=["20 % off, for 3 periods"])
    price: str = Field(description="Without the coupon.")
    discount: str
    discounted_price: str = Field(description="Before tax.")
    currency: str
    bonus_credits: int


@router.get("", summary="Coupons that you used, newest first")
async def list_my_coupons(query: Annotated[PageQuery, Query()], me: Me) -> PageModel[OwnRedemption]:
    async with me.unit_of_work.read() as connection:
        page = await redemptions.list_redemptions(connection, user_id=me.id, cursor=query.cursor, limit=query.limit)
    return page_of(page, OwnRedemption.model_validate)


@router.post("/preview", summary="What a coupon would give you", responses=UNKNOWN)
async def preview_coupon(wanted: WantedOffer, me: Me, checkout_service: CheckoutServiceDep) -> CouponPreview:
    """422 says why it does not hold for the plan or pack. Reserves nothing."""
    if (wanted.plan is None) == (wanted.pack is None):
        raise Invalid("plan", "name a plan or a pack")
    async with me.unit_of_work.read() as connection:
        if wanted.plan is not None:
            plan = await offered_plan(connection, me, wanted.plan)
            check_seats(plan, wanted.quantity)
            if is_free(plan.terms):
                raise Invalid("coupon", f"is for what costs something, and {plan.id} is free")
            offer = coupons.offer_of_plan(plan, quantity=wanted.quantity)
        else:
            offer = coupons.offer_of_pack(checkout_service.pack(wanted.pack or ""))
        coupon = await coupons.find(connection, wanted.code, user_id=me.id, offer=offer, now=now())
    discount = discount_of(coupon.terms, offer)
    return CouponPreview(
        code=coupon.code,
        description=describe(coupon.terms, is_plan=offer.is_plan),
        price=plain(offer.price),
        discount=plain(discount),
        discounted_price=plain(offer.price - discount),
        currency=offer.currency,
        bonus_credits=coupon.bonus_credits or 0,
    )
