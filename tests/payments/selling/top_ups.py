"""A customer with a saved card, and what became of their top-ups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import text

from gateway.ledger.accounts.users import User
from gateway.ledger.credits import grants
from gateway.ledger.payments import provider_customers
from gateway.workers.billing.top_ups import TopUpWorker
from tests.ledger.make import list_notifications
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, Object, signed
from tests.payments.payment_stack import PACK, PaymentStack

TERMS = {"pack": PACK.id, "threshold": 50, "daily_limit": "10.00", "monthly_limit": "50.00"}


@dataclass
class Topped:
    """Somebody whose credits top up by themselves."""

    stack: PaymentStack
    world: FakeStripe
    user: User
    client: httpx.AsyncClient
    worker: TopUpWorker
    card: str = ""

    async def agree(self, **terms: Any) -> Any:
        answer = await self.client.put("/me/top-up", json={**TERMS, **terms})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def save_card(self) -> None:
        page = await self.client.post("/me/top-up/card")
        assert page.status_code == 200, page.text
        self.card = self.world.saved.save(page.json()["url"].rpartition("/")[2])

    async def shown(self) -> Any:
        return (await self.client.get("/me/top-up")).json()

    async def run(self, times: int = 1) -> None:
        """The worker; every attempt that was put off is due."""
        for _ in range(times):
            async with self.stack.database.transaction() as connection:
                await connection.execute(text("UPDATE top_ups SET due_at = now() WHERE status = 'pending'"))
            await self.worker.run_once()

    async def hear(self) -> None:
        for event in self.world.new_events():
            await self.stack.deliver(*signed(event, STRIPE_SECRETS[0]))
        await self.stack.process_all()
        assert not await self.stack.event_reasons("failed")

    async def spend_all(self) -> None:
        if balance := await self.stack.balance(self.user):
            await self.spend(balance)

    async def spend(self, amount: int) -> None:
        """As calls do."""
        async with self.stack.database.transaction() as connection:
            await grants.adjust(connection, self.user.id, amount=-amount, reason="spent", actor="test")

    async def charged(self) -> list[Object]:
        async with self.stack.database.read() as connection:
            customer_id = await provider_customers.find(connection, self.user.id, provider="stripe")
        return self.world.saved.charged(customer_id or "")

    async def customer_id(self) -> str:
        async with self.stack.database.read() as connection:
            return await provider_customers.find(connection, self.user.id, provider="stripe") or ""

    async def told(self) -> list[str]:
        """The kinds of what was told about top-ups."""
        async with self.stack.database.read() as connection:
            rows = await list_notifications(connection, self.user.id)
        return [kind for kind, _ in rows if kind.startswith("top_up.")]
