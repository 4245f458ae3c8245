"""Tops up credits that run low: charges the card that the customer saved, as far as the customer allowed.

A top-up is recorded before the provider hears of it, under a key by which the provider executes it once. One without an
answer is asked about before it is tried again, so a crash or a broken connection anywhere charges nobody twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import structlog

from gateway.clock import now
from gateway.config.plans import Pack
from gateway.ledger.accounts import users
from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_customers, top_ups
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.payments.top_ups import Offered, TopUp
from gateway.payments.provider import CardProvider, ProviderRefused, ProviderUnavailable, SavedCharge
from policies.billing.payments import PaymentStatus, Snapshot
from policies.billing.top_ups import ASKED_AGAIN_FOR, TopUpStatus
from policies.model import AccountStatus

BATCH = 20
NO_ANSWER = "the payment provider did not answer for too long"
FAILED = "the payment failed"
NOT_ACTIVE = "the account is suspended"

log = structlog.get_logger(__name__)


class TopUpWorker:
    """For one provider. Several may run: an account has one top-up at a time, and each attempt is claimed."""

    idle_seconds = 5.0

    def __init__(self, database: Database, provider: CardProvider, *, packs: Iterable[Pack]) -> None:
        self._database = database
        self._provider = provider
        self._offered = {
            pack.id: Offered(pack.id, pack.credits, pack.price, pack.currency, f"top_up:{pack.id}") for pack in packs
        }

    async def run_once(self) -> int:
        """Begins what is due, and asks what became of what is under way. Returns how many were advanced."""
        async with self._database.read() as connection:
            low = await top_ups.list_low(connection, provider=self._provider.name, now=now(), limit=BATCH)
        for user_id in low:
            await self._begin(user_id)
        async with self._database.read() as connection:
            unsettled = await top_ups.list_unsettled(connection, provider=self._provider.name, limit=BATCH)
        for each in unsettled:
            await self._advance(each)
        return len(unsettled)

    async def _begin(self, user_id: UUID) -> None:
        async with self._database.transaction() as connection:
            settings = await top_ups.lock_settings(connection, user_id)
            if settings is not None:
                offered = self._offered.get(settings.pack_id)
                await top_ups.begin(connection, user_id, offered, now=now())

    async def _advance(self, top_up: TopUp) -> None:
        async with self._database.transaction() as connection:
            claimed = await top_ups.claim(connection, top_up)
        if claimed is None:
            return
        try:
            update = await fetch_update(self._database, self._provider, lambda: self._outcome(claimed))
        except ProviderUnavailable as error:
            log.warning("top_up_deferred", top_up_id=str(top_up.id), attempts=claimed.attempts, reason=str(error))
            return
        except ProviderRefused as refused:
            log.warning("top_up_failed", top_up_id=str(top_up.id), reason=str(refused))
            async with self._database.transaction() as connection:
                await top_ups.settle(connection, top_up.checkout_id, error=refused.to_customer)
            return
        async with self._database.transaction() as connection:
            await apply_update(connection, update)

    async def _outcome(self, top_up: TopUp) -> Snapshot:
        """What the provider has of it. Raises ProviderRefused where it failed, ProviderUnavailable."""
        charge, objection = await self._charge_of(top_up)
        if charge is None:
            raise ProviderRefused("the provider has no such customer any more")
        found = Snapshot()
        if top_up.attempts > 1 or objection is not None:
            found = await self._provider.find_charge(charge)
        if not found.payments:
            if objection is not None:
                raise ProviderRefused(objection)
            found = await self._provider.charge_saved(charge)
        for payment in found.payments:
            if payment.status is PaymentStatus.FAILED:
                raise ProviderRefused(payment.error or FAILED)
        return found

    async def _charge_of(self, top_up: TopUp) -> tuple[SavedCharge | None, str | None]:
        """The request, and why it may not be made any more; None: the customer wants it by this card, and may have it,
        and it is not too old."""
        async with self._database.read() as connection:
            user = await users.get(connection, top_up.user_id)
            settings = await top_ups.get_settings(connection, top_up.user_id)
            customer_id = await provider_customers.find(connection, top_up.user_id, provider=self._provider.name)
        if customer_id is None:
            return None, NO_ANSWER
        is_active = user is not None and user.status is AccountStatus.ACTIVE
        is_wanted = settings is not None and settings.status is TopUpStatus.ON
        is_same_card = settings is not None and settings.payment_method_id == top_up.payment_method_id
        is_young = now() - top_up.created_at < ASKED_AGAIN_FOR
        charge = SavedCharge(
            reference=str(top_up.checkout_id),
            customer_id=customer_id,
            card_id=top_up.payment_method_id,
            amount=top_up.price,
            currency=top_up.currency,
            description="Credits, topped up automatically",
            begun_at=top_up.created_at,
        )
        if not is_active:
            return charge, NOT_ACTIVE
        return charge, None if is_wanted and is_same_card and is_young else NO_ANSWER
