"""Automatic top-ups of a customer: what they agree to, the card that pays, and what was charged."""

from __future__ import annotations

from functools import partial
from typing import cast
from uuid import uuid4

from fastapi import APIRouter
from pydantic import Field

from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.checkout import (
    CheckoutService,
    CheckoutServiceDep,
    PaymentsNotConfigured,
    pace_provider_calls,
    with_customer,
)
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, SIGNED_IN
from gateway.api.schemas.fields import Line, PositiveCredits, Price
from gateway.api.schemas.pages import RequestModel, ResponseModel
from gateway.api.selling.top_ups import TopUp, top_up_of
from gateway.ledger.payments import top_ups
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.payments.top_ups import TopUpSettings
from gateway.payments.provider import CardProvider, Provider
from policies.billing.money import fits, plain
from policies.billing.payments import ObjectKind, ObjectRef
from policies.billing.providers import PROVIDERS
from policies.billing.top_ups import TopUpStatus

router = APIRouter(prefix="/me/top-up", tags=["billing"], responses=SIGNED_IN | PAID_FOR)


class TopUpAgreement(RequestModel):
    """What may be charged without asking again."""

    pack: Line = Field(examples=["pack-100"], description="What is bought each time, at the price of now.")
    threshold: PositiveCredits = Field(examples=[50], description="It tops up when fewer credits are left.")
    daily_limit: Price = Field(examples=["20.00"], description="The most in a day, in UTC and the pack's currency.")
    monthly_limit: Price = Field(examples=["100.00"], description="The most in a calendar month.")


class CardPage(ResponseModel):
    url: str = Field(description="The provider's page, where the card is saved. Nothing is paid there.")


@router.get("", summary="Your automatic top-up")
async def get_top_up(me: Me) -> TopUp:
    async with me.unit_of_work.read() as connection:
        return await top_up_of(connection, me.id)


@router.put("", summary="Agree to automatic top-ups", responses=CONFLICTS)
async def agree_to_top_up(body: TopUpAgreement, me: Me, checkout_service: CheckoutServiceDep) -> TopUp:
    """On at once where a card is saved; else `POST /me/top-up/card` leads to where one is."""
    provider = _provider(checkout_service)
    pack = checkout_service.pack(body.pack)
    for name, limit in (("daily_limit", body.daily_limit), ("monthly_limit", body.monthly_limit)):
        if not fits(limit, pack.currency):
            raise Invalid(name, f"is no amount of {pack.currency}")
        if limit < pack.price:
            raise Invalid(name, f"is less than the pack costs, {plain(pack.price)} {pack.currency}")
    async with me.unit_of_work.change() as change:
        before = await top_up_of(change.connection, me.id)
        await top_ups.agree(
            change.connection,
            me.id,
            provider=provider.name,
            pack_id=pack.id,
            threshold=body.threshold,
            price=pack.price,
            currency=pack.currency,
            daily_limit=body.daily_limit,
            monthly_limit=body.monthly_limit,
        )
        after = await top_up_of(change.connection, me.id)
        await change.record("top_up.agree", "user", entity_id=me.id, before=before, after=after)
    return after


@router.post("/card", summary="Save a card for top-ups", responses=CONFLICTS)
async def save_card(me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep) -> CardPage:
    """A new card starts what had stopped."""
    provider = _provider(checkout_service)
    await _agreed(me)
    pace_provider_calls(me.user)
    back = checkout_service.return_url()
    call = partial(
        cast("CardProvider", provider).create_setup,
        return_url=back,
        cancel_url=checkout_service.cancel_url or back,
        key=uuid4().hex,
    )
    created = await with_customer(provider, dependencies.database, me.user, call)
    async with me.unit_of_work.change() as change:
        await top_ups.record_setup(change.connection, me.id, checkout_id=created.id)
    return CardPage(url=created.url)


@router.post("/confirm", summary="Ask the provider whether a card was saved", responses=CONFLICTS)
async def confirm_card(me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep) -> TopUp:
    """For a client who is back before the provider's message is here. Asking again changes nothing."""
    provider, agreed = _provider(checkout_service), await _agreed(me)
    if agreed.setup_checkout_id is not None:
        pace_provider_calls(me.user)
        fetch = partial(provider.fetch, ObjectRef(ObjectKind.CHECKOUT, agreed.setup_checkout_id))
        update = await fetch_update(dependencies.database, provider, fetch)
        async with me.unit_of_work.change() as change:
            await apply_update(change.connection, update)
    return await get_top_up(me)


@router.delete("", summary="Turn automatic top-ups off")
async def turn_off_top_up(me: Me) -> TopUp:
    """And forget the card here. A payment that is under way is not called back."""
    async with me.unit_of_work.change() as change:
        before = await top_up_of(change.connection, me.id)
        await top_ups.turn_off(change.connection, me.id)
        after = await top_up_of(change.connection, me.id)
        await change.record("top_up.turn_off", "user", entity_id=me.id, before=before, after=after)
    return after


def can_top_up(checkout_service: CheckoutService) -> bool:
    default = checkout_service.providers.get(checkout_service.default or "")
    return default is not None and default.traits.charges_saved_cards


async def _agreed(me: Me) -> TopUpSettings:
    async with me.unit_of_work.read() as connection:
        found = await top_ups.get_settings(connection, me.id)
    if found is None or found.status is TopUpStatus.OFF:
        raise Conflict("Nothing tops up yet: PUT /me/top-up says what may be charged.")
    return found


def _provider(checkout_service: CheckoutService) -> Provider:
    """Raises PaymentsNotConfigured."""
    provider = checkout_service.provider()
    if not provider.traits.charges_saved_cards:
        raise PaymentsNotConfigured(f"{PROVIDERS[provider.name].title} charges no saved cards here.")
    return provider
