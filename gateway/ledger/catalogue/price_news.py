"""Tells subscribers of another price of their plan, with the price that each of them has had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from policies.billing.invoicing import Pricing, first_price
from policies.billing.money import plain
from policies.billing.news import PRICE_CHANGED

# A provider goes on charging what it charged, and whoever keeps a version for good goes on paying its price.
_TELL = text("""
    WITH told AS (
         INSERT INTO notices (id, user_id, kind, payload)
         SELECT gen_random_uuid(), s.user_id, :kind,
                CAST(:payload AS jsonb) || jsonb_build_object('subscription_id', s.id, 'effective_at', to_jsonb(
                    CASE WHEN s.keeps_version AND NOT :is_at_once THEN s.current_period_end
                    ELSE s.current_period_start END))
           FROM subscriptions s
          WHERE s.plan_id = :plan_id AND s.provider = 'manual' AND s.status IN ('trialing', 'active')
            AND NOT s.cancel_at_period_end
            AND CASE WHEN CAST(:version AS bigint) IS NULL THEN NOT s.keeps_version
                ELSE s.keeps_version AND s.plan_version = :version AND (s.metadata ? 'keeps_version_for') = :waits END
         RETURNING id)
    INSERT INTO notice_deliveries (notice_id, channel)
    SELECT told.id, channel FROM told CROSS JOIN unnest(CAST(:channels AS text[])) channel
""")


@dataclass(frozen=True, slots=True)
class PriceChange:
    """`name` is that of the plan."""

    plan_id: str
    name: str
    former: Pricing
    present: Pricing


def payload(prices: PriceChange) -> dict[str, str]:
    """What is told of another price."""
    return {
        "plan_id": prices.plan_id,
        "plan": prices.name,
        "previous_price": plain(first_price(prices.former)),
        "price": plain(first_price(prices.present)),
        "currency": prices.present.currency,
    }


async def tell(connection: AsyncConnection, prices: PriceChange, *, had: Mapping[int | None, Pricing]) -> None:
    """Tells those who wait for the price with a version of that of their next period, and those who follow the plan
    (None) of that of the present one. `had` are the prices by version; if one comes back, `former` is named.
    """
    for version, kept in had.items():
        former = prices.former if kept == prices.present else kept
        await _tell(connection, replace(prices, former=former), version=version, waits=True, is_at_once=False)


async def tell_at_once(
    connection: AsyncConnection,
    prices: PriceChange,
    *,
    had: Mapping[int | None, Pricing],
    kept: Sequence[tuple[int, bool]],
) -> None:
    """Tells everyone of the price of the present period, before they have it: who follows the plan, and who has `kept`
    a version, with whether they wait with it. Whoever kept one for good was never told of another price, so nothing is
    news to them where theirs comes back."""
    for version, waits in (*kept, (None, False)):
        former = prices.former if version is None or (waits and had[version] == prices.present) else had[version]
        if former != prices.present:
            await _tell(connection, replace(prices, former=former), version=version, waits=waits, is_at_once=True)


async def _tell(
    connection: AsyncConnection, prices: PriceChange, *, version: int | None, waits: bool, is_at_once: bool
) -> None:
    whom = {"plan_id": prices.plan_id, "version": version, "waits": waits, "is_at_once": is_at_once}
    channels = [notifications.MAIL, notifications.WEBHOOK]
    told = {"kind": PRICE_CHANGED, "payload": json.dumps(payload(prices)), "channels": channels}
    await connection.execute(_TELL, whom | told)
