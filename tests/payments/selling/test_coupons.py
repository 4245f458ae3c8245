"""Coupons at checkouts, over HTTP: what they take off, who may use them how often, and what providers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from gateway import paced_subjects
from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import coupons, plans
from gateway.ledger.catalogue.coupons import Coupon
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.payments import checkouts, redemptions
from gateway.ledger.reports import money
from gateway.ledger.reports.rows import month_of
from tests.payments.conftest import LEMON_SQUEEZY_SECRETS
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_lemon_squeezy import signed as signed_by_lemon_squeezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.stripe.test_checkout_options import EVERYTHING, with_options
from tests.payments.test_stripe_lifecycle import deliver_all


async def a_coupon(stack: PaymentStack, **fields: Any) -> Coupon:
    given = {} if fields.keys() & {"amount_off", "bonus_credits"} else {"percent_off": Decimal(20)}
    async with stack.database.transaction() as connection:
        return await coupons.create(connection, **{"code": f"C{uuid4().hex[:12]}".upper(), **given, **fields})


@asynccontextmanager
async def customer(stack: PaymentStack) -> AsyncIterator[tuple[User, httpx.AsyncClient]]:
    user = await stack.create_user()
    async with await stack.client_for(user) as client:
        yield user, client


async def statuses(stack: PaymentStack, user: User) -> list[str]:
    """Of the user's redemptions, the oldest first."""
    async with stack.database.read() as connection:
        page = await redemptions.list_redemptions(connection, user_id=user.id)
    return [each.status for each in reversed(page.data)]


async def session_of(stack: PaymentStack, checkout_id: str) -> str:
    async with stack.database.read() as connection:
        found = await checkouts.get(connection, UUID(checkout_id))
    assert found is not None
    return found.provider_checkout_id or ""


def refused(answer: httpx.Response) -> str:
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == "coupon"
    return str(error["message"])


@pytest.mark.parametrize(
    ("fields", "paid", "told"),
    [
        ({"percent_off": Decimal(20)}, "23.99", {"percent_off": "20.0", "duration": "once"}),
        ({"amount_off": Decimal(5), "currency": "USD"}, "24.99", {"amount_off": "500", "currency": "usd"}),
        ({"percent_off": Decimal(50), "periods": 3}, "14.99", {"duration": "repeating", "duration_in_months": "3"}),
    ],
)
async def test_coupon_is_passed_on_and_takes_off_what_it_says(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, fields: dict[str, Any], paid: str, told: dict[str, str]
) -> None:
    with_options(stripe_stack, EVERYTHING)  # Stripe takes no code of the buyer's beside a discount
    coupon = await a_coupon(stripe_stack, **fields)
    async with customer(stripe_stack) as (user, client):
        preview = await client.post("/me/coupons/preview", json={"code": coupon.code.lower(), "plan": "pro"})
        assert preview.json()["discounted_price"] == paid
        begun = await client.post("/subscriptions/pro", json={"coupon": coupon.code.lower()})
        assert begun.status_code == 201, begun.text
        (remote,) = fake_stripe.list_all("coupon")
        assert told.items() <= remote.items()
        assert await statuses(stripe_stack, user) == ["reserved"]
        async with stripe_stack.database.read() as connection:
            assert await redemptions.sum_discounts(connection, (coupon.id,)) == {coupon.id: {}}
        fake_stripe.pay_checkout(await session_of(stripe_stack, begun.json()["checkout_id"]))
        for _ in range(2):
            await deliver_all(stripe_stack, fake_stripe)
        row = only(await stripe_stack.payments(user), "subscription")
        assert (str(row.amount), row.credits_awarded) == (paid, 1000)
        async with stripe_stack.database.read() as connection:
            (revenue,) = await money.revenue(connection, month_of(now()))
            taken_off = await redemptions.sum_discounts(connection, (coupon.id,))
        assert str(revenue.net) == paid, "revenue is what was paid"
        assert taken_off == {coupon.id: {"USD": Decimal("29.99") - Decimal(paid)}}
        assert await statuses(stripe_stack, user) == ["redeemed"]
        listed = (await client.get("/me/coupons")).json()["data"]
    assert [(each["code"], each["status"]) for each in listed] == [(coupon.code, "redeemed")]


