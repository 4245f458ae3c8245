"""Coupons and their redemptions, as operators and customers see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import Field

from gateway.api.schemas.billing_records import Amount
from gateway.api.schemas.pages import ResponseModel
from gateway.ledger.catalogue import coupons


class Coupon(ResponseModel):
    id: UUID
    code: str
    description: str | None
    percent_off: Amount | None
    amount_off: Amount | None
    currency: str | None
    bonus_credits: int | None
    periods: int = Field(description="Of a plan, from the first payment on.")
    plans: list[str] | None = Field(description="null: every plan.")
    packs: list[str] | None = Field(description="null: every pack.")
    max_redemptions: int | None
    once_per_account: bool
    expires_at: datetime | None
    is_active: bool
    redeemed: int = Field(description="How often it was used.")
    discounts: dict[str, Amount] = Field(
        description="By currency, off the payments it was entered for; later periods of a plan are not in it."
    )
    created_at: datetime
    updated_at: datetime


class OwnRedemption(ResponseModel):
    """What a customer got by a coupon."""

    id: UUID
    code: str
    status: str = Field(description="reserved, redeemed or released")
    discount: Amount = Field(description="Off one payment, as it was offered.")
    currency: str
    bonus_credits: int
    pack_id: str | None
    subscription_id: UUID | None
    redeemed_at: datetime | None
    created_at: datetime


class Redemption(OwnRedemption):
    coupon_id: UUID
    user_id: UUID
    checkout_id: UUID


def coupon_of(row: coupons.Coupon, *, redeemed: int, discounts: Mapping[str, Decimal]) -> Coupon:
    return Coupon.model_validate({**asdict(row), "redeemed": redeemed, "discounts": dict(discounts)})
