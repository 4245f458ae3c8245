"""Random years of Stripe's customers: the books agree, and credits are given for money only (`make fuzz`: 300)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync
from tests.payments.conftest import PRICES, stripe_provider
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, payment_stack
from tests.payments.stripe.lives import Life, sell
from tests.support import sampling

MONTHS = 12

# A debt is what the balance lacks to the rest of the grants; advances that were taken back were not granted.
_BOOKS = text("""
    SELECT c.current_credits AS balance, least(c.current_credits, 0) AS debt,
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
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[PaymentStack, FakeStripe]]:
    """A gateway whose database has the clock of the fake Stripe, where months pass."""
    database, world = Database(own_database_url), FakeStripe(PRICES)

    async def time_at_stripe(_: Any) -> datetime:
        return datetime.fromtimestamp(world.now, UTC)

    monkeypatch.setattr(provider_sync, "database_time", time_at_stripe)
    provider = stripe_provider(world)
    async with payment_stack(database, provider) as opened:
        yield opened, world
    await provider.close()
    await database.close()


async def test_lives_of_a_year_are_given_credits_for_what_was_paid(stack: tuple[PaymentStack, FakeStripe]) -> None:
    gateway, world = stack
    books = await sell(gateway, world)
    for number in range(sampling.scaled(suite=3, full=300)):
        draw = sampling.seeded_random(f"life {number}")
        life = Life(gateway, world, books, await gateway.create_user(), draw)
        for _ in range(MONTHS):
            await life.live(1)
            await check(life, number)


async def check(life: Life, number: int) -> None:
    story = "\n".join([f"life {number}", *life.done])
    async with life.stack.database.read() as connection:
        found = (await connection.execute(_BOOKS, {"user_id": life.user.id})).one()
    assert found.ledger == found.balance, story
    assert found.remaining + found.debt == found.balance, story
    paid = {row.provider_payment_id: row for row in await life.stack.payments(life.user)}
    for invoice_id, (gave, taken) in life.books.of_payments(life.customer_id).items():
        row = paid[invoice_id]
        assert (row.credits_awarded, row.credits_withdrawn) == (gave, taken), f"{invoice_id}\n{story}"
    assert found.granted == life.books.given(life.customer_id), story
    assert not await life.stack.event_reasons("failed"), story
