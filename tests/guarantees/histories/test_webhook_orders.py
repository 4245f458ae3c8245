"""Webhooks of a subscription come in any order, twice each, with crashes between: one end state, credits once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import event as hooks

from gateway.ledger.accounts.users import User
from gateway.ledger.db.session import Database
from tests.payments.conftest import PRICES, STRIPE_SECRETS, stripe_provider
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import BillingState, PaymentStack, payment_stack, processing_at_once
from tests.payments.stripe.fake.direct_client import DirectClient
from tests.support import sampling

# Six of the messages of a life: of each type the first or the last (-1).
TOLD = (
    ("customer.subscription.created", 0),
    ("invoice.paid", 0),
    ("customer.subscription.updated", 0),
    ("invoice.payment_failed", 0),
    ("invoice.paid", -1),
    ("customer.subscription.deleted", 0),
)
ORDERS = list(permutations(range(len(TOLD))))
Deliver = Callable[[Any], Awaitable[None]]


class Crash(BaseException):
    """The process dies: nothing catches it, and uncommitted changes are lost."""


@pytest.fixture
async def worlds(own_database_url: str) -> AsyncIterator[Callable[[], Awaitable[tuple[PaymentStack, FakeStripe]]]]:
    """Stacks on one database, each with a fake_stripe of its own."""
    database = Database(own_database_url)
    opened: list[Any] = []

    async def open_one() -> tuple[PaymentStack, FakeStripe]:
        fake_stripe = FakeStripe(PRICES)
        provider = stripe_provider(fake_stripe)
        provider._client = DirectClient(fake_stripe)  # type: ignore[assignment] # the lives are delivered over HTTP elsewhere
        context = payment_stack(database, provider)
        opened.append((context, provider))
        return await context.__aenter__(), fake_stripe

    yield open_one
    for context, provider in opened:
        await context.__aexit__(None, None, None)
        await provider.close()
    await database.close()


async def test_webhook_orders_end_in_the_state_of_the_provider(worlds: Any) -> None:
    draw = sampling.seeded_random("orders")
    orders = draw.sample(ORDERS, sampling.scaled(suite=30, full=len(ORDERS)))
    stack, fake_stripe = await worlds()
    expected = await lived_in_order(*await worlds())
    for order in orders:
        user, told = await a_life(stack, fake_stripe)
        deliveries = [told[index] for index in order] * 2
        await in_disorder(stack, deliveries, draw=draw)
        await stack.process_all()
        assert without_times(await stack.billing_state(user)) == expected, f"order {order}"
    assert not await stack.event_reasons("failed")


async def lived_in_order(stack: PaymentStack, fake_stripe: FakeStripe) -> tuple[Any, ...]:
    user, told = await a_life(stack, fake_stripe)
    for each in told:
        await stack.deliver(*signed(each, STRIPE_SECRETS[0]))
        await stack.process_all()
    return without_times(await stack.billing_state(user))


async def a_life(stack: PaymentStack, fake_stripe: FakeStripe) -> tuple[User, list[Any]]:
    """A subscription that is bought, renewed, failed, recovered and cancelled, and its undelivered webhooks."""
    user = await stack.create_user()
    checkout = await stack.subscribe(user)
    session_id = checkout.provider_checkout_id or ""
    fake_stripe.pay_checkout(session_id)
    subscription_id = fake_stripe.objects[session_id]["subscription"]
    unpaid = fake_stripe.renew(subscription_id, succeeds=False)
    fake_stripe.recover(unpaid["id"])
    fake_stripe.end(subscription_id)
    events = fake_stripe.new_events()
    return user, [[each for each in events if each["type"] == name][which] for name, which in TOLD]


async def in_disorder(stack: PaymentStack, deliveries: list[Any], *, draw: random.Random) -> None:
    """Delivers one by one or a few at once; sometimes the process dies, at any of its statements."""
    busy = processing_at_once(stack)
    while deliveries:
        crowd = [deliveries.pop(0) for _ in range(min(len(deliveries), draw.choice((1, 1, 3))))]
        if draw.random() < 0.4:
            with crashing(stack.database, after=draw.randint(0, 40)):
                await asyncio.gather(*(died_or_done(stack, each) for each in crowd))
        else:
            await asyncio.gather(*(busy.deliver(*signed(each, STRIPE_SECRETS[0])) for each in crowd))


async def died_or_done(stack: PaymentStack, told: Any) -> None:
    """Delivers to a process that may die, before the provider has its response or after."""
    try:
        await stack.deliver(*signed(told, STRIPE_SECRETS[0]))
        await stack.processor.run_once()
    except (Crash, asyncio.CancelledError, AssertionError):
        await stack.deliver(*signed(told, STRIPE_SECRETS[0]))  # it had no answer, so it is sent again


@contextmanager
def crashing(database: Database, *, after: int) -> Iterator[None]:
    """Makes one statement raise Crash: the one behind `after` others."""
    left = after
    engine = database._engine.sync_engine

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash

    hooks.listen(engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        hooks.remove(engine, "before_cursor_execute", count)


def without_times(state: BillingState) -> tuple[Any, ...]:
    return (
        state.status,
        state.plan_id,
        state.is_ending,
        state.balance,
        state.granted,
        state.payments,
    )
