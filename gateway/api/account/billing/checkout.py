"""Packs of credits, checkouts, and the provider's customer portal."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import Field

from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.checkout import (
    CheckoutServiceDep,
    ProviderName,
    Sale,
    create_pack_checkout,
    fetch_checkout_update,
    pace_provider_calls,
    with_customer,
)
from gateway.api.openapi import CONFLICTS, PAID_FOR, SIGNED_IN, UNKNOWN
from gateway.api.schemas.fields import CouponCode, CouponInQuery, Line
from gateway.api.schemas.pages import PageModel, RequestModel, ResponseModel
from gateway.clock import now
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import checkouts
from gateway.ledger.payments.provider_updates import apply_update
from policies.billing.money import plain

router = APIRouter(prefix="/me", tags=["billing"], responses=SIGNED_IN | PAID_FOR)


class Pack(ResponseModel):
    id: str
    name: str
    credits: int
    price: str
    currency: str


class NewCheckout(RequestModel):
    pack: Line = Field(examples=["pack-100"])
    provider: ProviderName | None = Field(default=None, description="Who takes the payment; the default if left out.")
    coupon: CouponCode | None = Field(default=None, description="`?coupon=` does the same.")


class Checkout(ResponseModel):
    id: UUID
    provider: str
    status: str = Field(description="open, completed or expired")
    url: str | None = Field(description="Where to pay.")
    subscription_id: UUID | None
    pack_id: str | None
    credits: int
    created_at: datetime


class Portal(RequestModel):
    provider: ProviderName | None = None
    return_url: Line | None = Field(
        default=None,
        examples=["https://app.example.com/settings"],
        description="Where the portal leads back to: a page of a site that `billing` names. null:"
        " `billing.portal_return_url`.",
    )


class PortalLink(ResponseModel):
    url: str


@router.get("/credits/packs", summary="Credits for sale")
async def list_packs(me: Me, checkout_service: CheckoutServiceDep) -> PageModel[Pack]:  # noqa: ARG001 - requires a signed-in user
    packs = [
        Pack(id=pack.id, name=pack.name, credits=pack.credits, price=plain(pack.price), currency=pack.currency)
        for pack in checkout_service.packs
    ]
    return PageModel(data=packs, next_cursor=None)


@router.post("/credits/checkout", status_code=201, summary="Buy a pack of credits", responses=CONFLICTS)
async def buy_credits(
    body: NewCheckout,
    me: Me,
    dependencies: DependenciesDep,
    checkout_service: CheckoutServiceDep,
    coupon: CouponInQuery = None,
) -> Checkout:
    """Gives the URL to pay at. The credits are there once the provider says that they are paid for."""
    checkout_service.provider(body.provider)
    pace_provider_calls(me.user)
    sale = Sale(checkout_service, dependencies.database, me.user, body.provider)
    pack = checkout_service.pack(body.pack)
    return Checkout.model_validate(await create_pack_checkout(sale, pack, now=now(), coupon=body.coupon or coupon))


@router.get("/checkout/{checkout_id}", summary="What became of a checkout", responses=UNKNOWN)
async def get_checkout(checkout_id: UUID, me: Me) -> Checkout:
    return Checkout.model_validate(await _own(checkout_id, me))


@router.post("/checkout/{checkout_id}/confirm", summary="Ask the provider what became of it", responses=UNKNOWN)
async def confirm_checkout(
    checkout_id: UUID, me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep
) -> Checkout:
    """For a client who is back before the provider's message is here. Asking again changes nothing."""
    checkout = await _own(checkout_id, me)
    if checkout.status != "completed":
        pace_provider_calls(me.user)
        sale = Sale(checkout_service, dependencies.database, me.user)
        update = await fetch_checkout_update(sale, checkout)
        if update is not None:
            async with me.unit_of_work.change() as change:
                await apply_update(change.connection, update)
    return Checkout.model_validate(await _own(checkout_id, me))


@router.post("/billing/portal", summary="The provider's page for cards and subscriptions", responses=CONFLICTS)
async def open_portal(
    me: Me,
    dependencies: DependenciesDep,
    checkout_service: CheckoutServiceDep,
    body: Annotated[Portal | None, Body()] = None,
) -> PortalLink:
    """It leads back to where the customer came from."""
    provider = checkout_service.provider(body.provider if body else None)
    pace_provider_calls(me.user)
    return_url = checkout_service.portal_return(body.return_url if body else None)
    email = None if me.user.email_verified_at is None else me.user.email
    call = partial(provider.portal_url, email=email, return_url=return_url)
    return PortalLink(url=await with_customer(provider, dependencies.database, me.user, call))


async def _own(checkout_id: UUID, me: Me) -> checkouts.Checkout:
    async with me.unit_of_work.read() as connection:
        found = await checkouts.get(connection, checkout_id)
    if found is None or found.user_id != me.id:
        raise NotFound("checkout", checkout_id)
    return found
