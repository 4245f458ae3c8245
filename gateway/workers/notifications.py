"""Delivers notices: claims some for a while, tells each by its channel, marks how it went.

At least once: who dies between telling and marking leaves it to be told again, under the same id. A channel that nobody
has set up drops its notices, so that nothing old is told on the day when somebody does.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from gateway.ledger.db import notifications
from gateway.ledger.db.notifications import MAIL, Delivery
from gateway.ledger.db.session import Database
from gateway.notifications.email_templates import Stationery, compose
from gateway.notifications.errors import Undelivered
from gateway.notifications.mailer import Mailer
from gateway.notifications.webhook import Webhook
from policies.delivery_retries import delay_seconds

BATCH = 20
DELIVERY_SECONDS = 60.0
# Longer than any delivery may take: what is claimed and not marked by then was left by somebody who died.
LEASE_SECONDS = 120.0
_NOBODY = "@deleted.invalid"

_log = structlog.get_logger()


class NoticeTeller:
    """Any number may run; a delivery is in one hand at a time."""

    idle_seconds = 1.0

    def __init__(self, database: Database, mailer: Mailer, webhook: Webhook | None, *, stationery: Stationery) -> None:
        self._database = database
        self._mailer = mailer
        self._webhook = webhook
        self._stationery = stationery

    async def run_once(self) -> int:
        """Tries what is due; gives how many deliveries it tried."""
        async with self._database.transaction() as connection:
            claimed = await notifications.claim(connection, limit=BATCH, lease_seconds=LEASE_SECONDS)
        await asyncio.gather(*(self._deliver(delivery) for delivery in claimed))
        return len(claimed)

    async def _deliver(self, delivery: Delivery) -> None:
        failure: Undelivered | None = None
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                status = await self._tell(delivery)
        except Undelivered as undelivered:
            status, failure = "failed", undelivered
        except TimeoutError:
            status, failure = "failed", Undelivered(f"took longer than {DELIVERY_SECONDS:g} s")
        delay = None if failure is None or failure.is_final else delay_seconds(delivery.attempts, chance=_chance())
        async with self._database.transaction() as connection:
            if delay is None:
                await notifications.end(
                    connection, delivery, status=status, error=None if failure is None else str(failure)
                )
            else:
                await notifications.put_off(connection, delivery, delay_seconds=delay, error=str(failure))
        if failure is not None:
            facts = {"notice": str(delivery.id), "kind": delivery.kind, "channel": delivery.channel}
            _log.warning("a notice was not delivered", reason=str(failure), retry_seconds=delay, **facts)

    async def _tell(self, delivery: Delivery) -> str:
        """The status it ends with. Raises Undelivered."""
        if delivery.channel == MAIL:
            if delivery.email.endswith(_NOBODY):
                return "dropped"
            letter = compose(delivery.kind, delivery.payload, name=delivery.name, stationery=self._stationery)
            await self._mailer.send(delivery.email, letter, message_id=str(delivery.id))
            return "delivered"
        if self._webhook is None:
            return "dropped"
        data = {"user_id": str(delivery.user_id), **delivery.payload}
        await self._webhook.send(str(delivery.id), delivery.kind, created_at=delivery.created_at, data=data)
        return "delivered"


def _chance() -> float:
    return random.random()  # noqa: S311 - spreads load, guards nothing
