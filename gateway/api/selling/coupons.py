"""Coupons at checkouts: found and checked, freed from the buyer's earlier checkout, and put in a provider's words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.errors import Conflict, Invalid, Throttled
from gateway.config.plans import Pack
from gateway.ledger.catalogue.coupons import Coupon
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.session import Database
from gateway.ledger.invoicing.issued_invoices import price_lines
from gateway.ledger.payments import checkouts, redemptions
from gateway.ledger.payments.checkouts import Checkout
from gateway.ledger.payments.redemptions import CouponRefused, OpenCheckout, UnknownCoupon
from gateway.paced_subjects import PacedSubjects
from gateway.payments.provider import Discount, Provider
from policies.access.throttling import UNKNOWN_COUPONS_OF_ACCOUNT
from policies.billing.coupons import RESERVED_MINUTES, Purchase, describe, months_of

FIELD = "coupon"
_guesses = PacedSubjects(UNKNOWN_COUPONS_OF_ACCOUNT)


class UnknownCode(Invalid):
    """There is no such coupon, whatever it is tried for."""


@dataclass(frozen=True, slots=True)
class HeldCoupon:
    """A coupon that holds for an offer, for a checkout that ends at `expires_at`."""

    coupon: Coupon
    offer: Purchase
    expires_at: datetime

    @property
    def bonus_credits(self) -> int:
        return self.coupon.bonus_credits or 0

    def discount(self, checkout: Checkout) -> Discount | None:
        """None for a coupon that takes nothing off."""
        coupon = self.coupon
        if coupon.bonus_credits is not None:
            return None
        return Discount(
            terms_id=coupon.id.hex,
            code=f"{coupon.code}-{checkout.id.hex[-12:].upper()}",
            name=f"{coupon.code}: {describe(coupon.terms, is_plan=self.offer.is_plan)}",
            percent_off=coupon.percent_off,
            amount_off=coupon.amount_off,
            currency=self.offer.currency,
            months=months_of(coupon.terms, self.offer),
            expires_at=self.expires_at,
        )


def offer_of_plan(plan: StoredPlan, *, quantity: int = 1) -> Purchase:
    """Raises InUse for a quantity for which the plan's tiers have no price."""
    terms = plan.terms
    lines = price_lines(terms.pricing, quantity, name=terms.name) if terms.tiers else ()
    return Purchase(
        id=plan.id,
        price=sum((line.amount for line in lines), terms.price * quantity),
        currency=terms.currency,
        interval=terms.billing_interval,
        interval_count=terms.billing_interval_count,
    )


def offer_of_pack(pack: Pack) -> Purchase:
    return Purchase(id=pack.id, price=pack.price, currency=pack.currency)


async def find(connection: AsyncConnection, code: str, *, user_id: UUID, offer: Purchase, now: datetime) -> Coupon:
    """The coupon, which holds for the offer. Raises Invalid, UnknownCode, and Throttled for who guesses codes."""
    if not _guesses.is_free(user_id):
        raise Throttled(math.ceil(UNKNOWN_COUPONS_OF_ACCOUNT.seconds_each))
    try:
        return await redemptions.check(connection, code, user_id=user_id, offer=offer, now=now)
    except UnknownCoupon as unknown:
        _guesses.take(user_id)
        raise UnknownCode(FIELD, str(unknown)) from None
    except CouponRefused as refused:
        raise Invalid(FIELD, str(refused)) from None


async def hold(
    database: Database, provider: Provider, code: str, *, user_id: UUID, offer: Purchase, now: datetime
) -> HeldCoupon:
    """Checks the coupon, and ends the buyer's earlier checkouts that have it, so that they can use it at this one.

    Raises Invalid, Conflict, ProviderUnavailable, ProviderRefused.
    """
    async with database.read() as connection:
        coupon = await find(connection, code, user_id=user_id, offer=offer, now=now)
        begun = await redemptions.list_open(connection, coupon, user_id=user_id)
    for each in begun:
        await _free(database, provider, each)
    return HeldCoupon(coupon, offer, now + timedelta(minutes=RESERVED_MINUTES))


async def reserve(connection: AsyncConnection, held: HeldCoupon, checkout: Checkout) -> None:
    """Raises Invalid where the coupon's limits are met."""
    try:
        await redemptions.reserve(
            connection,
            held.coupon,
            checkout.id,
            user_id=checkout.user_id,
            offer=held.offer,
            until=held.expires_at,
        )
    except CouponRefused as refused:
        raise Invalid(FIELD, str(refused)) from None


async def keep(connection: AsyncConnection, checkout: Checkout, provider: Provider) -> None:
    """Before the buyer is told where to pay. Raises Conflict where a later checkout of theirs has taken the coupon."""
    if await redemptions.is_released(connection, checkout.id):
        raise Conflict("Another checkout that you began meanwhile has this coupon; pay at that one.")
    if provider.traits.expires_checkouts:
        await redemptions.keep_until_told(connection, checkout.id)


async def _free(database: Database, provider: Provider, begun: OpenCheckout) -> None:
    if begun.provider_checkout_id is not None:
        await _end(provider, begun)
    async with database.transaction() as connection:
        found = await redemptions.lock(connection, begun)
        if found == begun:
            await checkouts.close(connection, begun.id, status="expired")
    if found != begun:  # its buyer has been told where to pay since it was listed
        await _free(database, provider, found)


async def _end(provider: Provider, begun: OpenCheckout) -> None:
    if begun.provider != provider.name or not provider.traits.expires_checkouts:
        raise Conflict(
            "Another checkout that you began has this coupon. Pay at that one, or try again in an hour:"
            f" {begun.provider} cannot end it before."
        )
    if not await provider.expire_checkout(begun.provider_checkout_id or ""):
        raise Conflict("You have used this coupon: its payment is on its way.")
