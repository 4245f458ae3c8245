"""Carries to a payment provider what was decided here: ends, pauses and resumes.

Subscriptions end there that have ended here: those of deleted accounts, and those that another one superseded. Payments
pause of suspended accounts and of subscriptions that an operator paused, until either is active again: the provider
voids what falls due meanwhile, so nobody is charged for what is refused. A pause that the seller made at the provider
is left alone.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync
from gateway.ledger.payments.provider_instructions import Action, Instruction, list_due, record_payments_paused
from gateway.ledger.payments.provider_subscriptions import sync_from_provider
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable
from gateway.workers.billing.webhook_processor import FAILURES
from policies.billing.payments import ObjectKind, ObjectRef
from policies.model import SubscriptionStatus

BATCH = 20

log = structlog.get_logger(__name__)


class ProviderInstructionWorker:
    """For one provider. Several may run, since every instruction is idempotent."""

    idle_seconds = 60.0

    def __init__(self, database: Database, provider: Provider) -> None:
        self._database = database
        self._provider = provider

    async def run_once(self) -> int:
        """Carries out a batch. Returns 0, so that a pause follows even where the provider refuses."""
        async with self._database.read() as connection:
            due = await list_due(connection, provider=self._provider.name, limit=BATCH)
        for instruction in due:
            told = log.bind(action=str(instruction.action), subscription_id=str(instruction.subscription.id))
            try:
                await self._carry_out(instruction)
            except ProviderUnavailable as error:
                told.warning("provider_instruction_deferred", provider=self._provider.name, reason=str(error))
                return 0
            except FAILURES as error:
                told.error("provider_instruction_failed", reason=str(error))
            else:
                told.info("provider_instructed")
        return 0

    async def _carry_out(self, instruction: Instruction) -> None:
        """Tells the provider, then applies what it has made of the subscription. Raises what FAILURES names."""
        subscription = instruction.subscription
        async with self._database.read() as connection:
            asked_at = await provider_sync.database_time(connection)
        try:
            await self._tell(instruction.action, subscription.provider_subscription_id or "")
        except ProviderRefused as refused:
            if not refused.is_missing:
                raise
            await self._record_missing(instruction, asked_at)
            return
        fetch = partial(
            self._provider.fetch, ObjectRef(ObjectKind.SUBSCRIPTION, subscription.provider_subscription_id or "")
        )
        if instruction.action is not Action.CANCEL:
            await self._record_pause(instruction)
        update = await fetch_update(self._database, self._provider, fetch)
        async with self._database.transaction() as connection:
            await apply_update(connection, update)

    async def _tell(self, action: Action, remote_id: str) -> None:
        if action is Action.CANCEL:
            await self._provider.cancel(remote_id, at_period_end=not self._provider.traits.cancels_immediately)
        elif action is Action.PAUSE_PAYMENTS:
            await self._provider.pause_payments(remote_id)
        else:
            await self._provider.resume_payments(remote_id)

    async def _record_pause(self, instruction: Instruction) -> None:
        async with self._database.transaction() as connection:
            await record_payments_paused(
                connection, instruction.subscription.id, are_paused=instruction.action is Action.PAUSE_PAYMENTS
            )

    async def _record_missing(self, instruction: Instruction, asked_at: datetime) -> None:
        """Where the provider has no such subscription nobody is charged."""
        if instruction.action is not Action.CANCEL:
            await self._record_pause(instruction)
            return
        async with self._database.transaction() as connection:
            await _end(connection, instruction.subscription, asked_at, actor=f"provider:{self._provider.name}")


async def _end(connection: AsyncConnection, subscription: StoredSubscription, at: datetime, *, actor: str) -> None:
    await sync_from_provider(
        connection,
        subscription.id,
        status=SubscriptionStatus.CANCELED,
        period_start=subscription.current_period_start,
        period_end=subscription.current_period_end,
        cancel_at_period_end=False,
        quantity=subscription.quantity,
        now=at,
        actor=actor,
    )
