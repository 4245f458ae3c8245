"""Books a payment: its row, its refunds and disputes, the credits it grants, and those taken back for refunds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits import grants
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.db.tables import credit_grants, payment_transactions
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
    credits_withdrawn,
    price_mismatch,
    refunded,
    status_of_payment,
)
from policies.credits.allowances import refill
from policies.wording import counted

# A dispute that is decided either way is completed; its metadata and the payment itself say how.
_UNPAID = frozenset((PaymentStatus.PENDING, PaymentStatus.FAILED))
_STATUS_OF_DISPUTE = {DisputeStatus.OPEN: "disputed", DisputeStatus.LOST: "completed", DisputeStatus.WON: "completed"}


@dataclass(frozen=True, slots=True)
class PaymentPurpose:
    """Whose payment it is, and what for: a period of a subscription to a plan, or the pack of a checkout.

    `booked` is the row of a pack's payment whose credits were granted before. `bought_at` is the checkout that the
    subscription began with.
    """

    user_id: UUID
    subscription: StoredSubscription | None = None
    plan: StoredPlan | None = None
    checkout: Checkout | None = None
    booked: Payment | None = None
    bought_at: Checkout | None = None


async def book(
    connection: AsyncConnection, provider: str, remote: RemotePayment, *, purpose: PaymentPurpose, now: datetime
) -> None:
    """Brings the database to the state of the provider's payment; booking it again changes nothing."""
    invoice_id = await invoices.upsert_from_provider(
        connection, provider, remote, user_id=purpose.user_id, of=purpose.subscription
    )
    if remote.amount <= 0 and purpose.subscription is not None:
        return  # of a trial, or free by a discount: its credits come with the period
    mismatch = _mismatch(remote, purpose)
    before = await payments.find(connection, provider, provider_payment_id=remote.id)
    row = await payments.upsert(
        connection,
        provider,
        provider_payment_id=remote.id,
        **_columns(remote, purpose),
        invoice_id=invoice_id,
        error_message=mismatch or remote.error,
    )
    if remote.status is PaymentStatus.COMPLETED and mismatch is None:
        is_news = before is None or before.status in _UNPAID
        row = await _grant_credits(connection, row, remote, purpose=purpose, is_news=is_news, now=now)
    if remote.status is not PaymentStatus.PENDING and mismatch is None:
        await _withdraw_credits(connection, row, remote)
    await _book_refunds_and_disputes(connection, row, remote)


def _mismatch(remote: RemotePayment, purpose: PaymentPurpose) -> str | None:
    checkout = purpose.checkout
    if checkout is None:
        return None
    return price_mismatch(remote, price=checkout.price, currency=checkout.currency)


def _columns(remote: RemotePayment, purpose: PaymentPurpose) -> dict[str, Any]:
    subscription, plan = purpose.subscription, purpose.plan
    return {
        "user_id": purpose.user_id,
        "subscription_id": subscription and subscription.id,
        "plan_id": plan and plan.id,
        "transaction_type": "credits" if subscription is None else "subscription",
        "status": status_of_payment(remote),
        "amount": remote.amount,
        "refunded_amount": refunded(remote),
        "currency": remote.currency,
        "payment_method": remote.method,
        "description": _description(purpose),
        "processed_at": remote.occurred_at,
    }


def _description(purpose: PaymentPurpose) -> str | None:
    if purpose.booked is not None:
        return purpose.booked.description
    if purpose.checkout is not None:
        return counted(purpose.checkout.credits, "credit")
    return f"Subscription: {purpose.plan.terms.name}" if purpose.plan else "Subscription"


async def _grant_credits(
    connection: AsyncConnection,
    row: Payment,
    remote: RemotePayment,
    *,
    purpose: PaymentPurpose,
    is_news: bool,
    now: datetime,
) -> Payment:
    """Grants once: the payment's row is locked and names the grant. `is_news` where it was not known to be paid."""
    if row.grant_id is not None:
        return row
    if purpose.checkout is not None:
        granted = await _grant_pack(connection, row, purpose.checkout)
    elif remote.period is None:
        granted = await _find_paid_by_change(connection, remote, purpose.subscription, is_news=is_news)
    else:
        granted = await _grant_period(connection, row, remote, purpose=purpose, now=now)
    if granted is None:
        return row
    grant_id, amount = granted
    return await payments.update(connection, row.id, grant_id=grant_id, credits_awarded=amount)


async def _grant_pack(connection: AsyncConnection, row: Payment, checkout: Checkout) -> tuple[UUID, int] | None:
    await bump_account(connection, row.user_id)  # without a plan, refusals say how many credits wait for one
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


