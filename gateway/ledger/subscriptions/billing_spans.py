"""Ended stretches of time under the same terms: what the invoices of subscriptions that no provider bills are made of.

Whatever ends a period or changes its terms writes the span that ended, in the same transaction. A span keeps its price,
so a period can be invoiced long after it has ended; and it keeps how much of its usage is invoiced, so usage that is
recorded late is invoiced later, and once. Spans of a subscription neither overlap nor leave out time that costs money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db import tables
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import billing_spans, usage_tracking
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription
from policies.billing.invoicing import Period, PriceTier, Pricing
from policies.billing.money import plain
from policies.model import SubscriptionStatus

# How long after its span usage may be recorded and still be found: gateways keep what they could not write for days.
LATE_USAGE = timedelta(days=92)


@dataclass(frozen=True, slots=True)
class BillingSpan:
    """`credits_billed` None: its usage was never counted. `ends_period`: the price of its period is due at its end."""

    id: UUID
    subscription_id: UUID
    starts_at: datetime
    ends_at: datetime
    period_start: datetime
    period_end: datetime
    ends_period: bool
    plan_id: str
    quantity: int
    pricing: Mapping[str, Any]
    credits_used: int
    credits_billed: int | None
    is_price_billed: bool
    buyer: Mapping[str, Any] | None
    invoice_id: UUID | None
    closed_at: datetime | None

    @property
    def period(self) -> Period:
        return Period(self.period_start, self.period_end)

    @property
    def name(self) -> str:
        return str(self.pricing.get("name", ""))

    @property
    def terms(self) -> Pricing | None:
        """None for time that costs nothing."""
        return pricing_from_json(self.pricing) if "model" in self.pricing else None


_COLUMNS = columns(billing_spans, BillingSpan)


async def end_span(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, at: datetime, ends_period: bool
) -> None:
    """Writes the span that ends at `at`, on the plan's terms; with `ends_period` also its period, which is once only.

    The caller has locked the account. Trials and subscriptions that a provider bills have no spans, and free periods in
    which nothing else was asked for none either.
    """
    if subscription.provider != MANUAL or subscription.status is SubscriptionStatus.TRIALING:
        return
    if ends_period and is_free(plan) and not await _has_more(connection, subscription):
        return
    last = await _last_end(connection, subscription)
    start = max(last or subscription.current_period_start, subscription.current_period_start)
    span = {
        "subscription_id": subscription.id,
        "starts_at": start,
        "ends_at": max(start, min(at, subscription.current_period_end)),
        "period_start": subscription.current_period_start,
        "period_end": subscription.current_period_end,
        "ends_period": ends_period,
        "plan_id": plan.id,
        "quantity": subscription.quantity,
        "pricing": {"name": plan.terms.name, **pricing_to_json(plan.terms.pricing)},
    }
    await connection.execute(insert(billing_spans).values(span).on_conflict_do_nothing(**_PERIOD_ENDS_ONCE))


async def find_open(
    connection: AsyncConnection, *, until: datetime, limit: int, exclude: Sequence[UUID] = ()
) -> Sequence[tuple[BillingSpan, UUID]]:
    """Ended periods that are not closed, oldest first, with the user of each; without subscriptions of `exclude`."""
    query = (
        select(*_COLUMNS, tables.subscriptions.c.user_id)
        .join(tables.subscriptions, tables.subscriptions.c.id == billing_spans.c.subscription_id)
        .where(*_IS_OPEN, billing_spans.c.ends_at <= until, billing_spans.c.subscription_id.not_in(exclude))
        .order_by(billing_spans.c.ends_at)
        .limit(limit)
    )
    rows = (await connection.execute(query)).all()
    return [(BillingSpan(*row[:-1]), row[-1]) for row in rows]


async def get_period(connection: AsyncConnection, subscription_id: UUID, *, start: datetime) -> BillingSpan | None:
    """The span that ended the period which started then."""
    is_its = (billing_spans.c.subscription_id == subscription_id) & (billing_spans.c.period_start == start)
    row = (await connection.execute(select(*_COLUMNS).where(is_its, billing_spans.c.ends_period))).one_or_none()
    return None if row is None else value(BillingSpan, row)


async def close(connection: AsyncConnection, span: BillingSpan, *, invoice_id: UUID | None, now: datetime) -> None:
    """Marks the period as invoiced, or as one that needs no invoice."""
    closed = {"invoice_id": invoice_id, "closed_at": now, "buyer": None}
    await connection.execute(update(billing_spans).where(billing_spans.c.id == span.id).values(closed))


async def list_countable(connection: AsyncConnection, subscription_id: UUID, *, now: datetime) -> list[BillingSpan]:
    """Spans whose usage was never counted, and all of a period whose usage may have grown since; oldest first."""
    may_grow = or_(billing_spans.c.credits_billed.is_(None), billing_spans.c.period_end > now - LATE_USAGE)
    query = select(*_COLUMNS).where(billing_spans.c.subscription_id == subscription_id, may_grow)
    rows = await connection.execute(query.order_by(billing_spans.c.starts_at, billing_spans.c.ends_at))
    return [value(BillingSpan, row) for row in rows]


async def count_usage(connection: AsyncConnection, span: BillingSpan, user_id: UUID) -> int:
    """Credits charged in the span; never fewer than counted before, since old usage records are deleted."""
    used = select(func.coalesce(func.sum(usage_tracking.c.credits_charged), 0)).where(
        usage_tracking.c.user_id == user_id,
        usage_tracking.c.subscription_id == span.subscription_id,
        usage_tracking.c.created_at >= span.starts_at,
        usage_tracking.c.created_at < span.ends_at,
    )
    return max(span.credits_used, int((await connection.execute(used)).scalar_one()))


async def mark_billed(connection: AsyncConnection, span: BillingSpan, *, used: int) -> None:
    counted = {"credits_used": used, "credits_billed": used}
    await connection.execute(update(billing_spans).where(billing_spans.c.id == span.id).values(counted))


async def count(connection: AsyncConnection, subscription: StoredSubscription, *, now: datetime) -> None:
    """Stores the usage of the subscription's spans, so that the invoice knows it when the records are deleted."""
    for span in await list_countable(connection, subscription.id, now=now):
        counted = {"credits_used": await count_usage(connection, span, subscription.user_id)}
        await connection.execute(update(billing_spans).where(billing_spans.c.id == span.id).values(counted))


