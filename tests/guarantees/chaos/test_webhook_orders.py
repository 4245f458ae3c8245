"""In whatever order a life's messages come, twice each, some at once, with crashes between: one end, credits once."""

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
from tests.payments.fake_stripe import DirectClient, FakeStripe, signed
from tests.payments.market import Market, Standing, acting_at_once, market
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
    """The process dies here: nothing catches it, and what was not committed is gone."""


@pytest.fixture
async def worlds(own_database_url: str) -> AsyncIterator[Callable[[], Awaitable[tuple[Market, FakeStripe]]]]:
    """Markets on one database, each with a world of its own."""
    database = Database(own_database_url)
    opened: list[Any] = []

    async def open_one() -> tuple[Market, FakeStripe]:
        world = FakeStripe(PRICES)
        provider = stripe_provider(world)
        provider._client = DirectClient(world)  # type: ignore[assignment] # the lives are heard over HTTP elsewhere
        context = market(database, provider)
        opened.append((context, provider))
        return await context.__aenter__(), world

    yield open_one
    for context, provider in opened:
        await context.__aexit__(None, None, None)
        await provider.close()
    await database.close()


async def test_any_order_ends_as_the_provider_has_it(worlds: Any) -> None:
    draw = sampling.seeded_random("orders")
    orders = draw.sample(ORDERS, sampling.scaled(suite=60, full=len(ORDERS)))
    market, world = await worlds()
    expected = await lived_in_order(*await worlds())
    for order in orders:
        user, told = await a_life(market, world)
        deliveries = [told[index] for index in order] * 2
        await in_disorder(market, deliveries, draw=draw)
        await market.work_off()
        assert without_times(await market.standing(user)) == expected, f"order {order}"
    assert not await market.events("failed")


async def lived_in_order(market: Market, world: FakeStripe) -> tuple[Any, ...]:
    user, told = await a_life(market, world)
    for each in told:
        await market.deliver(*signed(each, STRIPE_SECRETS[0]))
        await market.work_off()
    return without_times(await market.standing(user))


async def a_life(market: Market, world: FakeStripe) -> tuple[User, list[Any]]:
    """Bought, renewed, failed, recovered, cancelled; none of it heard yet."""
    user = await market.a_user()
    checkout = await market.subscribe(user)
    session_id = checkout.provider_checkout_id or ""
    world.complete(session_id)
    subscription_id = world.objects[session_id]["subscription"]
    unpaid = world.renew(subscription_id, succeeds=False)
    world.recover(unpaid["id"])
    world.end(subscription_id)
    events = world.unheard()
    return user, [[each for each in events if each["type"] == name][which] for name, which in TOLD]


async def in_disorder(market: Market, deliveries: list[Any], *, draw: random.Random) -> None:
    """One by one or a few at once; sometimes the process dies on the way, at any of its statements."""
    busy = acting_at_once(market)
    while deliveries:
        crowd = [deliveries.pop(0) for _ in range(min(len(deliveries), draw.choice((1, 1, 3))))]
        if draw.random() < 0.4:
            with crashing(market.database, after=draw.randint(0, 40)):
                await asyncio.gather(*(died_or_done(market, each) for each in crowd))
        else:
            await asyncio.gather(*(busy.deliver(*signed(each, STRIPE_SECRETS[0])) for each in crowd))


async def died_or_done(market: Market, told: Any) -> None:
    """Delivered and acted on by a process that may die, before the provider has its answer or after."""
    try:
        await market.deliver(*signed(told, STRIPE_SECRETS[0]))
        await market.processor.run_once()
    except (Crash, asyncio.CancelledError, AssertionError):
        await market.deliver(*signed(told, STRIPE_SECRETS[0]))  # it had no answer, so it is sent again


@contextmanager
def crashing(database: Database, *, after: int) -> Iterator[None]:
    """The statement after so many dies, and no other."""
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


def without_times(standing: Standing) -> tuple[Any, ...]:
    return (
        standing.status,
        standing.plan_id,
        standing.is_ending,
        standing.balance,
        standing.granted,
        standing.payments,
    )