async def _grant_period(
    connection: AsyncConnection, row: Payment, remote: RemotePayment, *, purpose: PaymentPurpose, now: datetime
) -> tuple[UUID, int] | None:
    """The grant of the period, created here unless it exists or would have expired, and what is paid for of it.

    Of a grant of another plan or of more seats, to which a change led before anything was known of the period, that is
    what the plan and seats of this payment give.
    """
    subscription, plan, period = purpose.subscription, purpose.plan, remote.period
    if subscription is None or plan is None or period is None:
        return None
    if purpose.bought_at is not None:
        await checkouts.close(connection, purpose.bought_at.id, status="completed")
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
    grant = select(credit_grants.c.id, credit_grants.c.amount).where(
        credit_grants.c.subscription_id == subscription.id, credit_grants.c.period_start == period.start
    )
    found = (await connection.execute(grant)).one_or_none()
    if found is None:
        return None
    seats = remote.quantity or subscription.quantity
    is_all = (plan.id, seats) == (subscription.plan_id, subscription.quantity)
    return found.id, found.amount if is_all else min(found.amount, credits_of(plan, seats))


async def _find_paid_by_change(
    connection: AsyncConnection, remote: RemotePayment, subscription: StoredSubscription | None, *, is_news: bool
) -> tuple[UUID, int] | None:
    """What a change within the period gave, if it is of the present one.

    A change makes its grant before its payment is booked. So one that comes later is of another change, which may have
    cost nothing.
    """
    if subscription is None:
        return None
    if remote.occurred_at is not None and remote.occurred_at < subscription.current_period_start:
        return None
    rest = await _find_rest(connection, subscription) if is_news else None
    return rest or await _find_share(connection, subscription)


async def _find_share(connection: AsyncConnection, subscription: StoredSubscription) -> tuple[UUID, int] | None:
    """What the payment of the period did not pay for of its grant."""
    grant, paid = credit_grants.c, payment_transactions.c
    shares = (
        select(grant.id, (grant.amount - func.sum(paid.credits_awarded)).label("rest"))
        .join(payment_transactions, paid.grant_id == grant.id)
        .where(
            grant.subscription_id == subscription.id,
            grant.period_start == subscription.current_period_start,
        )
        .group_by(grant.id, grant.amount)
    )
    found = (await connection.execute(shares)).one_or_none()
    return None if found is None or found.rest <= 0 else (found.id, int(found.rest))


async def _find_rest(connection: AsyncConnection, subscription: StoredSubscription) -> tuple[UUID, int] | None:
    """The newest grant that a larger plan or more seats made in the period, unless another payment paid for it."""
    grant, paid = credit_grants.c, payment_transactions.c
    is_paid = select(paid.id).where(paid.grant_id == grant.id).exists()
    rest = select(grant.id, grant.amount).where(
        grant.subscription_id == subscription.id,
        grant.period_start.is_(None),
        grant.effective_at == subscription.current_period_start,
        ~grant.metadata.has_key("advance"),
        ~is_paid,
    )
    found = (await connection.execute(rest.order_by(grant.id.desc()).limit(1))).one_or_none()
    return None if found is None else (found.id, found.amount)


async def _withdraw_credits(connection: AsyncConnection, row: Payment, remote: RemotePayment) -> None:
    """Claws back credits for refunds, disputes and frauds, and grants them again for a dispute that was won."""
    target = credits_withdrawn(row.credits_awarded, remote)
    missing = target - row.credits_withdrawn
    if row.grant_id is None or missing == 0:
        return
    actor, changes = f"provider:{row.provider}", {"credits_withdrawn": target}
    if missing > 0:
        happened = "has failed" if remote.status is PaymentStatus.FAILED else "was refunded or disputed"
        reason = f"payment {row.provider_payment_id} {happened}"
        await grants.claw_back(connection, row.grant_id, amount=missing, reason=reason, actor=actor)
        await payments.update(connection, row.id, **changes)
        return
    reason = f"payment {row.provider_payment_id} is not refunded or disputed any more"
    await grants.give_back(connection, row.grant_id, amount=-missing, reason=reason, actor=actor)
    await payments.update(connection, row.id, **changes)


async def _book_refunds_and_disputes(connection: AsyncConnection, row: Payment, remote: RemotePayment) -> None:
    shared = {
        "user_id": row.user_id,
        "subscription_id": row.subscription_id,
        "plan_id": row.plan_id,
        "currency": row.currency,
        "refers_to_id": row.id,
    }
    for refund in remote.refunds:
        values = {
            "transaction_type": "refund",
            "status": "completed",
            "amount": refund.amount,
            "processed_at": refund.at,
        }
        await payments.upsert(connection, row.provider, provider_payment_id=refund.id, **shared, **values)
    await payments.fail_refunds(connection, row.id, exclude=[refund.id for refund in remote.refunds])
    for dispute in remote.disputes:
        status = _STATUS_OF_DISPUTE[dispute.status]
        values = {
            "transaction_type": "dispute",
            "status": status,
            "amount": dispute.amount,
            "description": f"dispute, {dispute.status}" + (f": {dispute.reason}" if dispute.reason else ""),
            "metadata": {"dispute": dispute.status},  # reports tell by it whether the money came back
        }
        await payments.upsert(connection, row.provider, provider_payment_id=dispute.id, **shared, **values)


def refundable_amount(row: Payment) -> Decimal:
    """What remains of the payment after its refunds."""
    return row.amount - row.refunded_amount
