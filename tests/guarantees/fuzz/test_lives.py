"""Random years of Stripe's customers: the books agree, and credits are given for money only (`make fuzz`: 300)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from gateway.ledger.payments import provider_sync
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.workers.usage.reconciliation import Reconciler
from tests.guarantees.simulation.stripe_lives import Calls, Life, sell
from tests.payments.conftest import PRICES, stripe_provider
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, payment_stack
from tests.support import sampling
from tests.workers.conftest import Backend, backend  # noqa: F401 - the fixture of both stores

MONTHS = 12

# A debt is what the balance lacks to the rest of the grants; advances that were taken back were not granted.
_BOOKS = text("""
    SELECT c.current_credits AS balance, least(c.current_credits, 0) AS debt, c.total_credits_used AS used,
           (SELECT coalesce(sum(amount), 0) FROM credit_ledger WHERE user_id = c.user_id) AS ledger,
           (SELECT coalesce(sum(remaining), 0) FROM credit_grants WHERE user_id = c.user_id) AS remaining,
           (SELECT coalesce(sum(amount), 0) FROM credit_grants g
             WHERE user_id = c.user_id AND source = 'plan' AND metadata ->> 'advance' IS NULL
               AND NOT EXISTS (SELECT FROM credit_ledger l
                                WHERE l.grant_id = g.id AND l.reason LIKE 'advanced for a period%')) AS granted
      FROM user_credits c WHERE c.user_id = :user_id
""")


@pytest.fixture
async def stack(
    backend: Backend,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[PaymentStack, FakeStripe]]:
    """A gateway whose database has the clock of the fake Stripe, where months pass."""
    world = FakeStripe(PRICES)

    async def time_at_stripe(_: Any) -> datetime:
        return datetime.fromtimestamp(world.now, UTC)

    monkeypatch.setattr(provider_sync, "database_time", time_at_stripe)
    provider = stripe_provider(world)
    async with payment_stack(backend.database, provider) as opened:
        yield opened, world
    await provider.close()


async def test_lives_of_a_year_are_given_credits_for_what_was_paid(
    stack: tuple[PaymentStack, FakeStripe],
    backend: Backend,  # noqa: F811 - the fixture
) -> None:
    gateway, world = stack
    books, began = await sell(gateway, world), world.now
    faults = []
    for number in range(sampling.scaled(suite=1, full=300)):
        world.forget(now=began)
        user = await gateway.create_user()
        await backend.load(user.id)
        life = Life(gateway, Calls(backend, user), world, books, user, sampling.seeded_random(f"life {number}"))
        try:
            for _ in range(MONTHS):
                await life.live(1)
                await check(life)
        except AssertionError as fault:
            faults.append("\n".join([f"life {number}: {fault}", *life.done]))
            async with backend.database.transaction() as connection:
                await connection.execute(text("DELETE FROM webhook_events"))
    assert not faults, "\n\n".join([f"{len(faults)} lives", *faults])


async def check(life: Life) -> None:
    """Ledger, balance, grants and Redis agree, and the second bookkeeping with each payment."""
    backend = life.calls.backend  # noqa: F811 - not the fixture
    async with backend.database.read() as connection:
        found = (await connection.execute(_BOOKS, {"user_id": life.user.id})).one()
    assert found.ledger == found.balance
    assert found.remaining + found.debt == found.balance
    checked = await Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter)).check(
        [life.user.id]
    )
    assert checked.findings == ()
    assert checked.loaded == 1
    assert found.used == life.calls.spent
    paid = {row.provider_payment_id: row for row in await life.stack.payments(life.user)}
    for payment_id, (gave, taken) in life.books.of_payments(life.customer_id).items():
        row = paid[payment_id]
        assert (row.credits_awarded, row.credits_withdrawn) == (gave, taken), payment_id
    assert found.granted == life.books.given(life.customer_id)
    assert not await life.stack.event_reasons("failed")
