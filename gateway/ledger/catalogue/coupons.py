"""Coupons: what customers enter at a checkout to pay less, or to get more credits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import coupons
from policies.billing.coupons import CouponTerms


@dataclass(frozen=True, slots=True)
class Coupon:
    """One of `percent_off`, `amount_off` and `bonus_credits`; `plans`, `packs` and `max_redemptions` None: no limit."""

    id: UUID
    code: str
    description: str | None
    percent_off: Decimal | None
    amount_off: Decimal | None
    currency: str | None
    bonus_credits: int | None
    periods: int
    plans: tuple[str, ...] | None
    packs: tuple[str, ...] | None
    max_redemptions: int | None
    once_per_account: bool
    expires_at: datetime | None
    is_active: bool
    created_at: datetime
    updated_at: datetime

    @property
    def terms(self) -> CouponTerms:
        return CouponTerms(
            percent_off=self.percent_off,
            amount_off=self.amount_off,
            currency=self.currency,
            bonus_credits=self.bonus_credits,
            periods=self.periods,
            plans=self.plans,
            packs=self.packs,
            expires_at=self.expires_at,
            is_active=self.is_active,
        )


_COLUMNS = columns(coupons, Coupon)


async def create(connection: AsyncConnection, **fields: Any) -> Coupon:
    """`fields` are those of Coupon. Raises AlreadyExists for a code that there is, InvalidValue."""
    async with checked(connection, "coupon"):
        statement = insert(coupons).values(**fields).returning(*_COLUMNS)
        return value(Coupon, (await connection.execute(statement)).one())


async def get(connection: AsyncConnection, coupon_id: UUID) -> Coupon | None:
    row = (await connection.execute(select(*_COLUMNS).where(coupons.c.id == coupon_id))).one_or_none()
    return None if row is None else value(Coupon, row)


async def get_for_update(connection: AsyncConnection, coupon_id: UUID) -> Coupon:
    """The coupon, locked until the transaction ends. Raises NotFound."""
    row = (await connection.execute(select(*_COLUMNS).where(coupons.c.id == coupon_id).with_for_update())).one_or_none()
    if row is None:
        raise NotFound("coupon", coupon_id)
    return value(Coupon, row)


async def find(connection: AsyncConnection, code: str) -> Coupon | None:
    """By the code, in capitals or not."""
    row = (await connection.execute(select(*_COLUMNS).where(coupons.c.code == code.strip().upper()))).one_or_none()
    return None if row is None else value(Coupon, row)


async def list_coupons(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 50) -> Page[Coupon]:
    return await page_by_time(connection, select(*_COLUMNS), Coupon, cursor=cursor, limit=limit)


async def patch(connection: AsyncConnection, coupon_id: UUID, **changes: Any) -> Coupon:
    """Changes the named fields. What it gives never changes: a redemption says by its coupon what was given."""
    changed = update(coupons).where(coupons.c.id == coupon_id).values(**changes, updated_at=func.now())
    async with checked(connection, "coupon"):
        return value(Coupon, (await connection.execute(changed.returning(*_COLUMNS))).one())
