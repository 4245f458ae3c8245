"""What we ask for ourselves: a subscription's invoices, with what changes of plan or seats have made of its period.

A change leaves its lines in a draft, in its own transaction; the next invoice of the subscription takes up all drafts,
in its. So each change is asked for exactly once: with the invoice of the period or, where that was issued before, on
another. What is on an invoice that is made void goes back into a draft. What a credit note took back is not asked for
again, nor given back once more. Whoever calls holds the subscription `locked`.
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
from gateway.ledger.invoicing.invoices import Invoice, line_of, written
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription, get_existing, get_for_update
from policies.billing.invoicing import Line, Period, PriceTier, Pricing, lines_of, remaining, totals, unused
from policies.billing.money import plain
from policies.model import SubscriptionStatus


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a plan costs for a whole period; `lines` are empty for one that is priced by usage, which is counted."""

    pricing: Pricing
    name: str
    lines: tuple[Line, ...]


async def note_change(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    old: StoredPlan,
    new: StoredPlan | None,
    quantity: int,
    at: datetime,
) -> None:
    """Leaves what a change in mid-period costs in drafts: one, or two where it is also one of currency.

    `new` None: another period begins at `at`, which will have an invoice of its own. Nothing is asked for of trials,
    nor of what a provider bills. Raises InUse for a plan whose tiers do not reach the quantity.
    """
    if before.provider != MANUAL or before.status is SubscriptionStatus.TRIALING:
        return
    period = Period(before.current_period_start, before.current_period_end)
    at = max(period.start, min(at, period.end))
    had = _asked(old, before.quantity)
    has = None if new is None else _asked(new, quantity)
    if had == has:
        return
    is_covered = await _is_covered(connection, before)
    is_waived = is_covered and await _is_waived(connection, before)
    back = () if is_waived else unused(had.lines, period=period, at=at, currency=had.pricing.currency)
    drafts = {had.pricing.currency: [*(() if is_covered else _dated(had.lines, period)), *back]}
    if has is not None:
        due = remaining(has.lines, period=period, at=at, currency=has.pricing.currency)
        drafts.setdefault(has.pricing.currency, []).extend(due)
    usage = await _usage(connection, before, had, until=at)
    wanted = {each: lines for each, lines in drafts.items() if lines or (usage and each == had.pricing.currency)}
    for number, (currency, lines) in enumerate(wanted.items()):
        covered = period if number == 0 and not is_covered else None
        noted = usage if currency == had.pricing.currency else {}
        await _add_draft(connection, before, lines=lines, currency=currency, at=at, covered=covered, noted=noted)


async def issue_next(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, tax_rate: Decimal, now: datetime
) -> Invoice:
    """The invoice of all that is to be asked for: what drafts hold, and the present period where it has none yet.

    In one currency: where drafts are in another than the plan, that of the oldest draft, and the rest is left to the
    next one. Raises InUse where nothing is to be asked for, as of a trial.
    """
    if subscription.status is SubscriptionStatus.TRIALING:
        raise InUse("a trial costs nothing; its subscription can be invoiced from its first period on")
    period = Period(subscription.current_period_start, subscription.current_period_end)
    drafts = await _drafts_but_whole(connection, subscription)
    asked = _asked(plan, subscription.quantity)
    currency = drafts[0].currency if drafts else asked.pricing.currency
    since = await _counted_until(connection, subscription)
    is_covered = await _is_covered(connection, subscription)
    if is_covered and not drafts:
        raise InUse(await _why_not(connection, subscription))
    taken = [draft for draft in drafts if draft.currency == currency]
    lines = [line for draft in taken for line in await _lines_of(connection, draft)]
    covers = period if any(draft.period_start == period.start for draft in taken) else None
    if currency == asked.pricing.currency:
        if not is_covered:
            covers = period
            lines += asked.lines
        if asked.pricing.model == "usage":
            span = Period(since, max(since, min(now, period.end)))
            lines += await _counted(connection, subscription.id, asked.pricing, name=asked.name, span=span)
    await connection.execute(delete(rows).where(rows.c.id.in_([draft.id for draft in taken])))
    return await invoices.issue(
        connection,
        subscription.user_id,
        lines=lines,
        currency=currency,
        tax_rate=tax_rate,
        now=now,
        subscription_id=subscription.id,
        period=covers,
        metadata={"is_prorated": True} if taken else {},
    )


