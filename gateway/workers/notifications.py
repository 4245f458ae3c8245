"""Delivers notifications: leases due deliveries, sends each by its channel, and marks the outcome.

Delivery is at least once: a worker that dies between sending and marking leaves the delivery to the next one, which
sends it under the same id. Without a configured channel its deliveries are dropped, so none is sent late.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection

import structlog

from gateway import metrics
from gateway.email_addresses import ERASED_DOMAIN
from gateway.ledger.db import notifications
from gateway.ledger.db.notifications import CHANNELS, MAIL, Delivery
from gateway.ledger.db.session import Database
from gateway.notifications import DeliveryFailed
from gateway.notifications.email_templates import TemplateContext, render
from gateway.notifications.mailer import Mailer
from gateway.notifications.webhook import Webhook

BATCH = 20
DELIVERY_SECONDS = 60.0
# Longer than any delivery may take: a delivery that is not marked by then belonged to a worker that died.
LEASE_SECONDS = 120.0

# Seconds after each attempt: the schedule that Standard Webhooks recommends ("Retry schedule"). Jitter adds up to a
# tenth, so that deliveries that failed together are not retried together.
RETRY_DELAYS_SECONDS = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
_JITTER = 0.1
# A delivery that ends its process each time is never marked. Processes also end for other reasons, so this is more than
# attempts have outcomes.
MAX_LEASES = 2 * (len(RETRY_DELAYS_SECONDS) + 1)

_log = structlog.get_logger()


class NotificationSender:
    """Any number may run; one worker at a time has the lease of a delivery.

    One that has a channel to itself is not held up by a slow receiver of another.
    """

    idle_seconds = 1.0

    def __init__(
        self,
        database: Database,
        mailer: Mailer,
        webhook: Webhook | None,
        *,
        context: TemplateContext,
        unmailed: Collection[str] = (),
        channels: Collection[str] = CHANNELS,
    ) -> None:
        """No mail is sent about the kinds of `unmailed`; `channels` are those it delivers by."""
        self._database = database
        self._mailer = mailer
        self._webhook = webhook
        self._stationery = context
        self._unmailed = frozenset(unmailed)
        self._channels = channels

    async def run_once(self) -> int:
        """Attempts one batch of due deliveries; gives how many."""
        async with self._database.transaction() as connection:
            leased = await notifications.lease(
                connection, channels=self._channels, limit=BATCH, lease_seconds=LEASE_SECONDS
            )
        ended = await asyncio.gather(*map(self._deliver, leased), return_exceptions=True)
        for result in ended:
            if isinstance(result, BaseException):
                raise result  # after all others are marked; its lease ends, and it is tried again
        return len(leased)

    async def _deliver(self, delivery: Delivery) -> None:
        status, failure = await self._attempt(delivery)
        delay = None if failure is None or failure.is_final else _retry_delay_seconds(delivery.attempts)
        async with self._database.transaction() as connection:
            if delay is None:
                await notifications.finish(
                    connection, delivery, status=status, error=None if failure is None else str(failure)
                )
            else:
                await notifications.reschedule(connection, delivery, delay_seconds=delay, error=str(failure))
        metrics.NOTIFICATION_DELIVERIES.labels(delivery.channel, status if delay is None else "retried").inc()
        if failure is not None:
            fields = {"notification_id": str(delivery.id), "kind": delivery.kind, "channel": delivery.channel}
            cause = failure.__cause__ if failure.is_unforeseen else None
            _log.warning(
                "notification_delivery_failed", reason=str(failure), retry_seconds=delay, exc_info=cause, **fields
            )

    async def _attempt(self, delivery: Delivery) -> tuple[str, DeliveryFailed | None]:
        """The status, and what speaks against it."""
        if delivery.attempts > MAX_LEASES:
            return "failed", DeliveryFailed("no process that tried to send it has lived to mark it", is_final=True)
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                return await self._send(delivery), None
        except DeliveryFailed as error:
            return "failed", error
        except TimeoutError:
            return "failed", DeliveryFailed(f"took longer than {DELIVERY_SECONDS:g} s")

    async def _send(self, delivery: Delivery) -> str:
        """Gives the final status. Raises DeliveryFailed, also for what nobody foresaw."""
        try:
            return await self._send_by_channel(delivery)
        except DeliveryFailed:
            raise
        except Exception as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}", is_unforeseen=True) from error

    async def _send_by_channel(self, delivery: Delivery) -> str:
        if delivery.channel == MAIL:
            if delivery.email.endswith(f"@{ERASED_DOMAIN}") or delivery.kind in self._unmailed:
                return "dropped"
            email = render(delivery.kind, delivery.payload, name=delivery.name, context=self._stationery)
            await self._mailer.send(delivery.email, email, message_id=str(delivery.id))
            return "delivered"
        if self._webhook is None:
            return "dropped"
        data = {"user_id": str(delivery.user_id), **delivery.payload}
        await self._webhook.send(str(delivery.id), delivery.kind, created_at=delivery.created_at, data=data)
        return "delivered"


def _retry_delay_seconds(attempts: int) -> float | None:
    """None after the last attempt."""
    if attempts > len(RETRY_DELAYS_SECONDS):
        return None
    return RETRY_DELAYS_SECONDS[attempts - 1] * (1 + _JITTER * random.random())  # noqa: S311 - spreads load
