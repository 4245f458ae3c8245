"""Issues a subscription's invoices, including the prorated lines of changes of plan or seats.

A change writes its lines to a draft, in its own transaction; the next invoice of the subscription includes all drafts.
So each change is invoiced exactly once: with the invoice of the period, or on a later one if that was issued before.
It also includes what was used beyond the credits of a postpaid plan (`subscriptions/overage.py`).
Voiding an invoice moves its lines back to a draft. Lines that a credit note reversed are neither invoiced again nor
credited again. The caller has locked the subscription (`subscriptions.get_for_update`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import InUse, NotFound
from gateway.ledger.db.tables import invoices as rows
from gateway.ledger.invoicing import invoices
from gateway.ledger.invoicing.invoices import Invoice, line_from_json, line_to_json
from gateway.ledger.subscriptions import overage, subscriptions
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription, get_existing
from policies.billing.invoicing import Line, Period, Pricing, lines_of, remaining, totals, unused
from policies.billing.money import plain
from policies.model import SubscriptionStatus


@dataclass(frozen=True, slots=True)
class _PeriodPrice:
    """What a plan costs for a whole period. `lines` are empty under usage pricing, where usage is counted."""

    pricing: Pricing
    name: str
    lines: tuple[Line, ...]


async def draft_change(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    old: StoredPlan,
    new: StoredPlan | None,
    quantity: int,
    at: datetime,
) -> None:
    """Drafts the prorated lines of a change within a period: one draft, or two if the currency changes.

    `new` None: another period starts at `at` and gets its own invoice. Trials and subscriptions that a provider bills
    get no draft. Raises InUse for a plan whose tiers do not reach the quantity.
    """
    if before.provider != MANUAL or before.status is SubscriptionStatus.TRIALING:
        return
    period = Period(before.current_period_start, before.current_period_end)
    at = max(period.start, min(at, period.end))
    old_price = _period_price(old, before.quantity)
    new_price = None if new is None else _period_price(new, quantity)
    if old_price == new_price:
        return
    is_covered = await _is_covered(connection, before)
    is_waived = is_covered and await _is_waived(connection, before)
    credited = () if is_waived else unused(old_price.lines, period=period, at=at, currency=old_price.pricing.currency)
    drafts = {old_price.pricing.currency: [*(() if is_covered else _dated(old_price.lines, period)), *credited]}
    if new_price is not None:
        due = remaining(new_price.lines, period=period, at=at, currency=new_price.pricing.currency)
        drafts.setdefault(new_price.pricing.currency, []).extend(due)
    usage = await _usage_span(connection, before, old_price, until=at)
    drafts_by_currency = {
        each: lines for each, lines in drafts.items() if lines or (usage and each == old_price.pricing.currency)
    }
    for number, (currency, lines) in enumerate(drafts_by_currency.items()):
        covered = period if number == 0 and not is_covered else None
        metadata = usage if currency == old_price.pricing.currency else {}
        await _add_draft(connection, before, lines=lines, currency=currency, at=at, covered=covered, metadata=metadata)


async def issue_next(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, tax_rate: Decimal, now: datetime
) -> Invoice:
    """Issues the next invoice: the lines of drafts, and the current period if it has no invoice yet.

    An invoice has one currency, that of the oldest draft or else the plan's; the next invoice includes the others.
    Raises InUse if there is nothing to invoice, as during a trial.
    """
    if subscription.status is SubscriptionStatus.TRIALING:
        raise InUse("a trial costs nothing; its subscription can be invoiced from its first period on")
    period = Period(subscription.current_period_start, subscription.current_period_end)
    drafts = await _take_drafts(connection, subscription)
    price = _period_price(plan, subscription.quantity)
    currency = drafts[0].currency if drafts else price.pricing.currency
    since = await _counted_until(connection, subscription)
    is_covered = await _is_covered(connection, subscription)
    if is_covered and not drafts and not await overage.has_open(connection, subscription.id):
        raise InUse(await _why_nothing_is_due(connection, subscription))
    included = [draft for draft in drafts if draft.currency == currency]
    lines = [line for draft in included for line in await _draft_lines(connection, draft)]
    covers = period if any(draft.period_start == period.start for draft in included) else None
    if currency == price.pricing.currency:
        if not is_covered:
            covers = period
            lines += price.lines
        if price.pricing.model == "usage":
            span = Period(since, max(since, min(now, period.end)))
            lines += await _usage_lines(connection, subscription.id, price.pricing, name=price.name, span=span)
    beyond = await overage.take_lines(connection, subscription.id, currency=currency, now=now)
    await connection.execute(delete(rows).where(rows.c.id.in_([draft.id for draft in included])))
    return await invoices.issue(
        connection,
        subscription.user_id,
        lines=[*lines, *beyond],
        currency=currency,
        tax_rate=tax_rate,
        now=now,
        subscription_id=subscription.id,
        period=covers,
        metadata={"is_prorated": True} if included or beyond else {},
    )


async def get_for_update(connection: AsyncConnection, invoice_id: UUID) -> Invoice:
    """The invoice, its subscription locked if it has one. Raises NotFound."""
    found = await invoices.get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    if found.subscription_id is None:
        return found
    await subscriptions.get_for_update(connection, found.subscription_id)
    return await invoices.get(connection, invoice_id) or found


async def void(connection: AsyncConnection, invoice: Invoice, *, now: datetime) -> Invoice:
    """Voids an invoice that `get_for_update` gave; the next invoice of its subscription includes the same lines.

    An invoice of just the current period, without changes before or after, is replaced by the plan's price and the
    usage at the next issue. Raises InUse for an invoice that is not open or was credited.
    """
    if await connection.scalar(select(rows.c.id).where(rows.c.corrects_id == invoice.id)) is not None:
        raise InUse("this invoice was taken back by its credit note; it need not become void")
    voided = await invoices.close(connection, invoice.id, status="void", now=now)
    if voided.subscription_id is not None:
        await _restore_draft(connection, await get_existing(connection, voided.subscription_id), voided)
    return voided


def _period_price(plan: StoredPlan, quantity: int) -> _PeriodPrice:
    terms, pricing = plan.terms, plan.terms.pricing
    if pricing.model == "usage":
        return _PeriodPrice(pricing, terms.name, ())
    try:
        return _PeriodPrice(pricing, terms.name, lines_of(pricing, quantity, description=terms.name))
    except ValueError as error:
        raise InUse(f"the plan {plan.id} has no price for a quantity of {quantity}: {error}") from None


def _dated(lines: Iterable[Line], period: Period) -> list[Line]:
    """Adds the period to descriptions, since a later invoice may have the lines. Drops lines of no amount."""
    span = f"{period.start:%Y-%m-%d} to {period.end:%Y-%m-%d}"
    return [replace(line, description=f"{line.description}, {span}") for line in lines if line.amount]


def _own(subscription: StoredSubscription) -> ColumnElement[bool]:
    """Its invoices and drafts issued here, without credit notes."""
    is_manual = (rows.c.provider == MANUAL) & rows.c.corrects_id.is_(None)
    return (rows.c.subscription_id == subscription.id) & is_manual


_invoiced_at = func.coalesce(rows.c.issued_at, rows.c.created_at)
_CREDIT_NOTES = rows.alias()
_IS_CREDITED = exists().where(_CREDIT_NOTES.c.corrects_id == rows.c.id)


async def _is_covered(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the current period has an invoice or a draft, credited or not."""
    return (await connection.scalar(select(rows.c.id).where(_of_period(subscription)))) is not None


