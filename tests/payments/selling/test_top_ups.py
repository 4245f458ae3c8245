"""Automatic top-ups over HTTP, against a Stripe that fails: nothing doubled, no ceiling passed, and failures told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from itertools import chain, repeat
from random import Random

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.ledger.accounts import erasure, users
from gateway.ledger.payments import top_ups
from gateway.payments.stripe.adapter import Stripe
from gateway.payments.stripe.sessions import CheckoutOptions
from gateway.workers.billing.top_ups import TopUpWorker
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PACK, PaymentStack, only
from tests.payments.selling.top_ups import TERMS, Topped
from tests.payments.stripe.fake.faults import KINDS
from tests.support.sampling import scaled, seeded_random


@pytest.fixture
async def ada(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> AsyncIterator[Topped]:
    """With a card, and nothing to spend."""
    stripe_stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined]
    user = await stripe_stack.create_user()
    worker = TopUpWorker(stripe_stack.database, stripe_stack.provider, packs=[PACK])  # type: ignore[arg-type]
    async with await stripe_stack.client_for(user) as client:
        topped = Topped(stripe_stack, fake_stripe, user, client, worker)
        assert (await topped.agree())["status"] == "awaiting_card"
        await topped.save_card()
        await topped.hear()
        yield topped


async def test_credits_that_run_low_are_topped_up_once_the_payment_is_settled(ada: Topped) -> None:
    shown = await ada.shown()
    assert (shown["status"], shown["card"], shown["price"]) == ("on", "visa 4242", "5.00")
    await ada.run(3)
    await ada.hear()
    assert await ada.stack.balance(ada.user) == 100
    assert len(await ada.charged()) == 1
    paid = only(await ada.stack.payments(ada.user), "credits")
    assert (str(paid.amount), paid.status, paid.credits_awarded) == ("5.00", "completed", 100)
    shown = await ada.shown()
    assert (shown["last"]["status"], shown["spent_today"], shown["spent_this_month"]) == ("completed", "5.00", "5.00")
    await ada.spend(50)
    await ada.run()
    assert len(await ada.charged()) == 1, "50 are not below 50"
    await ada.spend(1)
    await ada.run()
    assert (await ada.stack.balance(ada.user), len(await ada.charged())) == (149, 2)


async def test_ceilings_of_day_and_month_hold(ada: Topped) -> None:
    for _ in range(4):
        await ada.run(2)
        await ada.spend_all()
    assert len(await ada.charged()) == 2, "10.00 a day are two packs"
    await ada.agree(daily_limit="50.00", monthly_limit="15.00")
    for _ in range(3):
        await ada.run(2)
        await ada.spend_all()
    assert len(await ada.charged()) == 3, "15.00 a month are three"
    async with ada.stack.database.transaction() as connection:
        await connection.execute(text("UPDATE top_ups SET created_at = created_at - interval '32 days'"))
    await ada.run()
    assert len(await ada.charged()) == 4, "and another month is another one"


async def test_ceilings_count_what_was_paid_in_their_currency(ada: Topped) -> None:
    await ada.run(2)
    await ada.spend_all()
    async with ada.stack.database.transaction() as connection:  # a pack that was sold in yen, until today
        await connection.execute(text("UPDATE top_ups SET currency = 'JPY', price = 4500"))
    shown = await ada.shown()
    assert [Decimal(shown[each]) for each in ("spent_today", "spent_this_month")] == [0, 0]
    await ada.run(2)
    assert len(await ada.charged()) == 2
    assert (await ada.shown())["spent_today"] == "5.00"


@pytest.mark.parametrize(
    ("behaves", "reason"),
    [("declined", "Your card was declined."), ("3ds", "Your card was declined. It needs your approval.")],
)
async def test_failure_stops_it_and_is_told_once(ada: Topped, behaves: str, reason: str) -> None:
    ada.world.cards[await ada.customer_id()] = behaves
    await ada.run(3)
    await ada.hear()
    await ada.run(3)
    shown = await ada.shown()
    assert (shown["status"], shown["stopped_reason"], shown["last"]["status"]) == ("stopped", reason, "failed")
    assert await ada.told() == ["top_up.stopped"]
    assert (await ada.charged(), await ada.stack.balance(ada.user)) == ([], 0)
    assert len(ada.world.list_all("payment_intent")) == 1
    ada.world.cards.clear()
    await ada.save_card()
    await ada.hear()
    await ada.run(2)
    assert ((await ada.shown())["status"], len(await ada.charged())) == ("on", 1)


async def test_removed_card_stops_it_and_its_owner_is_told(ada: Topped) -> None:
    ada.world.saved.remove(ada.card)
    await ada.hear()
    shown = await ada.shown()
    assert (shown["status"], shown["card"], shown["stopped_reason"]) == ("stopped", None, "the card was removed")
    assert await ada.told() == ["top_up.card_removed"]
    await ada.run(2)
    assert not ada.world.list_all("payment_intent")


async def test_card_that_is_gone_before_anybody_says_so_stops_it(ada: Topped) -> None:
    ada.world.saved.remove(ada.card)
    await ada.run(2)
    assert ((await ada.shown())["status"], await ada.told()) == ("stopped", ["top_up.stopped"])
    await ada.hear()
    assert (await ada.charged(), (await ada.shown())["card"]) == ([], None)


async def test_deleted_customer_stops_it(ada: Topped) -> None:
    ada.world.delete_customer(await ada.customer_id())
    await ada.hear()
    assert ((await ada.shown())["status"], await ada.told()) == ("stopped", ["top_up.card_removed"])


async def test_turned_off_is_off_and_forgets_the_card(ada: Topped) -> None:
    events = ada.world.events[:]
    assert (await ada.client.delete("/me/top-up")).json()["status"] == "off"
    await ada.run(2)
    for event in events:  # a repeated message does not bring the card back
        ada.world.events.append({**event, "id": f"{event['id']}again"})
    await ada.hear()
    assert ((await ada.shown())["status"], (await ada.agree())["status"]) == ("off", "awaiting_card")
    await ada.run(2)
    assert (ada.world.list_all("payment_intent"), await ada.told()) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
async def test_stripe_that_fails_once_charges_once(ada: Topped, kind: str) -> None:
    for at in range(4):  # the request that fails: to charge, to look it up, to read it, and to read it again
        ada.world.faults.plan = chain(repeat(None, at), [kind])
        await ada.run()
        ada.world.faults.plan = iter(())
        await ada.run(2)
        for _ in ("without Stripe's messages", "and with them"):
            assert (len(await ada.charged()), await ada.stack.balance(ada.user)) == (1, 100)
            await ada.hear()
        await ada.spend(100)
        async with ada.stack.database.transaction() as connection:
            await connection.execute(text("UPDATE top_ups SET created_at = created_at - interval '40 days'"))
        for intent in ada.world.list_all("payment_intent"):
            intent["metadata"] = {}
    assert await ada.told() == []


async def test_turning_off_while_nobody_knows_what_happened_begins_no_payment(ada: Topped) -> None:
    ada.world.faults.plan = iter(["before"])
    await ada.run()
    await ada.client.delete("/me/top-up")
    await ada.run(3)
    assert (await ada.charged(), (await ada.shown())["last"]["status"]) == ([], "failed")
    assert await ada.told() == [], "the customer turned it off"


async def test_stripe_that_never_answers_is_given_up_on_and_told(ada: Topped) -> None:
    ada.world.faults.plan = repeat("lost")
    await ada.run(3)
    async with ada.stack.database.transaction() as connection:
        await connection.execute(text("UPDATE top_ups SET created_at = created_at - interval '21 hours'"))
    ada.world.faults.plan = iter(())
    await ada.run()
    shown = await ada.shown()
    assert (shown["status"], shown["last"]["status"], await ada.told()) == ("stopped", "failed", ["top_up.stopped"])
    assert await ada.charged() == []


async def test_several_workers_make_one_payment(ada: Topped) -> None:
    await asyncio.gather(*[ada.worker.run_once() for _ in range(4)])
    await ada.run()
    assert (len(await ada.charged()), await ada.stack.balance(ada.user)) == (1, 100)


async def test_pack_at_another_price_is_not_charged(ada: Topped) -> None:
    ada.worker = TopUpWorker(ada.stack.database, ada.stack.provider, packs=[replace(PACK, price=Decimal(6))])  # type: ignore[arg-type]
    await ada.run(2)
    assert (await ada.told(), ada.world.list_all("payment_intent")) == (["top_up.stopped"], [])
    assert "no longer sold at 5.00 USD" in (await ada.shown())["stopped_reason"]


async def test_suspended_account_is_not_charged(ada: Topped) -> None:
    async with ada.stack.database.transaction() as connection:
        await connection.execute(text("UPDATE users SET status = 'suspended' WHERE id = :id"), {"id": ada.user.id})
    await ada.run(2)
    assert not ada.world.list_all("payment_intent")


@pytest.mark.parametrize("deed", ["delete", "suspend"])
async def test_payment_under_way_is_not_made_once_the_account_is_deleted_or_suspended(ada: Topped, deed: str) -> None:
    ada.world.faults.plan = iter(["before"])
    await ada.run()
    async with ada.stack.database.transaction() as connection:
        if deed == "delete":
            await erasure.erase(connection, ada.user.id, now=now())
        else:
            await users.suspend(connection, ada.user.id)
    await ada.run(3)
    assert (await ada.charged(), ada.world.list_all("payment_intent")) == ([], [])


async def test_erasure_forgets_the_card(ada: Topped) -> None:
    await ada.run(3)
    await ada.hear()
    bought = await ada.client.post("/me/credits/checkout", json={"pack": PACK.id})
    assert bought.status_code == 201
    async with ada.stack.database.transaction() as connection:
        await erasure.erase(connection, ada.user.id, now=now())
        settings = await top_ups.get_settings(connection, ada.user.id)
    assert settings is not None
    assert (settings.status, settings.payment_method_id, settings.payment_method) == ("off", None, None)
    async with ada.stack.database.read() as connection:
        query = text(
            "SELECT c.url, t.payment_method_id FROM checkouts c LEFT JOIN top_ups t ON t.checkout_id = c.id"
            " WHERE c.user_id = :id ORDER BY c.created_at"
        )
        kept = (await connection.execute(query, {"id": ada.user.id})).all()
    assert [tuple(row) for row in kept] == [(None, ""), (None, None)]
    assert await ada.told() == []


async def test_limits_below_the_price_and_unknown_packs_are_refused(ada: Topped) -> None:
    for terms in ({"daily_limit": "4.99"}, {"monthly_limit": "1"}, {"pack": "none"}, {"threshold": 0}):
        answer = await ada.client.put("/me/top-up", json={**TERMS, **terms})
        assert (answer.status_code, next(iter(terms)) in answer.text) == (422, True), answer.text


async def test_providers_that_charge_no_saved_cards_say_so(
    lemon_squeezy_stack: PaymentStack,
) -> None:
    user = await lemon_squeezy_stack.create_user()
    async with await lemon_squeezy_stack.client_for(user) as client:
        answer = await client.put("/me/top-up", json=TERMS)
    assert (answer.status_code, "Lemon Squeezy charges no saved cards" in answer.text) == (501, True)
    taxed = Stripe(
        "sk_test_x", api_base="http://x", webhook_secrets=(), checkout_options=CheckoutOptions(automatic_tax=True)
    )
    assert not taxed.traits.charges_saved_cards, "Stripe computes no tax of such payments"
    await taxed.close()


@pytest.mark.parametrize("number", range(scaled(suite=2, full=60)))
async def test_random_lives_double_nothing_and_pass_no_ceiling(ada: Topped, number: int) -> None:
    """Spending, cards that fail and go, agreements, and a Stripe that fails at any request, in a random order."""
    random = seeded_random(f"top-ups {number}")
    spent = 0
    for _ in range(scaled(suite=12, full=60)):
        spent += await _act(ada, random)
        await _check(ada, spent)
    ada.world.faults.plan = iter(())
    for _ in range(3):
        await ada.run()
        await ada.hear()
    await _check(ada, spent)
    assert await ada.stack.balance(ada.user) == 100 * len(await ada.charged()) - spent, "each payment gave its credits"
    told, shown = await ada.told(), await ada.shown()
    assert shown["last"] is None or shown["last"]["status"] != "pending"
    assert shown["status"] != "stopped" or told, "whoever is stopped was told"


async def _act(ada: Topped, random: Random) -> int:
    """One of what customers, cards, Stripe and the worker do. Gives how many credits were spent."""
    ada.world.faults.plan = iter([random.choice([None, None, *KINDS]) for _ in range(random.randrange(4))])
    act = random.choice(["run", "run", "run", "spend", "spend", "hear", "card", "remove", "save", "agree", "off"])
    if act == "run":
        await ada.run(random.randrange(1, 3))
    elif act == "spend":
        amount = random.randrange(1, 1 + max(1, await ada.stack.balance(ada.user)))
        await ada.spend(amount)
        return amount
    elif act == "card":
        ada.world.cards[await ada.customer_id()] = random.choice(["good", "good", "declined", "3ds"])
    elif act == "remove" and ada.world.objects[ada.card]["customer"] is not None:
        ada.world.saved.remove(ada.card)
    elif act == "off":
        await ada.client.delete("/me/top-up")
    else:
        ada.world.faults.plan = iter(())
        if act == "save" and (await ada.shown())["status"] != "off":
            await ada.save_card()
        elif act == "agree":
            await ada.agree(daily_limit=random.choice(["5.00", "10.00", "20.00"]))
        await ada.hear()
    return 0


async def _check(ada: Topped, spent: int) -> None:
    charged = await ada.charged()
    references = [each["metadata"]["gateway_checkout"] for each in charged]
    assert len(set(references)) == len(references), "no top-up was charged twice"
    assert len(charged) * 5 <= 20, "no ceiling of a day was ever above that"
    balance = await ada.stack.balance(ada.user)
    assert balance <= 100 * len(charged) - spent, "nobody has credits that nothing paid for"
    granted = sum(row.credits_awarded for row in await ada.stack.payments(ada.user))
    assert granted == balance + spent
