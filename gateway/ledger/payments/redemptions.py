"""Redemptions of coupons: reserved with a checkout, redeemed when it is completed, released when it is not.

Whoever redeems holds the lock of the coupon, so that its limits hold whoever else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import coupons
from gateway.ledger.catalogue.coupons import Coupon
from gateway.ledger.db.rows import Page, columns, page_by_time
from gateway.ledger.db.tables import checkouts, coupon_redemptions
from gateway.ledger.db.tables import coupons as coupons_table
from policies.billing.coupons import Purchase, discount_of, refusal
from policies.wording import counted

_redemption = coupon_redemptions.c


class CouponRefused(Exception):  # noqa: N818 - an answer (422), not a fault
    """The coupon does not hold for this checkout; the message says why."""


class UnknownCoupon(CouponRefused):
    """There is no coupon of this code."""


@dataclass(frozen=True, slots=True)
class Redemption:
    """`discount` is what was offered off one payment; `status` is reserved, redeemed or released."""

    id: UUID
    coupon_id: UUID
    code: str
    user_id: UUID
    checkout_id: UUID
    status: str
    discount: Decimal
    currency: str
    bonus_credits: int
    pack_id: str | None
    subscription_id: UUID | None
    redeemed_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OpenCheckout:
    """A checkout that has a coupon reserved; without `provider_checkout_id` nobody was told where to pay."""

    id: UUID
    provider: str
    provider_checkout_id: str | None


async def check(connection: AsyncConnection, code: str, *, user_id: UUID, offer: Purchase, now: datetime) -> Coupon:
    """The coupon, which holds for the offer. Raises UnknownCoupon, CouponRefused."""
    found = await coupons.find(connection, code)
    if found is None:
        raise UnknownCoupon(f"there is no coupon {code.strip().upper()[:40]}")
    if (reason := refusal(found.terms, offer, now=now)) is not None:
        raise CouponRefused(f"{found.code} {reason}")
    if found.once_per_account and await _count(connection, found, user_id=user_id, statuses=("redeemed",)):
        raise CouponRefused(f"{found.code} can be used once, and you have used it")
    return found


async def list_open(connection: AsyncConnection, coupon: Coupon, *, user_id: UUID) -> tuple[OpenCheckout, ...]:
    """The user's checkouts that have this coupon reserved."""
    query = (
        select(checkouts.c.id, checkouts.c.provider, checkouts.c.provider_checkout_id)
        .join(coupon_redemptions, _redemption.checkout_id == checkouts.c.id)
        .where(_redemption.coupon_id == coupon.id, _redemption.user_id == user_id, _counts(("reserved",)))
    )
    return tuple(OpenCheckout(*row) for row in await connection.execute(query))


async def lock(connection: AsyncConnection, begun: OpenCheckout) -> OpenCheckout:
    """The same checkout as it is now; until the end of the transaction nobody is told where to pay."""
    await is_released(connection, begun.id)
    query = select(checkouts.c.id, checkouts.c.provider, checkouts.c.provider_checkout_id)
    return OpenCheckout(*(await connection.execute(query.where(checkouts.c.id == begun.id))).one())


async def reserve(
    connection: AsyncConnection, coupon: Coupon, checkout_id: UUID, *, user_id: UUID, offer: Purchase, until: datetime
) -> None:
    """Reserves the coupon for the checkout, under the coupon's lock. Raises CouponRefused where its limits are met."""
    locked = await coupons.get_for_update(connection, coupon.id)
    if locked.max_redemptions is not None and await _count(connection, locked) >= locked.max_redemptions:
        raise CouponRefused(f"{locked.code} was for {counted(locked.max_redemptions, 'purchase')}, and is used up")
    if locked.once_per_account and await _count(connection, locked, user_id=user_id):
        raise CouponRefused(f"{locked.code} can be used once, and another checkout of yours has it")
    row = {
        "coupon_id": locked.id,
        "user_id": user_id,
        "checkout_id": checkout_id,
        "discount": discount_of(locked.terms, offer),
        "currency": offer.currency,
        "bonus_credits": locked.bonus_credits or 0,
        "reserved_until": until,
    }
    await connection.execute(insert(coupon_redemptions).values(row))


async def keep_until_told(connection: AsyncConnection, checkout_id: UUID) -> None:
    """Of a provider that tells what became of each checkout: the reservation lasts until then."""
    await _set(connection, _redemption.checkout_id == checkout_id, reserved_until=None)


async def is_released(connection: AsyncConnection, checkout_id: UUID) -> bool:
    """Whether another checkout took the coupon of this one; locked, so that none takes it from now on."""
    query = select(_redemption.status).where(_redemption.checkout_id == checkout_id).with_for_update()
    return await connection.scalar(query) == "released"


