"""Polling ends in the state that the lost webhooks would have brought."""

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


async def test_polling_makes_up_for_a_day_of_lost_webhooks(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    instant = now()
    poller = ProviderPoller(
        stripe_stack.database, stripe_stack.provider, interval=timedelta(minutes=15), now=lambda: instant
    )
    await poll_fully(poller)

    users = [await stripe_stack.create_user() for _ in range(3)]
    for user in users:
        checkout = await stripe_stack.subscribe(user)
        fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    first, second, third = (each["id"] for each in fake_stripe.objects.values() if each["object"] == "subscription")
    fake_stripe.renew(first)
    fake_stripe.renew(second, succeeds=False)
    fake_stripe.end(third)
    pack = await stripe_stack.buy_pack(users[0])
    fake_stripe.pay_checkout(pack.provider_checkout_id or "")
    assert [await stripe_stack.balance(user) for user in users] == [0, 0, 0]

    instant += timedelta(days=1)
    await poll_fully(poller)
    await stripe_stack.process_all()
    polled = [await stripe_stack.billing_state(user) for user in users]
    assert [each.status for each in polled] == ["active", "past_due", "canceled"]
    assert polled[0].balance >= 1100

    await deliver_all(stripe_stack, fake_stripe)  # the webhooks after all, without effect
    assert [await stripe_stack.billing_state(user) for user in users] == polled
    assert not await stripe_stack.event_reasons("failed")


async def test_polling_starts_again_after_its_page_is_gone(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.payments.stripe.adapter.PAGE", 2)
    fake_stripe.now -= 3600  # long before the poll
    fake_stripe.pay_checkout(
        (await stripe_stack.subscribe(await stripe_stack.create_user())).provider_checkout_id or ""
    )
    instant = now()
    poller = ProviderPoller(
        stripe_stack.database, stripe_stack.provider, interval=timedelta(minutes=15), now=lambda: instant
    )
    await poller.run_once()
    forgotten = fake_stripe.events.pop(-2)  # the newest come first: the page ended with it
    await poll_fully(poller)
    assert len(await stored_event_ids(stripe_stack)) == 2
    instant += timedelta(minutes=2)
    await poll_fully(poller)
    assert await stored_event_ids(stripe_stack) == {each["id"] for each in [*fake_stripe.events, forgotten]}
    asked = len(fake_stripe.requests)
    instant += timedelta(minutes=2)
    await poll_fully(poller)
    assert len(fake_stripe.requests) == asked  # it pauses between polls again


async def test_polling_skips_malformed_events(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    fake_stripe.pay_checkout(
        (await stripe_stack.subscribe(await stripe_stack.create_user())).provider_checkout_id or ""
    )
    sound = {each["id"] for each in fake_stripe.events}
    fake_stripe.events.insert(1, {"id": "evt_odd", "type": "invoice.paid", "created": fake_stripe.now, "data": None})
    await poll_fully(ProviderPoller(stripe_stack.database, stripe_stack.provider, interval=timedelta(minutes=15)))
    assert await stored_event_ids(stripe_stack) == sound


async def test_polling_pauses_after_a_malformed_response(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_stripe, "_list", lambda *_: {"object": "list", "data": None, "has_more": False})
    poller = ProviderPoller(stripe_stack.database, stripe_stack.provider, interval=timedelta(minutes=15))
    with pytest.raises(TypeError):
        await poller.run_once()
    await poll_fully(poller)
    assert len(fake_stripe.requests) == 1


async def stored_event_ids(stack: PaymentStack) -> set[str]:
    async with stack.database.read() as connection:
        return set(await connection.scalars(text("SELECT provider_event_id FROM webhook_events")))


async def poll_fully(poller: ProviderPoller) -> None:
    """Polls page by page until nothing is due."""
    for _ in range(20):
        await poller.run_once()


def test_polling_overlaps_with_the_previous_poll() -> None:
    instant = datetime.fromisoformat("2026-03-15T12:00:00+00:00")
    nobody: Any = None
    poller = ProviderPoller(nobody, _Named(), interval=timedelta(hours=1), now=lambda: instant)  # type: ignore[arg-type] # only its name is asked
    at = poller._start_after({"began": "2026-03-15T11:00:00+00:00"})
    assert at == {"since": "2026-03-15T10:50:00+00:00", "began": instant.isoformat(), "page": None}


class _Named:
    name = "stripe"


async def test_polling_pauses_while_the_provider_is_down(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
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