async def _is_waived(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the period's invoice was credited, and no later change has invoiced the rest of the period."""
    is_credited = await connection.scalar(select(_IS_CREDITED).where(_of_period(subscription)))
    is_of_change = (rows.c.status == "draft") | rows.c.metadata.has_key("is_prorated")
    since = select(rows.c.id).where(
        _own(subscription),
        is_of_change,
        rows.c.status != "void",
        ~_IS_CREDITED,
        _invoiced_at >= subscription.current_period_start,
    )
    return bool(is_credited) and (await connection.scalar(since.limit(1))) is None


def _of_period(subscription: StoredSubscription) -> ColumnElement[bool]:
    """Matches at most one, by a unique index."""
    is_its = (rows.c.period_start == subscription.current_period_start) & (rows.c.status != "void")
    return _own(subscription) & is_its


async def _why_nothing_is_due(connection: AsyncConnection, subscription: StoredSubscription) -> str:
    if await connection.scalar(select(_IS_CREDITED).where(_of_period(subscription))):
        return "the invoice of this period was taken back by a credit note; a period is not asked for twice"
    return "this period has its invoice; only while that is open can it be made void and issued again"


async def _is_whole(connection: AsyncConnection, subscription: StoredSubscription, voided: Invoice) -> bool:
    """Whether the invoice had the price of the current period and nothing else."""
    if voided.period_start != subscription.current_period_start or "is_prorated" in voided.metadata:
        return False
    later = select(rows.c.id).where(_own(subscription), rows.c.status != "void", _invoiced_at >= voided.issued_at)
    return (await connection.scalar(later.limit(1))) is None


async def _restore_draft(connection: AsyncConnection, subscription: StoredSubscription, voided: Invoice) -> None:
    """The draft is dated as the invoice was: its lines include the usage up to then."""
    is_whole = await _is_whole(connection, subscription, voided)
    start, end = voided.period_start, voided.period_end
    await _add_draft(
        connection,
        subscription,
        lines=[line_from_json(each) for each in voided.lines],
        currency=voided.currency,
        at=voided.issued_at or voided.created_at,
        covered=Period(start, end) if start and end else None,
        metadata={"is_whole": True} if is_whole else {},
    )


async def _add_draft(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    lines: Sequence[Line],
    currency: str,
    at: datetime,
    covered: Period | None,
    metadata: Mapping[str, Any],
) -> None:
    """`covered` is the period whose price is among the lines. Tax is added at issue."""
    found = totals(lines, tax_rate=Decimal(0), currency=currency)
    draft = insert(rows).values(
        user_id=subscription.user_id,
        subscription_id=subscription.id,
        currency=currency,
        subtotal=found.subtotal,
        total=found.total,
        lines=[line_to_json(line) for line in lines],
        period_start=covered and covered.start,
        period_end=covered and covered.end,
        created_at=at,
        metadata=dict(metadata),
    )
    await connection.execute(draft)


async def _drafts(connection: AsyncConnection, subscription: StoredSubscription) -> Sequence[Row[Any]]:
    """Oldest first."""
    query = select(rows).where(_own(subscription), rows.c.status == "draft").order_by(rows.c.created_at, rows.c.id)
    return (await connection.execute(query)).all()


async def _take_drafts(connection: AsyncConnection, subscription: StoredSubscription) -> Sequence[Row[Any]]:
    """The drafts to include. A single draft of the whole current period is deleted, as the plan's price replaces it."""
    drafts = await _drafts(connection, subscription)
    if len(drafts) != 1 or "is_whole" not in drafts[0].metadata:
        return drafts
    if drafts[0].period_start != subscription.current_period_start:
        return drafts
    await connection.execute(delete(rows).where(rows.c.id == drafts[0].id))
    return ()


async def _usage_span(
    connection: AsyncConnection, subscription: StoredSubscription, price: _PeriodPrice, *, until: datetime
) -> dict[str, Any]:
    """The usage to count at issue, not now: the journal may still contain usage of the span."""
    if price.pricing.model != "usage":
        return {}
    since = await _counted_until(connection, subscription)
    return {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "unit_price": plain(price.pricing.price),
        "name": price.name,
    }


async def _counted_until(connection: AsyncConnection, subscription: StoredSubscription) -> datetime:
    """The time up to which the current period's usage is on an invoice or draft."""
    start = subscription.current_period_start
    invoiced_until = select(func.max(_invoiced_at)).where(_own(subscription), rows.c.status != "void")
    return max(start, await connection.scalar(invoiced_until) or start)


async def _draft_lines(connection: AsyncConnection, draft: Row[Any]) -> list[Line]:
    lines = [line_from_json(each) for each in draft.lines]
    usage = draft.metadata
    if "since" in usage:
        span = Period(datetime.fromisoformat(usage["since"]), datetime.fromisoformat(usage["until"]))
        pricing = Pricing("usage", Decimal(usage["unit_price"]), draft.currency)
        lines += await _usage_lines(connection, draft.subscription_id, pricing, name=usage["name"], span=span)
    return lines


async def _usage_lines(
    connection: AsyncConnection, subscription_id: UUID, pricing: Pricing, *, name: str, span: Period
) -> tuple[Line, ...]:
    used = await invoices.credits_used(connection, subscription_id, period=span)
    return lines_of(pricing, used, description=name)
