"""Payments of the past: they pay no invoice here and give no credits, which are in the balances already."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.records import Record
from gateway.importing.sections import Section
from gateway.importing.targets import Result, Target, UnfitField, Users, check_money, existing
from gateway.ledger.db import tables
from gateway.ledger.payments import payments

# Not `manual`: what an operator records here can be matched to invoices.
IMPORTED = "imported"


class PaymentWriter:
    def __init__(self, target: Target) -> None:
        self._target, self._users = target, Users(target, tables.users)
        self._subscriptions: set[UUID] = set()

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        await self._users.look_up(connection, batch)
        wanted = {self._subscription_id(record) for record in batch} - {None}
        self._subscriptions = await existing(connection, tables.subscriptions, [each for each in wanted if each])

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        provider = record.fields.get("provider", IMPORTED)
        provider = IMPORTED if provider == "manual" else provider
        payment_id = record.fields.get("provider_payment_id", f"{self._target.source}/{record.key}")
        if await payments.find(connection, provider, provider_payment_id=payment_id) is not None:
            return Result.PRESENT
        user_id = self._users.id_of(record)
        values = await self._columns(connection, record)
        created = await payments.upsert(
            connection, provider, provider_payment_id=payment_id, id=record.id, user_id=user_id, **values
        )
        after = {
            "user_id": user_id,
            "provider": provider,
            "provider_payment_id": payment_id,
            "amount": created.amount,
            "currency": created.currency,
            "status": created.status,
        }
        await self._target.record(connection, "payments.import", "payment", entity_id=created.id, after=after)
        return Result.IMPORTED

    async def _columns(self, connection: AsyncConnection, record: Record) -> dict[str, Any]:
        self._target.check_past(record, "created_at", "processed_at")
        columns = record.only(
            *("currency", "payment_method", "credits_awarded", "description", "error_message", "created_at")
        )
        amount, status = record.fields["amount"], record.fields.get("status", "completed")
        refunded = record.fields.get("refunded_amount", amount if status == "refunded" else Decimal(0))
        check_money(record.fields.get("currency", "USD"), amount=amount, refunded_amount=refunded)
        if refunded > amount:
            raise UnfitField("refunded_amount", f"is more than the amount: {refunded} of {amount}")
        processed_at = record.fields.get("processed_at") or record.fields.get("created_at")
        return columns | {
            "transaction_type": record.fields.get("transaction_type", "subscription"),
            "status": status,
            "amount": amount,
            "refunded_amount": refunded,
            "processed_at": None if status == "pending" else processed_at,
            "plan_id": await self._target.plan_id(connection, record),
            "subscription_id": self._known_subscription(record),
        }

    def _subscription_id(self, record: Record) -> UUID | None:
        key = record.fields.get("subscription")
        return None if key is None else self._target.id_of(Section.SUBSCRIPTIONS, key)

    def _known_subscription(self, record: Record) -> UUID | None:
        found = self._subscription_id(record)
        if found is not None and found not in self._subscriptions:
            raise UnfitField(
                "subscription", f"refers to subscription {record.fields['subscription']}, which is not imported"
            )
        return found
