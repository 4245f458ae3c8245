"""Remembers in a subscription's metadata what holds for its present period, and for no other."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import subscriptions
from gateway.ledger.subscriptions.subscriptions import StoredSubscription

_PERIOD_START = "period_start"


class PeriodMark(StrEnum):
    """`asked_price`: at what price its rest was asked for. `given_credits`: how many credits a whole period has by the
    terms by which it was given its own."""

    ASKED_PRICE = "asked_price"
    GIVEN_CREDITS = "given_credits"


async def record(
    connection: AsyncConnection, subscription: StoredSubscription, mark: PeriodMark, values: Mapping[str, Any]
) -> None:
    """The caller has locked the subscription."""
    marked = {mark: {_PERIOD_START: subscription.current_period_start.isoformat(), **values}}
    recorded = subscriptions.c.metadata.concat(literal(marked, JSONB))
    await connection.execute(
        update(subscriptions).where(subscriptions.c.id == subscription.id).values(metadata=recorded)
    )


async def find(
    connection: AsyncConnection, subscription: StoredSubscription, mark: PeriodMark
) -> Mapping[str, Any] | None:
    """None where nothing is recorded of the present period."""
    query = select(subscriptions.c.metadata[mark]).where(subscriptions.c.id == subscription.id)
    found: Mapping[str, Any] | None = await connection.scalar(query)
    if found is None or found[_PERIOD_START] != subscription.current_period_start.isoformat():
        return None
    return found
