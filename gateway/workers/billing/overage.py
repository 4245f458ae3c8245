"""Bills the last usage of postpaid subscriptions that have ended: no period follows that would bill it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import overage, renewals
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import get_existing
from gateway.workers.quarantine import FAILURES, Quarantine

ACTOR = "worker:overage"
BATCH_SUBSCRIPTIONS = 200


class OverageWorker:
    """Any number may run: each skips accounts that another one has locked. Usage that comes later is billed later."""

    idle_seconds = 60.0

    def __init__(self, database: Database, *, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._now = now
        self._quarantine = Quarantine("overage", now)

    async def run_once(self) -> int:
        """Bills one batch; gives how many subscriptions it billed."""
        exclude = self._quarantine.quarantined()
        async with self._database.read() as connection:
            found = await overage.list_ended(connection, limit=BATCH_SUBSCRIPTIONS, exclude=exclude)
        billed = 0
        for subscription_id in found:
            try:
                billed += await self._bill(subscription_id)
            except FAILURES as error:
                self._quarantine.record_failure(subscription_id, error)
            else:
                self._quarantine.record_success(subscription_id)
        return billed

    async def _bill(self, subscription_id: UUID) -> bool:
        async with self._database.transaction() as connection:
            ended = await get_existing(connection, subscription_id)
            if not await renewals.try_lock(connection, ended.user_id):
                return False
            plan, at = await plan_of(connection, ended), ended.canceled_at or self._now()
            return await overage.bill(connection, ended, plan=plan, at=at, actor=ACTOR) > 0