async def lock_bonus(connection: AsyncConnection, checkout_id: UUID) -> int:
    """The bonus credits of the checkout, 0 without any; until the transaction ends nobody else is given them."""
    query = select(_redemption.bonus_credits).where(
        _redemption.checkout_id == checkout_id, _redemption.bonus_credits > 0
    )
    return await connection.scalar(query.with_for_update()) or 0


async def redeem(connection: AsyncConnection, checkout_id: UUID) -> None:
    """For a checkout that was completed; nothing where it had no coupon, or was redeemed before."""
    is_new = and_(_redemption.checkout_id == checkout_id, _redemption.status != "redeemed")
    await _set(connection, is_new, status="redeemed", redeemed_at=func.now(), reserved_until=None)


async def release(connection: AsyncConnection, checkout_id: UUID) -> None:
    """For a checkout that nobody can pay at any more."""
    is_open = and_(_redemption.checkout_id == checkout_id, _redemption.status == "reserved")
    await _set(connection, is_open, status="released", reserved_until=None)


async def list_redemptions(
    connection: AsyncConnection,
    *,
    coupon_id: UUID | None = None,
    user_id: UUID | None = None,
    status: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Redemption]:
    """Newest first; None matches all."""
    own = columns(coupon_redemptions, _OwnColumns)
    query = select(*own, coupons_table.c.code, checkouts.c.pack_id, checkouts.c.subscription_id)
    query = query.join(coupons_table, coupons_table.c.id == _redemption.coupon_id)
    query = query.join(checkouts, checkouts.c.id == _redemption.checkout_id)
    for name, expected in {"coupon_id": coupon_id, "user_id": user_id, "status": status}.items():
        if expected is not None:
            query = query.where(_redemption[name] == expected)
    return await page_by_time(connection, query, Redemption, cursor=cursor, limit=limit)


@dataclass(frozen=True, slots=True)
class _OwnColumns:
    """The fields of Redemption that are columns of its table."""

    id: UUID
    coupon_id: UUID
    user_id: UUID
    checkout_id: UUID
    status: str
    discount: Decimal
    currency: str
    bonus_credits: int
    redeemed_at: datetime | None
    created_at: datetime


async def count_redeemed(connection: AsyncConnection, coupon_ids: tuple[UUID, ...]) -> dict[UUID, int]:
    """How often each was redeemed."""
    query = (
        select(_redemption.coupon_id, func.count().label("redeemed"))
        .where(_redemption.coupon_id.in_(coupon_ids), _redemption.status == "redeemed")
        .group_by(_redemption.coupon_id)
    )
    found = {row.coupon_id: row.redeemed for row in await connection.execute(query)}
    return {each: found.get(each, 0) for each in coupon_ids}


async def sum_discounts(connection: AsyncConnection, coupon_ids: tuple[UUID, ...]) -> dict[UUID, dict[str, Decimal]]:
    """What each took off the payments that it was entered for, by currency; not off those of a plan's later periods."""
    query = (
        select(_redemption.coupon_id, _redemption.currency, func.sum(_redemption.discount).label("discount"))
        .where(_redemption.coupon_id.in_(coupon_ids), _redemption.status == "redeemed", _redemption.discount > 0)
        .group_by(_redemption.coupon_id, _redemption.currency)
        .order_by(_redemption.currency)
    )
    found: dict[UUID, dict[str, Decimal]] = {each: {} for each in coupon_ids}
    for row in await connection.execute(query):
        found[row.coupon_id][row.currency] = row.discount
    return found


async def _count(
    connection: AsyncConnection,
    coupon: Coupon,
    *,
    user_id: UUID | None = None,
    statuses: tuple[str, ...] = ("reserved", "redeemed"),
) -> int:
    query = select(func.count()).where(_redemption.coupon_id == coupon.id, _counts(statuses))
    if user_id is not None:
        query = query.where(_redemption.user_id == user_id)
    return await connection.scalar(query) or 0


def _counts(statuses: tuple[str, ...]) -> ColumnElement[bool]:
    """A reservation that has run out counts no more."""
    lasts = or_(_redemption.reserved_until.is_(None), _redemption.reserved_until > func.now())
    return and_(_redemption.status != "released", _redemption.status.in_(statuses), lasts)


async def _set(connection: AsyncConnection, condition: ColumnElement[bool], **changes: Any) -> None:
    await connection.execute(update(coupon_redemptions).where(condition).values(**changes, updated_at=func.now()))
