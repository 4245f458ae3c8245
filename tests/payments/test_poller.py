"""Webhooks lost for a day: asking the provider ends with no difference."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.payments.fake_stripe import FakeStripe
from tests.payments.market import Market
from tests.payments.test_stripe_life import hear_all


async def test_a_day_of_lost_webhooks_ends_with_no_difference(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    instant = now()
    poller = ProviderPoller(market.database, market.provider, interval=timedelta(minutes=15), now=lambda: instant)
    await walk(poller)

    users = [await market.a_user() for _ in range(3)]
    for user in users:
        checkout = await market.subscribe(user)
        world.complete(checkout.provider_checkout_id or "")
    first, second, third = (each["id"] for each in world.objects.values() if each["object"] == "subscription")
    world.renew(first)
    world.renew(second, succeeds=False)
    world.end(third)
    pack = await market.buy_pack(users[0])
    world.complete(pack.provider_checkout_id or "")
    assert [await market.balance(user) for user in users] == [0, 0, 0]

    instant += timedelta(days=1)
    await walk(poller)
    await market.work_off()
    polled = [await market.standing(user) for user in users]
    assert [each.status for each in polled] == ["active", "past_due", "canceled"]
    assert polled[0].balance >= 1100

    await hear_all(market, world)  # the webhooks after all: they say nothing new
    assert [await market.standing(user) for user in users] == polled
    assert not await market.events("failed")


async def test_a_page_that_is_gone_begins_the_walk_again(
    stripe_market: Market, stripe_world: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, world = stripe_market, stripe_world
    monkeypatch.setattr("gateway.payments.stripe.adapter.PAGE", 2)
    world.now -= 3600  # long before the walk
    world.complete((await market.subscribe(await market.a_user())).provider_checkout_id or "")
    instant = now()
    poller = ProviderPoller(market.database, market.provider, interval=timedelta(minutes=15), now=lambda: instant)
    await poller.run_once()
    forgotten = world.events.pop(-2)  # the newest come first: the page ended with it
    await walk(poller)
    assert len(await inbox(market)) == 2
    instant += timedelta(minutes=2)
    await walk(poller)
    assert await inbox(market) == {each["id"] for each in [*world.events, forgotten]}
    asked = len(world.requests)
    instant += timedelta(minutes=2)
    await walk(poller)
    assert len(world.requests) == asked  # it rests between walks again


async def test_what_makes_no_sense_is_skipped(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    world.complete((await market.subscribe(await market.a_user())).provider_checkout_id or "")
    sound = {each["id"] for each in world.events}
    world.events.insert(1, {"id": "evt_odd", "type": "invoice.paid", "created": world.now, "data": None})
    await walk(ProviderPoller(market.database, market.provider, interval=timedelta(minutes=15)))
    assert await inbox(market) == sound


async def test_an_answer_that_makes_no_sense_at_all_is_not_asked_for_at_once_again(
    stripe_market: Market, stripe_world: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe_world, "_list", lambda *_: {"object": "list", "data": None, "has_more": False})
    poller = ProviderPoller(stripe_market.database, stripe_market.provider, interval=timedelta(minutes=15))
    with pytest.raises(TypeError):
        await poller.run_once()
    await walk(poller)
    assert len(stripe_world.requests) == 1


async def inbox(market: Market) -> set[str]:
    async with market.database.read() as connection:
        return set(await connection.scalars(text("SELECT provider_event_id FROM webhook_events")))


async def walk(poller: ProviderPoller) -> None:
    """One whole walk, page by page."""
    for _ in range(20):
        await poller.run_once()


def test_a_walk_begins_before_the_last_one_did() -> None:
    instant = datetime.fromisoformat("2026-03-15T12:00:00+00:00")
    nobody: Any = None
    poller = ProviderPoller(nobody, _Named(), interval=timedelta(hours=1), now=lambda: instant)  # type: ignore[arg-type] # only its name is asked
    at = poller._start({"began": "2026-03-15T11:00:00+00:00"})
    assert at == {"since": "2026-03-15T10:50:00+00:00", "began": instant.isoformat(), "page": None}


class _Named:
    name = "stripe"


async def test_a_provider_that_is_down_is_left_alone_for_a_while(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    instant = now()
    stripe_market.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    poller = ProviderPoller(
        stripe_market.database, stripe_market.provider, interval=timedelta(minutes=15), now=lambda: instant
    )
    stripe_world.down = True
    await walk(poller)
    assert len(stripe_world.requests) == 1
    instant += timedelta(minutes=2)
    await walk(poller)
    assert len(stripe_world.requests) == 2
