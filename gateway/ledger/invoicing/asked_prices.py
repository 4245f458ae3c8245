"""The price at which the rest of a subscription's present period was asked for, by an invoice or a draft.

The plan's price may be another one since, as after a change of the plan that is for everyone at once. What is given
back for unused time is of the price that was asked, never of one that nobody has been asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import subscriptions
from gateway.ledger.subscriptions.billing_spans import pricing_from_json, pricing_to_json
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.billing.invoicing import Pricing

# A mark in the metadata of the subscription.
_ASKED = "asked_price"


@dataclass(frozen=True, slots=True)
class AskedPrice:
    """`name` is that of the plan, `quantity` its seats."""

    pricing: Pricing
    name: str
    quantity: int


async def record(connection: AsyncConnection, subscription: StoredSubscription, price: AskedPrice) -> None:
    """The caller has locked the subscription."""
    terms = {"name": price.name, "quantity": price.quantity, **pricing_to_json(price.pricing)}
    asked = {"period_start": subscription.current_period_start.isoformat(), **terms}
    recorded = subscriptions.c.metadata.concat(literal({_ASKED: asked}, JSONB))
    await connection.execute(
        update(subscriptions).where(subscriptions.c.id == subscription.id).values(metadata=recorded)
    )


async def find(connection: AsyncConnection, subscription: StoredSubscription) -> AskedPrice | None:
    """None where nothing is recorded of the present period."""
    query = select(subscriptions.c.metadata[_ASKED]).where(subscriptions.c.id == subscription.id)
    asked = await connection.scalar(query)
    if asked is None or asked["period_start"] != subscription.current_period_start.isoformat():
        return None
    return AskedPrice(pricing_from_json(asked), asked["name"], asked["quantity"])
