"""Issues a subscription's invoices, including the prorated lines of changes of plan or seats.

A change writes its lines to a draft, in its own transaction; the next invoice of the subscription includes all drafts.
So each change is invoiced exactly once: with the invoice of the period, or on a later one if that was issued before.
It also includes what was used beyond the credits of a postpaid plan (`subscriptions/overage.py`). Usage is invoiced by
span (`billing_spans`), which keeps how much of it is. Voiding an invoice moves its lines back to a draft. Lines that a
credit note reversed are neither invoiced again nor credited again. `closing.py` issues the invoices of ended periods.
The caller has locked the subscription (`subscriptions.get_for_update`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import InUse, NotFound
from gateway.ledger.db.tables import invoices as rows
from gateway.ledger.invoicing import invoices
from gateway.ledger.invoicing.invoices import Invoice, line_from_json, line_to_json
from gateway.ledger.subscriptions import billing_spans, overage, period_marks, subscriptions
from gateway.ledger.subscriptions.billing_spans import pricing_from_json, pricing_to_json
from gateway.ledger.subscriptions.period_marks import PeriodMark
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription, get_existing
from policies.billing.invoicing import (
    Line,
    LineKind,
    Period,
    Pricing,
    lines_of,
    remaining,
    totals,
    unused,
    usage_lines,
)
from policies.billing.issuing import Issuer
from policies.model import SubscriptionStatus


@dataclass(frozen=True, slots=True)
class _PeriodPrice:
    """What a plan costs for a whole period. `lines` are empty under usage pricing, where usage is counted."""

    pricing: Pricing
    name: str
    quantity: int = field(compare=False)
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
    if is_covered:
        old_price = await _find_asked(connection, before) or old_price
    is_waived = is_covered and await _is_waived(connection, before)
    credited = () if is_waived else unused(old_price.lines, period=period, at=at, currency=old_price.pricing.currency)
    drafts = {old_price.pricing.currency: [*(() if is_covered else _dated(old_price.lines, period)), *credited]}
    if new_price is not None:
        due = remaining(new_price.lines, period=period, at=at, currency=new_price.pricing.currency)
        drafts.setdefault(new_price.pricing.currency, []).extend(due)
        await _record_asked(connection, before, new_price)
    drafts_by_currency = {each: lines for each, lines in drafts.items() if lines}
    for number, (currency, lines) in enumerate(drafts_by_currency.items()):
        covered = period if number == 0 and not is_covered else None
        await add_draft(connection, before, lines=lines, currency=currency, at=at, covered=covered)


async def issue_next(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, issuer: Issuer, now: datetime
) -> Invoice:
    """Issues the next invoice: the lines of drafts, the current period if it has no invoice yet, and usage until now.

    An invoice has one currency, that of the oldest draft or else the plan's; the next invoice includes the others.
    Raises InUse if there is nothing to invoice, as on a free plan, during a trial or after one that was cancelled; the
    caller then rolls back.
    """
    if _is_in_trial(subscription):
        raise InUse("a trial costs nothing; a subscription can be invoiced from its first period on")
    period = Period(subscription.current_period_start, subscription.current_period_end)
    found = await list_drafts(connection, subscription.id)
    drafts = await _take_drafts(connection, subscription, found)
    price = _period_price(plan, subscription.quantity)
    currency = drafts[0].currency if drafts else price.pricing.currency
    is_covered = await _is_covered(connection, subscription)
    if is_covered and not drafts and not await overage.has_open(connection, subscription.id):
        raise InUse(await _why_nothing_is_due(connection, subscription))
    included = [draft for draft in drafts if draft.currency == currency]
    lines = [line_from_json(each) for draft in included for each in draft.lines]
    covers = period if any(draft.period_start == period.start for draft in included) else None
    if currency == price.pricing.currency:
        if not is_covered:
            covers = period
            lines += price.lines
            await _record_asked(connection, subscription, price)
        if price.pricing.model == "usage":
            await billing_spans.end_span(connection, subscription, plan=plan, at=now, ends_period=False)
    lines += await bill_usage(connection, subscription, currency=currency, period=period, now=now)
    beyond = await overage.take_lines(connection, subscription.id, currency=currency, now=now)
    if not found and not any(line.amount for line in (*lines, *beyond)):
        raise InUse("nothing is to be invoiced: the plan costs nothing, or nothing was used yet that has a price")
    await remove_drafts(connection, included, but_for=period.start)
    return await invoices.issue(
        connection,
        subscription.user_id,
        lines=[*lines, *beyond],
        currency=currency,
        issuer=issuer,
        now=now,
        subscription_id=subscription.id,
        plan_id=subscription.plan_id,
        period=covers,
        metadata={"is_prorated": True} if included or beyond else {},
    )


async def bill_usage(
    connection: AsyncConnection, subscription: StoredSubscription, *, currency: str, period: Period, now: datetime
) -> list[Line]:
    """Lines for all usage in the currency that no invoice has yet, marked as invoiced by this transaction.

    Lines of other periods than `period` name their time. Tiers count all usage of a period on the same terms.
    """
    lines: list[Line] = []
    spans = await billing_spans.list_countable(connection, subscription.id, now=now)
    billed_at = Counter[tuple[datetime, Pricing | None]]()
    for span in spans:
        billed_at[span.period_start, span.terms] += span.credits_billed or 0
    for span in spans:
        pricing = span.terms
        if pricing is None or pricing.model != "usage" or pricing.currency != currency:
            continue
        used = await billing_spans.count_usage(connection, span, subscription.user_id)
        time = Period(span.starts_at, span.ends_at)
        is_of_period = span.period_start == period.start and span.credits_billed is None
        name = span.name if is_of_period else f"Usage from {time.start:%Y-%m-%d} to {time.end:%Y-%m-%d}: {span.name}"
        more = used - (span.credits_billed or 0)
        billed = billed_at[span.period_start, pricing]
        billed_at[span.period_start, pricing] += more
        found = usage_lines(pricing, billed + more, billed=billed, description=name)
        lines += [replace(line, period=time) for line in found]
        await billing_spans.mark_billed(connection, span, used=used)
    return lines


async def remove_drafts(connection: AsyncConnection, drafts: Sequence[Row[Any]], *, but_for: datetime) -> None:
    """Deletes drafts whose lines an invoice includes. Periods other than that from `but_for` are asked for with it."""
    for draft in drafts:
        if draft.period_start is not None and draft.period_start != but_for:
            await billing_spans.mark_price_billed(connection, draft.subscription_id, period_start=draft.period_start)
    await connection.execute(delete(rows).where(rows.c.id.in_([draft.id for draft in drafts])))


async def get_for_update(connection: AsyncConnection, invoice_id: UUID) -> Invoice:
    """The invoice, locked, and before it its subscription if it has one. Raises NotFound."""
    found = await invoices.get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    if found.subscription_id is not None:
        await subscriptions.get_for_update(connection, found.subscription_id)
    return await invoices.get_for_update(connection, invoice_id)


async def void(connection: AsyncConnection, invoice: Invoice, *, now: datetime) -> Invoice:
    """Voids an invoice that `get_for_update` gave; the next invoice of its subscription includes the same lines.

    An invoice of just the current period, without changes before or after, is replaced by the plan's price and the
    usage at the next issue. Raises InUse for an invoice that is not open or was credited.
    """
    if await connection.scalar(select(rows.c.id).where(rows.c.corrects_id == invoice.id).limit(1)) is not None:
        raise InUse("this invoice was taken back by its credit note; it need not become void")
    voided = await invoices.close(connection, invoice.id, status="void", now=now)
    if voided.subscription_id is not None:
        await _restore_draft(connection, await get_existing(connection, voided.subscription_id), voided)
    return voided


def _is_in_trial(subscription: StoredSubscription) -> bool:
    """Whether its period is the trial, also of one that ended with it or was cancelled within it."""
    if subscription.status in (SubscriptionStatus.CANCELED, SubscriptionStatus.EXPIRED):
        return subscription.trial_end is not None and subscription.current_period_end <= subscription.trial_end
    return subscription.status is SubscriptionStatus.TRIALING


def price_lines(pricing: Pricing, quantity: int, *, name: str) -> tuple[Line, ...]:
    """The price of a whole period; nothing under usage pricing, where usage is counted. Raises InUse."""
    if pricing.model == "usage":
        return ()
    try:
        return lines_of(pricing, quantity, description=name)
    except ValueError as error:
        raise InUse(f"the plan {name} has no price for a quantity of {quantity}: {error}") from None


def _period_price(plan: StoredPlan, quantity: int) -> _PeriodPrice:
    return _price_at(plan.terms.pricing, plan.terms.name, quantity)


def _price_at(pricing: Pricing, name: str, quantity: int) -> _PeriodPrice:
    return _PeriodPrice(pricing, name, quantity, price_lines(pricing, quantity, name=name))


async def _record_asked(connection: AsyncConnection, subscription: StoredSubscription, price: _PeriodPrice) -> None:
    """Remembers at what price the rest of the present period is asked for; the plan's may become another one."""
    terms = {"name": price.name, "quantity": price.quantity, **pricing_to_json(price.pricing)}
    await period_marks.record(connection, subscription, PeriodMark.ASKED_PRICE, terms)