async def mark_price_billed(connection: AsyncConnection, subscription_id: UUID, *, period_start: datetime) -> None:
    """For a period whose price goes on an invoice of another one."""
    is_its = (billing_spans.c.subscription_id == subscription_id) & (billing_spans.c.period_start == period_start)
    await connection.execute(update(billing_spans).where(is_its, *_IS_OPEN).values(is_price_billed=True))


async def had_other_plan(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the subscription was on another plan than now in its present period."""
    in_period = (billing_spans.c.subscription_id == subscription.id) & (
        billing_spans.c.period_start == subscription.current_period_start
    )
    others = select(billing_spans.c.id).where(in_period, billing_spans.c.plan_id != subscription.plan_id)
    return (await connection.scalar(others.limit(1))) is not None


async def has_billed_more(
    connection: AsyncConnection, subscription: StoredSubscription, *, billed: Mapping[datetime, int]
) -> bool:
    """Whether more was billed of a span of the present period than this, by the start of the span."""
    query = select(billing_spans.c.starts_at, billing_spans.c.credits_billed).where(
        billing_spans.c.subscription_id == subscription.id,
        billing_spans.c.period_start == subscription.current_period_start,
        billing_spans.c.credits_billed.is_not(None),
    )
    spans = (await connection.execute(query)).all()
    return any(span.credits_billed > billed.get(span.starts_at, 0) for span in spans)


async def restart_period(
    connection: AsyncConnection, subscription: StoredSubscription, *, billed: Mapping[datetime, int]
) -> None:
    """Undoes an invoice of the present period: what it billed of each span, by its start, is to be billed again.

    The period's own spans go, since the whole of it is to be invoiced on the terms of then.
    """
    of_subscription = billing_spans.c.subscription_id == subscription.id
    for starts_at, credits in billed.items():
        unbilled = {"credits_billed": func.greatest(0, billing_spans.c.credits_billed - credits)}
        was_billed = billing_spans.c.credits_billed.is_not(None)
        await connection.execute(
            update(billing_spans)
            .where(of_subscription, billing_spans.c.starts_at == starts_at, was_billed)
            .values(unbilled)
        )
    in_period = (billing_spans.c.period_start == subscription.current_period_start) & ~billing_spans.c.ends_period
    await connection.execute(delete(billing_spans).where(of_subscription, in_period))


async def keep_buyer(connection: AsyncConnection, user_id: UUID, buyer: Mapping[str, Any]) -> None:
    """Before an account is erased: its last invoice is still to be issued, and law asks for its buyer."""
    of_user = select(tables.subscriptions.c.id).where(tables.subscriptions.c.user_id == user_id)
    is_its = billing_spans.c.subscription_id.in_(of_user)
    await connection.execute(update(billing_spans).where(is_its, *_IS_OPEN).values(buyer=dict(buyer)))


async def find_kept_buyer(connection: AsyncConnection, subscription_id: UUID) -> Mapping[str, Any] | None:
    """What `keep_buyer` kept; None where nothing is open."""
    its = (billing_spans.c.subscription_id == subscription_id) & billing_spans.c.buyer.is_not(None)
    found: Mapping[str, Any] | None = await connection.scalar(select(billing_spans.c.buyer).where(its).limit(1))
    return found


async def find_halted(connection: AsyncConnection, *, now: datetime, limit: int) -> Sequence[UUID]:
    """Subscriptions whose period has ended, and which begin none: paused, past due or of a suspended account."""
    return (await connection.scalars(_HALTED, {"now": now, "limit": limit})).all()


async def find_uncounted(connection: AsyncConnection, *, since: datetime, limit: int) -> Sequence[UUID]:
    """Subscriptions priced by usage of which nothing was counted since then: those of long periods."""
    return (await connection.scalars(_UNCOUNTED, {"since": since, "limit": limit})).all()


async def find_late_usage(connection: AsyncConnection, *, now: datetime, limit: int) -> Sequence[UUID]:
    """Ended subscriptions with usage, or a debt of a postpaid plan, that was recorded after their last invoice."""
    return (await connection.scalars(_LATE, {"since": now - LATE_USAGE, "limit": limit})).all()


def is_free(plan: StoredPlan) -> bool:
    """Whether its periods cost nothing, whatever is used."""
    return plan.terms.price == 0 and not plan.terms.tiers and not plan.terms.overage_price


_IS_OPEN = (billing_spans.c.ends_period, billing_spans.c.closed_at.is_(None))
_PERIOD_ENDS_ONCE: dict[str, Any] = {
    "index_elements": ["subscription_id", "period_start"],
    "index_where": billing_spans.c.ends_period,
}

_HAS_MORE = text(f"""
    SELECT EXISTS (SELECT FROM billing_spans WHERE subscription_id = :id AND period_start = :start)
        OR EXISTS (SELECT FROM overages WHERE subscription_id = :id AND invoiced_at IS NULL)
        OR EXISTS (SELECT FROM invoices WHERE subscription_id = :id AND status = 'draft' AND provider = '{MANUAL}')
""")  # noqa: S608 - made of constants

# A free period without anything else gets no span (`end_span`), and would be found for ever.
_HALTED = text(f"""
    SELECT s.id FROM subscriptions s JOIN subscription_plans p ON p.id = s.plan_id
     WHERE s.provider = '{MANUAL}' AND s.status IN ('active', 'paused', 'past_due') AND s.current_period_end <= :now
       AND (s.status <> 'active' OR EXISTS (SELECT FROM users u WHERE u.id = s.user_id AND u.status = 'suspended'))
       AND NOT EXISTS (SELECT FROM billing_spans b
                        WHERE b.subscription_id = s.id AND b.period_start = s.current_period_start AND b.ends_period)
       AND (s.keeps_version OR p.price > 0 OR p.overage_price > 0
            OR EXISTS (SELECT FROM pricing_tiers t WHERE t.plan_id = p.id)
            OR EXISTS (SELECT FROM billing_spans b
                        WHERE b.subscription_id = s.id AND b.period_start = s.current_period_start)
            OR EXISTS (SELECT FROM overages o WHERE o.subscription_id = s.id AND o.invoiced_at IS NULL)
            OR EXISTS (SELECT FROM invoices i
                        WHERE i.subscription_id = s.id AND i.status = 'draft' AND i.provider = '{MANUAL}'))
     ORDER BY s.current_period_end LIMIT :limit
""")  # noqa: S608 - made of constants

_UNCOUNTED = text(f"""
    SELECT s.id FROM subscriptions s JOIN subscription_plans p ON p.id = s.plan_id
      LEFT JOIN plan_versions v ON s.keeps_version AND v.plan_id = s.plan_id AND v.version = s.plan_version
     WHERE s.provider = '{MANUAL}' AND s.status IN ('active', 'past_due', 'paused') AND s.current_period_start < :since
       AND s.current_period_end > :since
       AND coalesce(v.terms ->> 'pricing_model', p.pricing_model) = 'usage'
       AND NOT EXISTS (SELECT FROM billing_spans b WHERE b.subscription_id = s.id AND b.ends_at >= :since)
     LIMIT :limit
""")  # noqa: S608 - made of constants

_LATE = text(f"""
    SELECT o.subscription_id FROM overages o
      JOIN subscriptions s ON s.id = o.subscription_id AND s.status IN ('canceled', 'expired')
     WHERE o.invoiced_at IS NULL AND s.provider = '{MANUAL}'
       AND NOT EXISTS (SELECT FROM billing_spans b
                        WHERE b.subscription_id = s.id AND b.ends_period AND b.closed_at IS NULL)
    UNION
    SELECT b.subscription_id FROM billing_spans b
      JOIN subscriptions s ON s.id = b.subscription_id AND s.status IN ('canceled', 'expired')
     CROSS JOIN LATERAL (SELECT sum(u.credits_charged) AS credits FROM usage_tracking u
                          WHERE u.user_id = s.user_id AND u.subscription_id = s.id
                            AND u.created_at >= b.starts_at AND u.created_at < b.ends_at) used
     WHERE b.ends_at > :since AND b.pricing ->> 'model' = 'usage' AND used.credits > b.credits_billed
     LIMIT :limit
""")  # noqa: S608 - made of constants


async def _last_end(connection: AsyncConnection, subscription: StoredSubscription) -> datetime | None:
    query = select(func.max(billing_spans.c.ends_at)).where(billing_spans.c.subscription_id == subscription.id)
    found: datetime | None = await connection.scalar(query)
    return found


async def _has_more(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the period has other spans, or lines wait in a draft."""
    of_period = {"id": subscription.id, "start": subscription.current_period_start}
    return bool(await connection.scalar(_HAS_MORE, of_period))


def pricing_to_json(pricing: Pricing) -> dict[str, Any]:
    """Amounts are strings, so that JSON keeps them exact."""
    tiers = [[tier.up_to, plain(tier.unit_price), plain(tier.flat_price)] for tier in pricing.tiers]
    return {
        "model": pricing.model,
        "price": plain(pricing.price),
        "currency": pricing.currency,
        **({"tiers": tiers, "tiers_mode": pricing.tiers_mode} if tiers else {}),
    }


def pricing_from_json(stored: Mapping[str, Any]) -> Pricing:
    tiers = (PriceTier(up_to, Decimal(unit), Decimal(flat)) for up_to, unit, flat in stored.get("tiers", ()))
    mode = stored.get("tiers_mode")
    return Pricing(stored["model"], Decimal(stored["price"]), stored["currency"], tuple(tiers), mode)
