"""A payment as booked: its row, the refunds and disputes of it, the credits it gave, and those taken back again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits import grants
from gateway.ledger.db.tables import credit_grants
from gateway.ledger.invoicing import invoices
from gateway.ledger.payments import checkouts, payments
from gateway.ledger.payments.checkouts import Checkout
from gateway.ledger.payments.payments import Payment
from gateway.ledger.subscriptions.allowances import credits_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.billing.payments import (
    DisputeStatus,
    PaymentStatus,
    RemotePayment,
    complaint_about_price,
    credits_withdrawn,
    refunded,
    status_of_payment,
)
from policies.credits.allowances import refill
from policies.wording import counted

# The row of a dispute stands for money that leaves: it has left, may leave, or has not.
_STATUS_OF_DISPUTE = {DisputeStatus.OPEN: "disputed", DisputeStatus.LOST: "completed", DisputeStatus.WON: "failed"}


@dataclass(frozen=True, slots=True)
class PaidFor:
    """Whose payment it is, and what was bought: a subscription's period under a plan, or a pack by a checkout.

    `known` is the payment of a pack that has been given: nothing is left to find out about it.
    """

    user_id: UUID
    subscription: StoredSubscription | None = None
    plan: StoredPlan | None = None
    checkout: Checkout | None = None
    known: Payment | None = None


async def book(
    connection: AsyncConnection, provider: str, remote: RemotePayment, *, paid_for: PaidFor, now: datetime
) -> None:
    """Makes our books what the provider says of the payment. Saying it again changes nothing."""
    invoice_id = await invoices.mirror(connection, provider, remote, user_id=paid_for.user_id, of=paid_for.subscription)
    if remote.amount <= 0:
        return  # a trial's, or one that a discount made free: nothing moves
    complaint = _complaint(remote, paid_for)
    row = await payments.keep(
        connection,
        provider,
        provider_payment_id=remote.id,
        **_columns(remote, paid_for),
        invoice_id=invoice_id,
        error_message=complaint or remote.error,
    )
    if remote.status is PaymentStatus.COMPLETED and complaint is None:
        row = await _award(connection, row, remote, paid_for=paid_for, now=now)
        await _withdraw(connection, row, remote)
    await _book_back(connection, row, remote)


def _complaint(remote: RemotePayment, paid_for: PaidFor) -> str | None:
    bought = paid_for.checkout
    if bought is None:
        return None
    return complaint_about_price(remote, price=bought.price, currency=bought.currency)


def _columns(remote: RemotePayment, paid_for: PaidFor) -> dict[str, Any]:
    subscription, plan = paid_for.subscription, paid_for.plan
    return {
        "user_id": paid_for.user_id,
        "subscription_id": subscription and subscription.id,
        "plan_id": plan and plan.id,
        "transaction_type": "credits" if subscription is None else "subscription",
        "status": status_of_payment(remote),
        "amount": remote.amount,
        "refunded_amount": refunded(remote),
        "currency": remote.currency,
        "payment_method": remote.method,
        "description": _description(paid_for),
        "processed_at": remote.occurred_at,
    }


def _description(paid_for: PaidFor) -> str | None:
    if paid_for.known is not None:
        return paid_for.known.description
    if paid_for.checkout is not None:
        return counted(paid_for.checkout.credits, "credit")
    return f"Subscription: {paid_for.plan.terms.name}" if paid_for.plan else "Subscription"


async def _award(
    connection: AsyncConnection, row: Payment, remote: RemotePayment, *, paid_for: PaidFor, now: datetime
) -> Payment:
    """The credits, once: the payment's row is locked, and says whether it has given them."""
    if row.grant_id is not None:
        return row
    if paid_for.checkout is not None:
        given = await _grant_pack(connection, row, paid_for.checkout)
    else:
        given = await _grant_of_period(connection, row, remote, paid_for=paid_for, now=now)
    if given is None:
        return row
    grant_id, amount = given
    return await payments.patch(connection, row.id, grant_id=grant_id, credits_awarded=amount)


