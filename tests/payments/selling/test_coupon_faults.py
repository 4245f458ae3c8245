"""Coupons at a Stripe that fails at any request: no account uses one twice, and no limit is passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from random import Random

import httpx
import pytest

from gateway.api.checkout import ensure_customer
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue.coupons import Coupon
from gateway.ledger.payments import redemptions
from gateway.payments.provider import CheckoutRequest, CreatedCheckout
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.selling.test_coupons import a_coupon
from tests.payments.stripe.fake.faults import KINDS
from tests.payments.test_stripe_lifecycle import deliver_all
from tests.support.sampling import scaled, seeded_random

LIMIT = 2


@dataclass
class Buyer:
    """`told` are the sessions that they were sent to."""

    user: User
    client: httpx.AsyncClient
    told: list[str] = field(default_factory=list)


@dataclass
class Shop:
    stack: PaymentStack
    world: FakeStripe
    coupon: Coupon
    buyers: list[Buyer]
    paid: list[tuple[Buyer, str]] = field(default_factory=list)

    async def begin(self, buyer: Buyer) -> int:
        body = {"pack": "pack-100", "coupon": self.coupon.code}
        answer = await buyer.client.post("/me/credits/checkout", json=body)
        if answer.status_code == 201:
            buyer.told.append(answer.json()["url"].rpartition("/")[2])
        return answer.status_code

    def payable(self, buyer: Buyer) -> list[str]:
        return [each for each in buyer.told if self.world.objects[each]["status"] == "open"]

    def pay(self, buyer: Buyer) -> None:
        for session in self.payable(buyer)[:1]:
            self.world.pay_checkout(session)
            self.paid.append((buyer, session))

    async def redeemed(self) -> int:
        async with self.stack.database.read() as connection:
            return (await redemptions.count_redeemed(connection, (self.coupon.id,)))[self.coupon.id]

    def check(self) -> None:
        payable = [session for buyer in self.buyers for session in self.payable(buyer)]
        assert len(payable) + len(self.paid) <= LIMIT, "no more can be paid at than the coupon allows"
        for buyer in self.buyers:
            used = [session for who, session in self.paid if who is buyer]
            assert len(used) + len(self.payable(buyer)) <= 1, "an account uses it once"


@pytest.fixture
async def shop(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> AsyncIterator[Shop]:
    """Three customers, and a coupon that two may use, each once."""
    stripe_stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined]
    coupon = await a_coupon(stripe_stack, max_redemptions=LIMIT)
    users = [await stripe_stack.create_user() for _ in range(3)]
    buyers = [Buyer(user, await stripe_stack.client_for(user)) for user in users]
    yield Shop(stripe_stack, fake_stripe, coupon, buyers)
    for buyer in buyers:
        await buyer.client.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_checkout_that_fails_anywhere_is_begun_again(shop: Shop, kind: str) -> None:
    """The request that fails: for the coupon, its promotion code, the session, and to end the one before."""
    buyer = shop.buyers[0]
    await ensure_customer(shop.stack.provider, shop.stack.database, buyer.user)
    for at in range(5):
        shop.world.faults.plan = chain(repeat(None, at), [kind])
        assert await shop.begin(buyer) in (201, 503)
        shop.check()
    shop.world.faults.plan = iter(())
    assert await shop.begin(buyer) == 201
    shop.check()
    shop.pay(buyer)
    await deliver_all(shop.stack, shop.world)
    assert (await shop.redeemed(), await shop.stack.balance(buyer.user)) == (1, 100)
    (payment,) = await shop.stack.payments(buyer.user)
    assert str(payment.amount) == "4.00"
    assert await shop.begin(buyer) == 422


async def test_checkout_that_has_lost_its_coupon_meanwhile_is_not_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buyer begins another one while Stripe makes the first."""
    buyer, create = shop.buyers[0], shop.stack.provider.create_checkout
    is_made, is_let_go = asyncio.Event(), asyncio.Event()

    async def create_slowly(request: CheckoutRequest) -> CreatedCheckout:
        created = await create(request)
        is_made.set()
        await is_let_go.wait()
        return created

    monkeypatch.setattr(shop.stack.provider, "create_checkout", create_slowly)
    first = asyncio.create_task(shop.begin(buyer))
    await is_made.wait()
    monkeypatch.setattr(shop.stack.provider, "create_checkout", create)
    assert await shop.begin(buyer) == 201
    is_let_go.set()
    assert await first == 409
    shop.check()


@pytest.mark.parametrize("number", range(scaled(suite=2, full=60)))
async def test_random_buyers_pass_no_limit(shop: Shop, number: int) -> None:
    random = seeded_random(f"coupons {number}")
    for _ in range(scaled(suite=15, full=60)):
        await _act(shop, random)
        shop.check()
    shop.world.faults.plan = iter(())
    await deliver_all(shop.stack, shop.world)
    assert await shop.redeemed() == len(shop.paid)
    for buyer in shop.buyers:
        used = [session for who, session in shop.paid if who is buyer]
        assert await shop.stack.balance(buyer.user) == 100 * len(used)


async def _act(shop: Shop, random: Random) -> None:
    shop.world.faults.plan = iter([random.choice([None, None, None, *KINDS]) for _ in range(random.randrange(6))])
    buyer, act = random.choice(shop.buyers), random.choice(["begin", "begin", "begin", "pay", "leave", "hear"])
    if act == "begin":
        assert await shop.begin(buyer) in (201, 409, 422, 503)
    elif act == "pay":
        shop.pay(buyer)
    elif act == "leave":
        for session in shop.payable(buyer):
            shop.world.promotions.expire_session(shop.world.objects[session])
    else:
        shop.world.faults.plan = iter(())
        await deliver_all(shop.stack, shop.world)
