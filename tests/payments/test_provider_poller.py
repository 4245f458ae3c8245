"""Webhooks lost for a day: asking the provider ends with no difference."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import deliver_all


async def test_a_day_of_lost_webhooks_ends_with_no_difference(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack, world = stripe_stack, fake_stripe
    instant = now()
    poller = ProviderPoller(stack.database, stack.provider, interval=timedelta(minutes=15), now=lambda: instant)
    await poll_fully(poller)

    users = [await stack.create_user() for _ in range(3)]
    for user in users:
        checkout = await stack.subscribe(user)
        world.complete(checkout.provider_checkout_id or "")
    first, second, third = (each["id"] for each in world.objects.values() if each["object"] == "subscription")
    world.renew(first)
    world.renew(second, succeeds=False)
    world.end(third)
    pack = await stack.buy_pack(users[0])
    world.complete(pack.provider_checkout_id or "")
    assert [await stack.balance(user) for user in users] == [0, 0, 0]

    instant += timedelta(days=1)
    await poll_fully(poller)
    await stack.process_all()
    polled = [await stack.billing_state(user) for user in users]
    assert [each.status for each in polled] == ["active", "past_due", "canceled"]
    assert polled[0].balance >= 1100

    await deliver_all(stack, world)  # the webhooks after all: they say nothing new
    assert [await stack.billing_state(user) for user in users] == polled
    assert not await stack.events("failed")


async def test_a_page_that_is_gone_begins_the_walk_again(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, world = stripe_stack, fake_stripe
    monkeypatch.setattr("gateway.payments.stripe.adapter.PAGE", 2)
    world.now -= 3600  # long before the walk
    world.complete((await stack.subscribe(await stack.create_user())).provider_checkout_id or "")
    instant = now()
    poller = ProviderPoller(stack.database, stack.provider, interval=timedelta(minutes=15), now=lambda: instant)
    await poller.run_once()
    forgotten = world.events.pop(-2)  # the newest come first: the page ended with it
    await poll_fully(poller)
    assert len(await inbox(stack)) == 2
    instant += timedelta(minutes=2)
    await poll_fully(poller)
    assert await inbox(stack) == {each["id"] for each in [*world.events, forgotten]}
    asked = len(world.requests)
    instant += timedelta(minutes=2)
    await poll_fully(poller)
    assert len(world.requests) == asked  # it rests between walks again


async def test_what_makes_no_sense_is_skipped(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    stack, world = stripe_stack, fake_stripe
    world.complete((await stack.subscribe(await stack.create_user())).provider_checkout_id or "")
    sound = {each["id"] for each in world.events}
    world.events.insert(1, {"id": "evt_odd", "type": "invoice.paid", "created": world.now, "data": None})
    await poll_fully(ProviderPoller(stack.database, stack.provider, interval=timedelta(minutes=15)))
    assert await inbox(stack) == sound


async def test_an_answer_that_makes_no_sense_at_all_is_not_asked_for_at_once_again(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_stripe, "_list", lambda *_: {"object": "list", "data": None, "has_more": False})
    poller = ProviderPoller(stripe_stack.database, stripe_stack.provider, interval=timedelta(minutes=15))
    with pytest.raises(TypeError):
        await poller.run_once()
    await poll_fully(poller)
    assert len(fake_stripe.requests) == 1


async def inbox(stack: PaymentStack) -> set[str]:
    async with stack.database.read() as connection:
        return set(await connection.scalars(text("SELECT provider_event_id FROM webhook_events")))


async def poll_fully(poller: ProviderPoller) -> None:
    """One whole walk, page by page."""
    for _ in range(20):
        await poller.run_once()


def test_a_walk_begins_before_the_last_one_did() -> None:
    instant = datetime.fromisoformat("2026-03-15T12:00:00+00:00")
    nobody: Any = None
    poller = ProviderPoller(nobody, _Named(), interval=timedelta(hours=1), now=lambda: instant)  # type: ignore[arg-type] # only its name is asked
    at = poller._start_after({"began": "2026-03-15T11:00:00+00:00"})
    assert at == {"since": "2026-03-15T10:50:00+00:00", "began": instant.isoformat(), "page": None}


class _Named:
    name = "stripe"


async def test_a_provider_that_is_down_is_left_alone_for_a_while(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    instant = now()
    stripe_stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    poller = ProviderPoller(
        stripe_stack.database, stripe_stack.provider, interval=timedelta(minutes=15), now=lambda: instant
    )
    fake_stripe.down = True
    await poll_fully(poller)
    assert len(fake_stripe.requests) == 1
    instant += timedelta(minutes=2)
    await poll_fully(poller)
    assert len(fake_stripe.requests) == 2