async def _find_asked(connection: AsyncConnection, subscription: StoredSubscription) -> _PeriodPrice | None:
    asked = await period_marks.find(connection, subscription, PeriodMark.ASKED_PRICE)
    return None if asked is None else _price_at(pricing_from_json(asked), asked["name"], asked["quantity"])


def _dated(lines: Iterable[Line], period: Period) -> list[Line]:
    """Adds the period to descriptions, since a later invoice may have the lines. Drops lines of no amount."""
    span = f"{period.start:%Y-%m-%d} to {period.end:%Y-%m-%d}"
    return [replace(line, description=f"{line.description}, {span}") for line in lines if line.amount]


def _own(subscription: StoredSubscription) -> ColumnElement[bool]:
    """Its invoices and drafts issued here, without credit notes."""
    is_manual = (rows.c.provider == MANUAL) & rows.c.corrects_id.is_(None)
    return (rows.c.subscription_id == subscription.id) & is_manual


_invoiced_at = func.coalesce(rows.c.issued_at, rows.c.created_at)
# Taken back in full; what was credited in part is asked for as before.
_IS_CREDITED = (rows.c.amount_credited > 0) & (rows.c.amount_credited >= rows.c.total)


async def _is_covered(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the current period has an invoice or a draft, credited or not."""
    return await is_covered(connection, subscription.id, period_start=subscription.current_period_start)


async def is_covered(connection: AsyncConnection, subscription_id: UUID, *, period_start: datetime) -> bool:
    """Whether the period that started then has an invoice or a draft."""
    is_manual = (rows.c.provider == MANUAL) & rows.c.corrects_id.is_(None) & (rows.c.status != "void")
    is_its = (rows.c.subscription_id == subscription_id) & (rows.c.period_start == period_start)
    return (await connection.scalar(select(rows.c.id).where(is_its, is_manual))) is not None


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
    await add_draft(
        connection,
        subscription,
        lines=[line_from_json(each) for each in voided.lines],
        currency=voided.currency,
        at=voided.issued_at or voided.created_at,
        covered=Period(start, end) if start and end else None,
        metadata={"is_whole": True} if is_whole else {},
    )


async def add_draft(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    lines: Sequence[Line],
    currency: str,
    at: datetime,
    covered: Period | None,
    metadata: Mapping[str, Any] = MappingProxyType({}),
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


async def list_drafts(connection: AsyncConnection, subscription_id: UUID) -> Sequence[Row[Any]]:
    """Oldest first."""
    is_its = (rows.c.subscription_id == subscription_id) & (rows.c.provider == MANUAL) & (rows.c.status == "draft")
    query = select(rows).where(is_its, rows.c.corrects_id.is_(None)).order_by(rows.c.created_at, rows.c.id)
    return (await connection.execute(query)).all()


async def _take_drafts(
    connection: AsyncConnection, subscription: StoredSubscription, drafts: Sequence[Row[Any]]
) -> Sequence[Row[Any]]:
    """The drafts to include. A single draft of the whole current period is deleted, as the plan's price replaces it,
    unless another invoice has asked for usage of the period since."""
    if len(drafts) != 1 or "is_whole" not in drafts[0].metadata:
        return drafts
    if drafts[0].period_start != subscription.current_period_start:
        return drafts
    if await billing_spans.had_other_plan(connection, subscription):
        return drafts
    lines = (line_from_json(each) for each in drafts[0].lines)
    billed = Counter[datetime]()  # tiers give a span several lines
    for line in lines:
        if line.kind is LineKind.USAGE and line.period:
            billed[line.period.start] += line.quantity
    if await billing_spans.has_billed_more(connection, subscription, billed=billed):
        return drafts
    await billing_spans.restart_period(connection, subscription, billed=billed)
    await connection.execute(delete(rows).where(rows.c.id == drafts[0].id))
    return ()