async def test_promotion_code_is_its_buyers_and_of_one_use(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    coupon = await a_coupon(stripe_stack)
    for _ in range(2):
        async with customer(stripe_stack) as (_, client):
            assert (await client.post(f"/subscriptions/pro?coupon={coupon.code}")).status_code == 201
    assert len(fake_stripe.list_all("coupon")) == 1
    codes = fake_stripe.list_all("promotion_code")
    assert len({each["code"] for each in codes}) == len({each["customer"] for each in codes}) == 2
    assert all(each["max_redemptions"] == 1 and each["code"].startswith(f"{coupon.code}-") for each in codes)
    assert all(int(session["expires_at"]) > now().timestamp() for session in fake_stripe.sessions)


async def test_pack_costs_less_or_gives_more(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    cheaper, more = await a_coupon(stripe_stack), await a_coupon(stripe_stack, bonus_credits=30)
    async with customer(stripe_stack) as (user, client):
        for coupon, paid, credits in ((cheaper, "4.00", 100), (more, "5.00", 130)):
            body = {"pack": "pack-100", "coupon": coupon.code}
            begun = await client.post("/me/credits/checkout", json=body)
            assert begun.status_code == 201, begun.text
            fake_stripe.pay_checkout(await session_of(stripe_stack, begun.json()["id"]))
            await deliver_all(stripe_stack, fake_stripe)
            row = (await stripe_stack.payments(user))[0]
            assert (str(row.amount), row.credits_awarded) == (paid, credits)
        assert await stripe_stack.balance(user) == 230
        fake_stripe.refund(row.provider_payment_id or "", 250)
        await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 165, "half of the bonus goes back with half of the money"
    assert len(fake_stripe.list_all("promotion_code")) == 1, "Stripe has nothing to do with credits that come on top"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"is_active": False}, "is no longer valid"),
        ({"expires_at": now() - timedelta(days=1)}, "expired on"),
        ({"plans": ["basic"]}, "is not for the plan pro"),
        ({"amount_off": Decimal(5), "currency": "EUR"}, "takes off EUR, and the plan pro is sold in USD"),
        ({"bonus_credits": 5}, "is for no plan"),
    ],
)
async def test_coupon_that_does_not_hold_is_refused_with_the_reason(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, fields: dict[str, Any], reason: str
) -> None:
    coupon = await a_coupon(stripe_stack, **fields)
    async with customer(stripe_stack) as (_, client):
        assert reason in refused(await client.post("/subscriptions/pro", json={"coupon": coupon.code}))
        assert reason in refused(await client.post("/me/coupons/preview", json={"code": coupon.code, "plan": "pro"}))
        assert "there is no coupon NOPE" in refused(await client.post("/subscriptions/pro?coupon=nope"))
        assert "is free" in refused(await client.post("/subscriptions/free", json={"coupon": coupon.code}))
        assert (await client.get("/subscriptions/me")).status_code == 404
    assert not fake_stripe.sessions


async def test_account_that_guesses_codes_is_slowed_down(
    stripe_stack: PaymentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_subjects, "monotonic_seconds", lambda: 1000.0)
    coupon = await a_coupon(stripe_stack)
    async with customer(stripe_stack) as (_, guesser), customer(stripe_stack) as (_, other):
        for number in range(60):
            answer = await guesser.post("/me/coupons/preview", json={"code": f"GUESS{number}", "plan": "pro"})
            assert answer.status_code == 422
        body = {"code": coupon.code, "plan": "pro"}
        slowed = await guesser.post("/me/coupons/preview", json=body)
        assert (slowed.status_code, slowed.headers["retry-after"]) == (429, "10"), "whether there is such a code or not"
        assert (await guesser.post(f"/subscriptions/pro?coupon={coupon.code}")).status_code == 429
        assert (await other.post("/me/coupons/preview", json=body)).status_code == 200


