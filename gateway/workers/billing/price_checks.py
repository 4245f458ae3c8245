"""Compares all plans and packs for sale with the prices of their providers, once a day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from gateway import clock, metrics
from gateway.config.plans import Pack
from gateway.ledger.catalogue import plans
from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync
from gateway.payments import price_checks
from gateway.payments.provider import Provider
from policies.billing.price_checks import Offer, OfferedPrice
from policies.billing.providers import provider_ids

INTERVAL = timedelta(days=1)
CURSOR = "price_checks"


class PriceCheckWorker:
    """Several may run: one a day compares."""

    idle_seconds = 300.0

    def __init__(
        self,
        database: Database,
        providers: Mapping[str, Provider],
        *,
        packs: Sequence[Pack] = (),
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._database = database
        self._providers = providers
        self._packs = packs
        self._now = now

    async def run_once(self) -> int:
        """Returns 0, so that a pause follows."""
        if not await self._is_due():
            return 0
        async with self._database.read() as connection:
            stored = await plans.list_plans(connection)
        offers = [plan.offer for plan in stored if plan.terms.is_active] + [_pack(each) for each in self._packs]
        counts = Counter(dict.fromkeys(self._providers, 0))
        for offer in offers:
            found = await price_checks.check(self._providers.values(), offer)
            counts.update(each.provider for each in found or ())
        for provider, count in counts.items():
            metrics.PRICE_DIFFERENCES.labels(provider).set(count)
        return 0

    async def _is_due(self) -> bool:
        now = self._now()
        async with self._database.transaction() as connection:
            position = await provider_sync.get_cursor_for_update(connection, CURSOR)
            if position and now - datetime.fromisoformat(position["began"]) < INTERVAL:
                return False
            await provider_sync.move_cursor(connection, CURSOR, position={"began": now.isoformat()})
        return True


def _pack(pack: Pack) -> Offer:
    return Offer(pack.id, OfferedPrice(pack.price, pack.currency, None), provider_ids(pack))