async def _grant_pack(connection: AsyncConnection, row: Payment, checkout: Checkout) -> tuple[UUID, int] | None:
    entry = await grants.grant(
        connection,
        row.user_id,
        amount=checkout.credits,
        source="purchase",
        reason=f"bought: {checkout.pack_id}",
        actor=f"provider:{row.provider}",
    )
    await checkouts.close(connection, checkout.id, status="completed")
    return None if entry.grant_id is None else (entry.grant_id, entry.amount)


async def _grant_of_period(
    connection: AsyncConnection, row: Payment, remote: RemotePayment, *, paid_for: PaidFor, now: datetime
) -> tuple[UUID, int] | None:
    """What the period was given; where nobody saw it begin, its credits as far as they still hold."""
    subscription, plan, period = paid_for.subscription, paid_for.plan, remote.period
    if subscription is None or plan is None or period is None:
        return None
    if (open_one := await checkouts.for_subscription(connection, subscription.id)) is not None:
        await checkouts.close(connection, open_one.id, status="completed")
    amount = credits_of(plan, subscription.quantity)
    terms = refill(amount, period_end=period.end, rolls_over=plan.terms.credits_rollover)
    if amount > 0 and (terms.expires_at is None or terms.expires_at > now):
        await grants.grant_period(
            connection,
            row.user_id,
            refill=terms,
            reason=f"{plan.terms.name}: credits of the period",
            actor=f"provider:{row.provider}",
            subscription_id=subscription.id,
            period_start=period.start,
        )
    granted = select(credit_grants.c.id, credit_grants.c.amount).where(
        credit_grants.c.subscription_id == subscription.id, credit_grants.c.period_start == period.start
    )
    found = (await connection.execute(granted)).one_or_none()
    return None if found is None else (found.id, found.amount)


async def _withdraw(connection: AsyncConnection, row: Payment, remote: RemotePayment) -> None:
    """Takes back credits for money that went back, and gives them back for a dispute that was won."""
    wanted = credits_withdrawn(row.credits_awarded, remote)
    missing = wanted - row.credits_withdrawn
    if row.grant_id is None or missing == 0:
        return
    actor, changes = f"provider:{row.provider}", {"credits_withdrawn": wanted}
    if missing > 0:
        reason = f"payment {row.provider_payment_id} was refunded or disputed"
        await grants.claw_back(connection, row.grant_id, amount=missing, reason=reason, actor=actor)
        await payments.patch(connection, row.id, **changes)
        return
    reason = f"payment {row.provider_payment_id} is ours after all"
    entry = await grants.adjust(connection, row.user_id, amount=-missing, reason=reason, actor=actor)
    await payments.patch(connection, row.id, **changes, grant_id=entry.grant_id or row.grant_id)


async def _book_back(connection: AsyncConnection, row: Payment, remote: RemotePayment) -> None:
    shared = {
        "user_id": row.user_id,
        "subscription_id": row.subscription_id,
        "plan_id": row.plan_id,
        "currency": row.currency,
        "refers_to_id": row.id,
    }
    for refund in remote.refunds:
        told = {"transaction_type": "refund", "status": "completed", "amount": refund.amount, "processed_at": refund.at}
        await payments.keep(connection, row.provider, provider_payment_id=refund.id, **shared, **told)
    await payments.fail_refunds(connection, row.id, exclude=[refund.id for refund in remote.refunds])
    for dispute in remote.disputes:
        status = _STATUS_OF_DISPUTE[dispute.status]
        told = {"transaction_type": "dispute", "status": status, "amount": dispute.amount}
        about = f"dispute, {dispute.status}" + (f": {dispute.reason}" if dispute.reason else "")
        await payments.keep(
            connection, row.provider, provider_payment_id=dispute.id, **shared, **told, description=about
        )


def money_of(row: Payment) -> Decimal:
    """What of the payment can still be given back."""
    return row.amount - row.refunded_amount