async def test_later_checkout_takes_the_coupon_from_an_earlier_one(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    coupon = await a_coupon(stripe_stack)
    body = {"pack": "pack-100", "coupon": coupon.code}
    async with customer(stripe_stack) as (user, client):
        first, second = [(await client.post("/me/credits/checkout", json=body)).json() for _ in range(2)]
        ended, open_one = [await session_of(stripe_stack, each["id"]) for each in (first, second)]
        assert fake_stripe.objects[ended]["status"] == "expired"
        assert await statuses(stripe_stack, user) == ["released", "reserved"]
        fake_stripe.pay_checkout(open_one)
        # The payment is made, and its event not here yet: the coupon is used all the same.
        late = await client.post("/me/credits/checkout", json=body)
        assert (late.status_code, "payment is on its way" in late.text) == (409, True)
        await deliver_all(stripe_stack, fake_stripe)
        assert "you have used it" in refused(await client.post("/me/credits/checkout", json=body))
    assert len(await stripe_stack.payments(user)) == 1


async def test_limit_holds_whoever_comes_at_once(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    """Eight customers begin at the same time, two may."""
    coupon = await a_coupon(stripe_stack, max_redemptions=2)
    body = {"pack": "pack-100", "coupon": coupon.code}
    clients = [await stripe_stack.client_for(await stripe_stack.create_user()) for _ in range(8)]
    answers = await asyncio.gather(*[each.post("/me/credits/checkout", json=body) for each in clients])
    assert sorted(each.status_code for each in answers) == [201] * 2 + [422] * 6
    assert "is used up" in refused(next(each for each in answers if each.status_code == 422))
    # One is never paid at, and another customer may.
    begun = next(each.json()["id"] for each in answers if each.status_code == 201)
    fake_stripe.promotions.expire_session(fake_stripe.objects[await session_of(stripe_stack, begun)])
    await deliver_all(stripe_stack, fake_stripe)
    async with customer(stripe_stack) as (_, client):
        assert (await client.post("/me/credits/checkout", json=body)).status_code == 201
    for each in clients:
        await each.aclose()


async def test_one_account_that_begins_twice_at_once_pays_less_once(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    coupon = await a_coupon(stripe_stack)
    body = {"pack": "pack-100", "coupon": coupon.code}
    async with customer(stripe_stack) as (_, client):
        answers = await asyncio.gather(*[client.post("/me/credits/checkout", json=body) for _ in range(4)])
        told = [each.json()["id"] for each in answers if each.status_code == 201]
        sessions = [await session_of(stripe_stack, each) for each in told]
    payable = [each for each in sessions if fake_stripe.objects[each]["status"] == "open"]
    assert len(payable) <= 1
    assert {each.status_code for each in answers} <= {201, 409, 422}


async def test_checkout_that_is_told_while_another_takes_its_coupon_is_ended(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    coupon = await a_coupon(stripe_stack)
    body = {"pack": "pack-100", "coupon": coupon.code}
    is_reserved, is_listed = asyncio.Event(), asyncio.Event()
    create, list_open = stripe_stack.provider.create_checkout, redemptions.list_open

    async def create_once_listed(*arguments: Any) -> Any:
        is_reserved.set()
        await asyncio.wait_for(is_listed.wait(), 60)
        return await create(*arguments)

    async def list_and_let_the_other_tell(*arguments: Any, **names: Any) -> Any:
        found = await list_open(*arguments, **names)
        if found:
            is_listed.set()
            await first
        return found

    monkeypatch.setattr(stripe_stack.provider, "create_checkout", create_once_listed)
    monkeypatch.setattr(redemptions, "list_open", list_and_let_the_other_tell)
    async with customer(stripe_stack) as (_, client):
        first = asyncio.create_task(client.post("/me/credits/checkout", json=body))
        await asyncio.wait_for(is_reserved.wait(), 60)
        answers = [await client.post("/me/credits/checkout", json=body), await first]
        sessions = [await session_of(stripe_stack, each.json()["id"]) for each in answers]
    assert [fake_stripe.objects[each]["status"] for each in sessions] == ["open", "expired"]


async def test_what_stripe_refuses_is_told_and_frees_the_coupon(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    coupon = await a_coupon(stripe_stack, max_redemptions=1)
    fake_stripe.promotions.refused = "Promotion codes are not for you."
    async with customer(stripe_stack) as (user, client):
        answer = await client.post("/me/credits/checkout", json={"pack": "pack-100", "coupon": coupon.code})
        assert answer.status_code in (409, 502), answer.text
        assert "refused" in answer.text
        assert await statuses(stripe_stack, user) == ["released"]
        fake_stripe.promotions.refused = None
        answer = await client.post("/me/credits/checkout", json={"pack": "pack-100", "coupon": coupon.code})
        assert answer.status_code == 201


async def test_coupon_for_periods_is_for_intervals_that_providers_count(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    terms = stripe_stack.plans["basic"].terms
    made, intervals = {}, (("weekly", "week"), ("yearly", "year"))
    for name, interval in intervals:
        ids = {"stripe_price_id": f"price_{uuid4().hex}"}
        fake_stripe.prices[ids["stripe_price_id"]] = 999
        each = replace(terms, name=uuid4().hex, billing_interval=interval, provider_ids=ids)  # type: ignore[arg-type] # one of them
        async with stripe_stack.database.transaction() as connection:
            made[name] = (await plans.create(connection, each)).id
    coupon = await a_coupon(stripe_stack, periods=2)
    async with customer(stripe_stack) as (_, client):
        assert "count no weeks" in refused(await client.post(f"/subscriptions/{made['weekly']}?coupon={coupon.code}"))
        assert (await client.post(f"/subscriptions/{made['yearly']}?coupon={coupon.code}")).status_code == 201
    assert fake_stripe.list_all("coupon")[0]["duration_in_months"] == "24"


async def test_lemon_squeezy_gets_a_discount_code_of_its_own(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    coupon = await a_coupon(lemon_squeezy_stack)
    async with customer(lemon_squeezy_stack) as (user, client):
        body = {"pack": "pack-100", "coupon": coupon.code}
        begun = await client.post("/me/credits/checkout", json=body)
        assert begun.status_code == 201, begun.text
        (discount,) = (each for (kind, _), each in fake_lemon_squeezy.found.items() if kind == "discounts")
        named = await session_of(lemon_squeezy_stack, begun.json()["id"])
        checkout = fake_lemon_squeezy.found["checkouts", named]
        assert checkout["attributes"]["checkout_data"]["discount_code"] == discount["attributes"]["code"]
        assert (discount["attributes"]["amount"], discount["attributes"]["max_redemptions"]) == (20, 1)
        again = await client.post("/me/credits/checkout", json=body)
        assert (again.status_code, "cannot end it" in again.text) == (409, True)
        fake_lemon_squeezy.discount = 100
        fake_lemon_squeezy.pay_checkout(named)
        for event in fake_lemon_squeezy.new_events():
            await lemon_squeezy_stack.deliver(*signed_by_lemon_squeezy(event, LEMON_SQUEEZY_SECRETS[0]))
        await lemon_squeezy_stack.process_all()
        assert await lemon_squeezy_stack.balance(user) == 100
        assert await statuses(lemon_squeezy_stack, user) == ["redeemed"]


@pytest.mark.parametrize(("succeeds", "status"), [(True, "redeemed"), (False, "released")])
async def test_coupon_of_a_debit_that_takes_days_is_redeemed_once_it_is_paid(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, succeeds: bool, status: str
) -> None:
    coupon = await a_coupon(stripe_stack)
    async with customer(stripe_stack) as (user, client):
        begun = await client.post(f"/subscriptions/pro?coupon={coupon.code}")
        named = await session_of(stripe_stack, begun.json()["checkout_id"])
        fake_stripe.complete_unpaid(named)
        await deliver_all(stripe_stack, fake_stripe)
        assert await statuses(stripe_stack, user) == ["reserved"]
        again = await client.post("/me/credits/checkout", json={"pack": "pack-100", "coupon": coupon.code})
        assert (again.status_code, "on its way" in again.text) == (409, True)
        fake_stripe.settle_debit(named, succeeds=succeeds)
        await deliver_all(stripe_stack, fake_stripe)
        assert await statuses(stripe_stack, user) == [status]
        again = await client.post("/me/credits/checkout", json={"pack": "pack-100", "coupon": coupon.code})
        assert again.status_code == (422 if succeeds else 201)


async def test_coupon_of_the_checkout_that_is_paid_is_redeemed_and_not_that_of_a_later_one(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    codes = [(await a_coupon(stripe_stack)).code for _ in range(2)]
    async with customer(stripe_stack) as (user, client):
        begun = [await client.post(f"/subscriptions/pro?coupon={code}") for code in codes]
        named = await session_of(stripe_stack, begun[0].json()["checkout_id"])
        fake_stripe.pay_checkout(named)
        await deliver_all(stripe_stack, fake_stripe)
        fake_stripe.renew(fake_stripe.objects[named]["subscription"])
        await deliver_all(stripe_stack, fake_stripe)
        assert await statuses(stripe_stack, user) == ["redeemed", "reserved"]
        shown = [await client.get(f"/me/checkout/{each.json()['checkout_id']}") for each in begun]
        assert [each.json()["status"] for each in shown] == ["completed", "open"]


async def test_lemon_squeezy_coupon_is_redeemed_at_the_checkout_that_is_paid(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    """A later event without the checkout's id, as one that is polled, changes nothing."""
    codes = [(await a_coupon(lemon_squeezy_stack)).code for _ in range(2)]
    async with customer(lemon_squeezy_stack) as (user, client):
        begun = [await client.post(f"/subscriptions/pro?coupon={code}") for code in codes]
    remote = fake_lemon_squeezy.pay_checkout(await session_of(lemon_squeezy_stack, begun[0].json()["checkout_id"]))
    for is_polled in (False, True):
        for event in fake_lemon_squeezy.new_events():
            event["meta"]["custom_data"] = {} if is_polled else event["meta"]["custom_data"]
            await lemon_squeezy_stack.deliver(*signed_by_lemon_squeezy(event, LEMON_SQUEEZY_SECRETS[0]))
        await lemon_squeezy_stack.process_all()
        assert await statuses(lemon_squeezy_stack, user) == ["redeemed", "reserved"]
        fake_lemon_squeezy.renew(remote)


async def test_bonus_comes_with_one_payment_of_a_checkout_that_is_paid_at_again(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    """A link of Lemon Squeezy takes any number of payments until it ends."""
    coupon = await a_coupon(lemon_squeezy_stack, bonus_credits=500, max_redemptions=1)
    async with customer(lemon_squeezy_stack) as (user, client):
        begun = await client.post("/me/credits/checkout", json={"pack": "pack-100", "coupon": coupon.code})
        named = await session_of(lemon_squeezy_stack, begun.json()["id"])
    for _ in range(3):
        fake_lemon_squeezy.pay_checkout(named)
    for event in fake_lemon_squeezy.new_events():
        await lemon_squeezy_stack.deliver(*signed_by_lemon_squeezy(event, LEMON_SQUEEZY_SECRETS[0]))
    await asyncio.gather(*[lemon_squeezy_stack.processor.run_once() for _ in range(3)])
    await lemon_squeezy_stack.process_all()
    assert await lemon_squeezy_stack.balance(user) == 600 + 2 * 100
    rows = await lemon_squeezy_stack.payments(user)
    assert sorted((row.credits_awarded, row.description) for row in rows) == [
        *[(100, "100 credits")] * 2,
        (600, "600 credits"),
    ]


async def test_part_of_a_percent_is_refused_by_the_name_of_the_provider(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    coupon = await a_coupon(lemon_squeezy_stack, percent_off=Decimal("12.5"))
    async with customer(lemon_squeezy_stack) as (user, client):
        answer = await client.post("/me/credits/checkout", json={"pack": "pack-100", "coupon": coupon.code})
        assert "Lemon Squeezy takes off whole percents only" in answer.text
        assert await statuses(lemon_squeezy_stack, user) == ["released"]
    assert not [each for kind, each in fake_lemon_squeezy.found if kind == "checkouts"]


async def test_preview_of_a_tiered_plan_has_its_price(stripe_stack: PaymentStack) -> None:
    coupon = await a_coupon(stripe_stack)
    tiers = (Tier(up_to=2, unit_price=Decimal(5)), Tier(up_to=None, unit_price=Decimal(4)))
    terms = PlanTerms(name=uuid4().hex, price=Decimal(0), pricing_model="tiered", tiers=tiers)
    async with stripe_stack.database.transaction() as connection:
        plan = await plans.create(connection, terms)
    async with customer(stripe_stack) as (_, client):
        wanted = {"code": coupon.code, "plan": plan.id, "quantity": 3}
        shown = (await client.post("/me/coupons/preview", json=wanted)).json()
    assert (shown["price"], shown["discount"], shown["discounted_price"]) == ("14.00", "2.80", "11.20")


async def test_later_checkout_takes_a_coupon_that_accounts_may_use_again(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    coupon = await a_coupon(stripe_stack, max_redemptions=1, once_per_account=False)
    body = {"pack": "pack-100", "coupon": coupon.code}
    async with customer(stripe_stack) as (user, client):
        begun = [await client.post("/me/credits/checkout", json=body) for _ in range(2)]
        assert [each.status_code for each in begun] == [201, 201], begun[1].text
        ended = await session_of(stripe_stack, begun[0].json()["id"])
        assert fake_stripe.objects[ended]["status"] == "expired"
        assert await statuses(stripe_stack, user) == ["released", "reserved"]


async def test_preview_refuses_seats_of_a_plan_without_seats(stripe_stack: PaymentStack) -> None:
    coupon = await a_coupon(stripe_stack)
    async with customer(stripe_stack) as (_, client):
        wanted = {"code": coupon.code, "plan": "pro", "quantity": 3}
        answer = await client.post("/me/coupons/preview", json=wanted)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "quantity"), answer.text