async def held(connection: AsyncConnection, invoice_id: UUID) -> Invoice:
    """The invoice, with the lock of its subscription where it has one. Raises NotFound."""
    found = await invoices.get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    if found.subscription_id is None:
        return found
    await get_for_update(connection, found.subscription_id)
    return await invoices.get(connection, invoice_id) or found


async def void(connection: AsyncConnection, invoice: Invoice, *, now: datetime) -> Invoice:
    """Makes a `held` invoice void; the next one of its subscription asks for the same.

    One of the present period that no change came before or after is made anew by its plan while the period lasts, with
    the price and the usage as they are then. Raises InUse for one that is not open, or was taken back.
    """
    if await connection.scalar(select(rows.c.id).where(rows.c.corrects_id == invoice.id)) is not None:
        raise InUse("this invoice was taken back by its credit note; it need not become void")
    made_void = await invoices.settle(connection, invoice.id, status="void", now=now)
    if made_void.subscription_id is not None:
        await _put_back(connection, await get_existing(connection, made_void.subscription_id), made_void)
    return made_void


def _asked(plan: StoredPlan, quantity: int) -> _Asked:
    terms = plan.terms
    tiers = tuple(PriceTier(tier.up_to, tier.unit_price, tier.flat_price) for tier in terms.tiers)
    pricing = Pricing(terms.pricing_model, terms.price, terms.currency, tiers)
    if pricing.model == "usage":
        return _Asked(pricing, terms.name, ())
    try:
        return _Asked(pricing, terms.name, lines_of(pricing, quantity, description=terms.name))
    except ValueError as error:
        raise InUse(f"the plan {plan.id} has no price for a quantity of {quantity}: {error}") from None


def _dated(lines: Iterable[Line], period: Period) -> list[Line]:
    """Of a period that may be over when they are asked for; nothing costs no line."""
    span = f"{period.start:%Y-%m-%d} to {period.end:%Y-%m-%d}"
    return [replace(line, description=f"{line.description}, {span}") for line in lines if line.amount]


def _own(subscription: StoredSubscription) -> ColumnElement[bool]:
    """Its invoices and drafts by our own hand, credit notes aside."""
    is_ours = (rows.c.provider == MANUAL) & rows.c.corrects_id.is_(None)
    return (rows.c.subscription_id == subscription.id) & is_ours


_asked_at = func.coalesce(rows.c.issued_at, rows.c.created_at)
_NOTES = rows.alias()
_IS_TAKEN_BACK = exists().where(_NOTES.c.corrects_id == rows.c.id)


