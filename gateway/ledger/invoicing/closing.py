"""Closes the ended periods of subscriptions that no provider bills: each is invoiced once, with all its usage.

A period is closed in one transaction with its invoice and its counts, so a crash anywhere repeats it whole or not at
all. Usage that is recorded later is on the next invoice, or on one of its own if the subscription has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import InUse, NotFound
from gateway.ledger.invoicing import invoices, issued_invoices
from gateway.ledger.invoicing.invoices import Invoice, line_from_json
from gateway.ledger.subscriptions import billing_spans, overage
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.billing_spans import BillingSpan
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_existing
from policies.billing.invoicing import Line, Period
from policies.billing.issuing import Issuer
from policies.model import SubscriptionStatus

_ENDED = (SubscriptionStatus.CANCELED, SubscriptionStatus.EXPIRED)


@dataclass(frozen=True, slots=True)
class _Due:
    """What is due in one currency. `covers`: the price of the closed period is among the lines."""

    currency: str
    lines: Sequence[Line]
    drafts: Sequence[Row[Any]]
    covers: bool


async def close_period(
    connection: AsyncConnection, subscription_id: UUID, *, start: datetime, issuer: Issuer, now: datetime
) -> Invoice | None:
    """Closes the ended period that started then; the caller has locked the account. A closed one stays as it is.

    Gives the invoice, None where nothing was due. What is due to the customer waits for the next invoice, as long as
    there will be one that asks for money. Raises InUse for a plan whose tiers do not reach the quantity.
    """
    span = await billing_spans.get_period(connection, subscription_id, start=start)
    if span is None or span.closed_at is not None:
        return None
    subscription = await get_existing(connection, subscription_id)
    carries = await _will_ask(connection, subscription)
    issued = None
    for due in await _due(connection, subscription, span, now=now):
        if carries and due.currency == _currency(span) and sum(line.amount for line in due.lines) < 0:
            await _carry(connection, subscription, span, due)
        elif any(line.amount for line in due.lines):
            made = await _issue(connection, subscription, span, due, issuer=issuer, now=now)
            issued = made if issued is None or due.covers else issued
        else:
            await issued_invoices.remove_drafts(connection, due.drafts, but_for=span.period_start)
    await billing_spans.close(connection, span, invoice_id=None if issued is None else issued.id, now=now)
    return issued


async def close_named(
    connection: AsyncConnection, subscription: StoredSubscription, *, start: datetime, issuer: Issuer, now: datetime
) -> Invoice:
    """Closes a past period at an operator's wish. Raises NotFound, and InUse if it was closed or nothing is due."""
    span = await billing_spans.get_period(connection, subscription.id, start=start)
    if span is None:
        raise NotFound("ended period", f"from {start.isoformat()} of this subscription")
    if span.closed_at is not None:
        raise InUse("this period was invoiced" if span.invoice_id else "nothing was due for this period")
    made = await close_period(connection, subscription.id, start=start, issuer=issuer, now=now)
    if made is None:
        raise InUse("nothing is due for this period, or what is in the customer's favour waits for the next invoice")
    return made


async def bill_late_usage(
    connection: AsyncConnection, subscription_id: UUID, *, issuer: Issuer, now: datetime
) -> list[Invoice]:
    """Invoices usage of an ended subscription that was recorded after its last invoice. The account is locked."""
    subscription = await get_existing(connection, subscription_id)
    period = Period(subscription.current_period_start, subscription.current_period_end)
    issued = []
    for currency in dict.fromkeys(await _currencies(connection, subscription, (), now=now)):
        lines = await _used(connection, subscription, currency=currency, period=period, now=now)
        if any(line.amount for line in lines):
            made = await invoices.issue(
                connection,
                subscription.user_id,
                lines=lines,
                currency=currency,
                issuer=issuer,
                now=now,
                subscription_id=subscription_id,
                plan_id=subscription.plan_id,
            )
            issued.append(made)
    return issued


async def _due(
    connection: AsyncConnection, subscription: StoredSubscription, span: BillingSpan, *, now: datetime
) -> list[_Due]:
    """By currency, that of the period first."""
    drafts = [draft for draft in await issued_invoices.list_drafts(connection, subscription.id) if _is_due(draft, span)]
    is_asked = span.is_price_billed or await issued_invoices.is_covered(
        connection, subscription.id, period_start=span.period_start
    )
    found = []
    for currency in dict.fromkeys([_currency(span), *await _currencies(connection, subscription, drafts, now=now)]):
        included = [draft for draft in drafts if draft.currency == currency]
        lines = [line_from_json(each) for draft in included for each in draft.lines]
        covers = any(draft.period_start == span.period_start for draft in included)
        if span.terms is not None and not is_asked and currency == span.terms.currency:
            lines += issued_invoices.price_lines(span.terms, span.quantity, name=span.name)
            covers = True
        lines += await _used(connection, subscription, currency=currency, period=span.period, now=now)
        found.append(_Due(currency, lines, included, covers))
    return found


def _is_due(draft: Row[Any], span: BillingSpan) -> bool:
    """Not one that has the price of a later period, which is due when that is closed."""
    return draft.period_start is None or bool(draft.period_start <= span.period_start)


async def _currencies(
    connection: AsyncConnection, subscription: StoredSubscription, drafts: Iterable[Row[Any]], *, now: datetime
) -> list[str]:
    spans = await billing_spans.list_countable(connection, subscription.id, now=now)
    of_spans = [span.terms.currency for span in spans if span.terms is not None]
    return [
        *(draft.currency for draft in drafts),
        *of_spans,
        *await overage.list_open_currencies(connection, subscription.id),
    ]


async def _used(
    connection: AsyncConnection, subscription: StoredSubscription, *, currency: str, period: Period, now: datetime
) -> list[Line]:
    """Usage that a plan prices, and usage beyond the credits of a postpaid one."""
    lines = await issued_invoices.bill_usage(connection, subscription, currency=currency, period=period, now=now)
    return lines + await overage.take_lines(connection, subscription.id, currency=currency, now=now)


def _currency(span: BillingSpan) -> str:
    return span.terms.currency if span.terms is not None else ""


async def _will_ask(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Whether the subscription goes on, on a plan that costs money."""
    if subscription.status in _ENDED:
        return False
    return not billing_spans.is_free(await plan_of(connection, subscription))


async def _carry(connection: AsyncConnection, subscription: StoredSubscription, span: BillingSpan, due: _Due) -> None:
    """One draft takes the place of the included ones, until an invoice asks for more than is due to the customer."""
    await issued_invoices.remove_drafts(connection, due.drafts, but_for=span.period_start)
    await issued_invoices.add_draft(
        connection,
        subscription,
        lines=due.lines,
        currency=due.currency,
        at=span.ends_at,
        covered=span.period if due.covers else None,
    )


async def _issue(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    span: BillingSpan,
    due: _Due,
    *,
    issuer: Issuer,
    now: datetime,
) -> Invoice:
    await issued_invoices.remove_drafts(connection, due.drafts, but_for=span.period_start)
    return await invoices.issue(
        connection,
        subscription.user_id,
        lines=due.lines,
        currency=due.currency,
        issuer=issuer,
        now=now,
        subscription_id=subscription.id,
        plan_id=span.plan_id,
        period=span.period if due.covers else None,
        buyer=span.buyer,
        metadata={"is_prorated": True} if due.drafts else {},
    )
