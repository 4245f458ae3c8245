"""Which parts of a provider's objects sell a plan of the gateway, by the table of price ids.

A subscription may have other items: usage of a meter, or another product of the seller.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import provider_prices
from gateway.ledger.catalogue.provider_prices import PlanPrice
from policies.billing.payments import RemoteItem, RemotePayment, RemoteSubscription


class ProviderMismatch(Exception):  # noqa: N818 - a state of the world that an operator must correct
    """The provider's objects contradict the database, so nothing of the update is applied."""


async def get_price(connection: AsyncConnection, provider: str, price_id: str) -> PlanPrice:
    """Raises ProviderMismatch."""
    price = await provider_prices.find(connection, provider, price_id=price_id)
    if price is None:
        raise ProviderMismatch(f"{price_id} is the price of no plan: give a plan this id, then replay the event")
    return price


async def choose_item(connection: AsyncConnection, provider: str, remote: RemoteSubscription) -> RemoteSubscription:
    """The subscription by its item that sells a plan; as it is where none does. Raises ProviderMismatch for several."""
    if len(remote.items) < 2:
        return remote
    own = await _sold(connection, provider, remote.items)
    if len(own) > 1:
        ids = ", ".join(item.price_id for item in own)
        raise ProviderMismatch(f"subscription {remote.id} sells several plans: {ids}; leave one of them in it")
    return remote.with_item(own[0]) if own else remote


async def find_next_change(
    connection: AsyncConnection, provider: str, remote: RemoteSubscription
) -> tuple[str, int] | None:
    """The plan and the seats that are scheduled for the next period; None where they stay as they are."""
    own = await _sold(connection, provider, remote.next_items)
    if len(own) != 1 or (own[0].price_id, own[0].quantity) == (remote.price_id, remote.quantity):
        return None
    price = await get_price(connection, provider, own[0].price_id)
    return price.plan_id, own[0].quantity


async def choose_line(connection: AsyncConnection, provider: str, remote: RemotePayment) -> RemotePayment:
    """The payment by its line that sells a plan; as it is where none does."""
    known = await provider_prices.find_sold(connection, provider, [line.price_id for line in remote.lines])
    own = next((line for line in remote.lines if line.price_id in known), None)
    return remote if own is None else remote.with_line(own)


async def _sold(connection: AsyncConnection, provider: str, items: Iterable[RemoteItem]) -> list[RemoteItem]:
    known = await provider_prices.find_sold(connection, provider, [item.price_id for item in items])
    return [item for item in items if item.price_id in known]