async def _is_covered(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the period that it is in has its invoice, or a draft of it, be it taken back since."""
    return (await connection.scalar(select(rows.c.id).where(_of_period(subscription)))) is not None


async def _is_waived(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the invoice of the period was taken back, and no change has asked for the rest of it since."""
    is_taken_back = await connection.scalar(select(_IS_TAKEN_BACK).where(_of_period(subscription)))
    is_of_change = (rows.c.status == "draft") | rows.c.metadata.has_key("is_prorated")
    since = select(rows.c.id).where(
        _own(subscription),
        is_of_change,
        rows.c.status != "void",
        ~_IS_TAKEN_BACK,
        _asked_at >= subscription.current_period_start,
    )
    return bool(is_taken_back) and (await connection.scalar(since.limit(1))) is None


def _of_period(subscription: StoredSubscription) -> ColumnElement[bool]:
    """At most one, by a unique index."""
    is_its = (rows.c.period_start == subscription.current_period_start) & (rows.c.status != "void")
    return _own(subscription) & is_its


async def _why_not(connection: AsyncConnection, subscription: StoredSubscription) -> str:
    if await connection.scalar(select(_IS_TAKEN_BACK).where(_of_period(subscription))):
        return "the invoice of this period was taken back by a credit note; a period is not asked for twice"
    return "this period has its invoice; only while that is open can it be made void and issued again"


async def _is_whole(connection: AsyncConnection, subscription: StoredSubscription, made_void: Invoice) -> bool:
    """Whether the invoice was of what the plan asks for the present period, and of nothing else."""
    if made_void.period_start != subscription.current_period_start or "is_prorated" in made_void.metadata:
        return False
    later = select(rows.c.id).where(_own(subscription), rows.c.status != "void", _asked_at >= made_void.issued_at)
    return (await connection.scalar(later.limit(1))) is None


async def _put_back(connection: AsyncConnection, subscription: StoredSubscription, made_void: Invoice) -> None:
    """As old as the invoice: up to then usage is among its lines."""
    is_whole = await _is_whole(connection, subscription, made_void)
    start, end = made_void.period_start, made_void.period_end
    await _add_draft(
        connection,
        subscription,
        lines=[line_of(each) for each in made_void.lines],
        currency=made_void.currency,
        at=made_void.issued_at or made_void.created_at,
        covered=Period(start, end) if start and end else None,
        noted={"is_whole": True} if is_whole else {},
    )


async def _add_draft(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    lines: Sequence[Line],
    currency: str,
    at: datetime,
    covered: Period | None,
    noted: Mapping[str, Any],
) -> None:
    """`covered` is the period whose own price is among the lines. The tax is that of the day of issue."""
    found = totals(lines, tax_rate=Decimal(0), currency=currency)
    draft = insert(rows).values(
        user_id=subscription.user_id,
        subscription_id=subscription.id,
        currency=currency,
        subtotal=found.subtotal,
        total=found.total,
        lines=[written(line) for line in lines],
        period_start=covered and covered.start,
        period_end=covered and covered.end,
        created_at=at,
        metadata=dict(noted),
    )
    await connection.execute(draft)


async def _drafts(connection: AsyncConnection, subscription: StoredSubscription) -> Sequence[Row[Any]]:
    """The oldest first."""
    query = select(rows).where(_own(subscription), rows.c.status == "draft").order_by(rows.c.created_at, rows.c.id)
    return (await connection.execute(query)).all()


async def _drafts_but_whole(connection: AsyncConnection, subscription: StoredSubscription) -> Sequence[Row[Any]]:
    """Drops the only draft where the plan asks for all that is in it."""
    drafts = await _drafts(connection, subscription)
    if len(drafts) != 1 or "is_whole" not in drafts[0].metadata:
        return drafts
    if drafts[0].period_start != subscription.current_period_start:
        return drafts
    await connection.execute(delete(rows).where(rows.c.id == drafts[0].id))
    return ()


async def _usage(
    connection: AsyncConnection, subscription: StoredSubscription, asked: _Asked, *, until: datetime
) -> dict[str, Any]:
    """What is to be counted when the draft is issued: the journal may bring usage of before until then."""
    if asked.pricing.model != "usage":
        return {}
    since = await _counted_until(connection, subscription)
    price = plain(asked.pricing.price)
    return {"since": since.isoformat(), "until": until.isoformat(), "unit_price": price, "name": asked.name}


async def _counted_until(connection: AsyncConnection, subscription: StoredSubscription) -> datetime:
    """Up to when usage of the present period is on an invoice or a draft."""
    start = subscription.current_period_start
    known = select(func.max(_asked_at)).where(_own(subscription), rows.c.status != "void")
    return max(start, await connection.scalar(known) or start)


async def _lines_of(connection: AsyncConnection, draft: Row[Any]) -> list[Line]:
    lines = [line_of(each) for each in draft.lines]
    usage = draft.metadata
    if "since" in usage:
        span = Period(datetime.fromisoformat(usage["since"]), datetime.fromisoformat(usage["until"]))
        pricing = Pricing("usage", Decimal(usage["unit_price"]), draft.currency)
        lines += await _counted(connection, draft.subscription_id, pricing, name=usage["name"], span=span)
    return lines


async def _counted(
    connection: AsyncConnection, subscription_id: UUID, pricing: Pricing, *, name: str, span: Period
) -> tuple[Line, ...]:
    used = await invoices.credits_used(connection, subscription_id, period=span)
    return lines_of(pricing, used, description=name)
