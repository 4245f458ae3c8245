"""Subscriptions in the middle of their periods, and the balances of their accounts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.records import Record
from gateway.importing.targets import Result, Target, UnfitField, Users, existing
from gateway.importing.values import Unfit
from gateway.ledger.db import tables
from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.subscriptions import takeovers
from gateway.ledger.subscriptions.subscriptions import MANUAL
from gateway.ledger.subscriptions.takeovers import ForeignSubscription, PeriodHasEnded, TakenOver
from policies.model import SubscriptionStatus

_REASONS = {
    "uq_subscriptions_current": ("status", "the account has another current subscription"),
    "uq_subscriptions_trial": ("trial_start", "the account has had its trial"),
    "uq_subscriptions_provider_provider_subscription_id": (
        "provider_subscription_id",
        "another subscription has this id",
    ),
}


class SubscriptionWriter:
    def __init__(self, target: Target) -> None:
        self._target, self._users = target, Users(target, tables.users)
        self._present: set[UUID] = set()

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        await self._users.look_up(connection, batch)
        self._present = await existing(connection, tables.subscriptions, [record.id for record in batch])

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        if record.id in self._present:
            return Result.PRESENT
        user_id, plan_id = self._users.id_of(record), await self._target.plan_id(connection, record)
        foreign = _foreign(record, plan_id or "")
        try:
            created = await takeovers.take_over(
                connection, user_id, foreign=foreign, now=self._target.now, actor=self._target.actor
            )
        except PeriodHasEnded as ended:
            raise UnfitField("current_period_end", str(ended)) from ended
        except AlreadyExists as taken:
            field, reason = _REASONS.get(taken.constraint, (None, str(taken)))
            raise UnfitField(field, reason) from taken
        after = {
            "user_id": user_id,
            "plan_id": created.plan_id,
            "status": created.status,
            "provider": created.provider,
            "current_period_start": created.current_period_start,
            "current_period_end": created.current_period_end,
        }
        await self._target.record(connection, "subscriptions.import", "subscription", entity_id=created.id, after=after)
        return Result.IMPORTED


class CreditWriter:
    """Brings balances to what the source says: what an earlier import has brought already is left out.

    `duplicates` are the users, by the source's keys, of whom the source has several balances.
    """

    def __init__(self, target: Target, *, duplicates: Collection[str] = ()) -> None:
        self._target, self._users = target, Users(target, tables.users)
        self._duplicates = frozenset(duplicates)
        self._before: dict[UUID, TakenOver] = {}

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        await self._users.look_up(connection, batch)
        users = self._users.known
        self._before = await takeovers.lock_taken_over(connection, users, actor=self._target.actor)

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        user_id = self._users.id_of(record)
        if record.fields["user"] in self._duplicates:
            raise UnfitField("user", f"user {record.fields['user']} has several rows")
        balance, purchased = record.fields["balance"], record.fields.get("purchased", 0)
        if purchased > max(0, balance):
            raise UnfitField("purchased", f"is more than the balance: {purchased} of {balance}")
        before, wanted = self._before.get(user_id, TakenOver()), TakenOver(balance, purchased)
        if not await takeovers.bring_balance(
            connection, user_id, before=before, wanted=wanted, actor=self._target.actor
        ):
            return Result.PRESENT
        after = {"credits": balance - before.credits, "balance": balance, "purchased": purchased}
        await self._target.record(connection, "credits.import", "user", entity_id=user_id, after=after)
        return Result.IMPORTED


def _foreign(record: Record, plan_id: str) -> ForeignSubscription:
    """Raises Unfit."""
    fields = record.only(
        *("provider_subscription_id", "cancel_at_period_end", "canceled_at", "created_at"),
        *("trial_start", "trial_end"),
    )
    start, end = record.fields["current_period_start"], record.fields.get("current_period_end")
    if end is not None and end <= start:
        raise UnfitField("current_period_end", "is not after current_period_start")
    quantity: int = record.fields.get("quantity", 1)
    if quantity < 1:
        raise UnfitField("quantity", "is not 1 or more")
    status = SubscriptionStatus(record.fields.get("status", SubscriptionStatus.ACTIVE))
    provider = record.fields.get("provider", MANUAL)
    if "provider" not in record.fields and fields.get("provider_subscription_id") is not None:
        raise UnfitField("provider", "is missing, although there is a provider's id; map it, to `manual` if it is none")
    if provider != MANUAL and "provider_subscription_id" not in fields:
        raise UnfitField("provider_subscription_id", f"is missing, although {provider} renews it")
    if provider == MANUAL:
        fields.pop("provider_subscription_id", None)
    if (fields.get("trial_start") is None) != (fields.get("trial_end") is None):
        raise Unfit("has one end of its trial only")
    if fields.get("trial_end") and fields["trial_end"] <= fields["trial_start"]:
        raise UnfitField("trial_end", "is not after trial_start")
    has_ended = status in (SubscriptionStatus.CANCELED, SubscriptionStatus.EXPIRED)
    fields["cancel_at_period_end"] = not has_ended and fields.get("cancel_at_period_end", False)
    return ForeignSubscription(
        id=record.id,
        plan_id=plan_id,
        status=status,
        period_start=start,
        period_end=end,
        quantity=quantity,
        provider=provider,
        **fields,
    )
