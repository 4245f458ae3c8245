"""Signed events with broken values at every place: each is answered and harms nothing, and those after it go on.

The suite sends a part of them, `make fuzz` sends all.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from typing import Any, Protocol
from uuid import uuid4

import pytest

from gateway.ledger.db.session import Database
from gateway.ledger.payments import webhook_events
from gateway.payments.provider import Provider
from tests.api.broken_values import BROKEN
from tests.payments import fake_stripe
from tests.payments.conftest import (
    LEMON_SQUEEZY_SECRETS,
    PRICES,
    STRIPE_SECRETS,
    lemon_squeezy_provider,
    stripe_provider,
)
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PATHS, PaymentStack, payment_stack
from tests.support.sampling import IS_FULL, seeded_random

Event = dict[str, Any]
Pointer = tuple[str | int, ...]
READ_IN_THE_SUITE, OTHERS_IN_THE_SUITE = 50, 10
INCOMPRESSIBLE = "".join(map(chr, range(0x4E00, 0x5E00)))  # longer than an index takes
TIMES = ("2026-11-29T12:00:00", "2026-11-29", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
VALUES = (*BROKEN, *TIMES, INCOMPRESSIBLE, True, None, [], {})


class Fake(Protocol):
    def new_events(self) -> list[Event]: ...


class StripeWorld:
    """Stripe with a subscription, and its events as it signs them. `read` are the members that matter most."""

    read = (("id",), ("type",), ("created",), ("data", "object", "id"))

    def __init__(self) -> None:
        self.fake = FakeStripe(PRICES)
        self.provider: Provider = stripe_provider(self.fake)

    def pay(self, checkout_id: str) -> None:
        self.fake.pay_checkout(checkout_id)
        self._subscription_id = self.fake.objects[checkout_id]["subscription"]

    def renew(self) -> None:
        self.fake.renew(self._subscription_id)

    def signed(self, event: Event) -> tuple[bytes, dict[str, str]]:
        return fake_stripe.signed(event, STRIPE_SECRETS[0])

    def renamed(self, event: Event) -> Event:
        """The event under an id of its own."""
        return {**event, "id": f"evt_{uuid4().hex}"}


class LemonSqueezyWorld:
    """Lemon Squeezy with a subscription, and its events as it signs them."""

    read = (
        ("meta", "event_name"),
        ("meta", "custom_data", "gateway_checkout"),
        ("data", "id"),
        ("data", "attributes", "updated_at"),
    )

    def __init__(self) -> None:
        self.fake = FakeLemonSqueezy({"100": 999, "200": 2999, "900": 500})
        self.provider: Provider = lemon_squeezy_provider(self.fake)

    def pay(self, checkout_id: str) -> None:
        self._subscription = self.fake.pay_checkout(checkout_id)

    def renew(self) -> None:
        self.fake.renew(self._subscription)

    def signed(self, event: Event) -> tuple[bytes, dict[str, str]]:
        body = json.dumps(event).encode()
        return body, {"x-signature": hmac.new(LEMON_SQUEEZY_SECRETS[0].encode(), body, hashlib.sha256).hexdigest()}

    def renamed(self, event: Event) -> Event:
        return event  # known by the digest of its bytes


World = StripeWorld | LemonSqueezyWorld


@pytest.fixture(params=[StripeWorld, LemonSqueezyWorld])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world: World = request.param()
    yield world
    await world.provider.close()


@pytest.fixture
async def stack(own_database_url: str, world: World) -> AsyncIterator[PaymentStack]:
    database = Database(own_database_url)
    async with payment_stack(database, world.provider) as made:
        yield made
    await database.close()


async def test_events_with_broken_values_are_answered_and_harm_nothing(world: World, stack: PaymentStack) -> None:
    user = await stack.create_user()
    world.pay((await stack.subscribe(user)).provider_checkout_id or "")
    events = world.fake.new_events()
    await _deliver(world, stack, events)
    before = await stack.billing_state(user)
    assert before.balance == 1000

    for event in _broken(world, events):
        body, headers = world.signed(event)
        answer = await stack.client.post(PATHS[world.provider.name], content=body, headers=headers)
        assert answer.status_code in (200, 400), (body[:300], answer.text[:300])
    while await stack.processor.run_once():
        pass
    assert await _unexplained(stack) == []
    assert await stack.billing_state(user) == before

    world.renew()
    await _deliver(world, stack, world.fake.new_events())
    assert (await stack.billing_state(user)).granted == before.granted + 1000


async def _deliver(world: World, stack: PaymentStack, events: list[Event]) -> None:
    for event in events:
        await stack.deliver(*world.signed(event))
    while await stack.processor.run_once():
        pass


def _broken(world: World, events: list[Event]) -> list[Event]:
    """Events of which one member each is broken, in the suite a part of them, the same in each run."""
    cases = [(event, at, value) for event in events for at in _pointers(event, ()) for value in VALUES]
    if not IS_FULL:
        chance = seeded_random(f"broken events {world.provider.name}")
        read = [case for case in cases if case[1] in world.read]
        cases = chance.sample(read, READ_IN_THE_SUITE) + chance.sample(cases, OTHERS_IN_THE_SUITE)
    return [_with(world.renamed(event), at, value) for event, at, value in cases]


def _pointers(found: Any, at: Pointer) -> Iterator[Pointer]:
    """Where there is a member, at any depth."""
    if at:
        yield at
    children = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for name, each in children:
        yield from _pointers(each, (*at, name))


def _with(event: Event, at: Pointer, value: Any) -> Event:
    made = deepcopy(event)
    node: Any = made
    for step in at[:-1]:
        node = node[step]
    node[at[-1]] = value
    return made


async def _unexplained(stack: PaymentStack) -> list[str]:
    """Events that nobody has tried, or that failed without a reason, on pages that can all be read."""
    found: list[str] = []
    cursor = None
    while True:
        async with stack.database.read() as connection:
            page = await webhook_events.list_events(connection, cursor=cursor, limit=500)
        tried = ("processed", "ignored", "failed")
        found += [
            str(each)
            for each in page.data
            if each.status not in tried or (each.status == "failed" and not each.error_message)
        ]
        cursor = page.next_cursor
        if cursor is None:
            return found
