"""The shop of the demo sells plans to the gateway as Lemon Squeezy does, for no money."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.demo.app import build
from gateway.demo.store import STORE_ID, variant_id
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.db.session import Database
from gateway.payments.lemon_squeezy.adapter import LemonSqueezy
from gateway.payments.price_checks import check
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.payments.payment_stack import PaymentStack, payment_stack
from tests.payments.selling.test_coupons import a_coupon, statuses
from tests.payments.test_stripe_lifecycle import current_subscription

CENTS = {"basic": 999, "pro": 2999}


@pytest.fixture
async def shop(payments_database: Database) -> AsyncIterator[tuple[PaymentStack, httpx.AsyncClient]]:
    """A gateway that sells at the shop, and a buyer's browser."""
    transport = httpx.ASGITransport(build())
    provider = LemonSqueezy(
        "key",
        api_base="http://shop.test/store",
        store_id=STORE_ID,
        is_test=True,
        webhook_secrets=(),
        transport=transport,
    )
    async with (
        payment_stack(payments_database, provider) as stack,
        httpx.AsyncClient(transport=transport) as browser,
    ):
        async with payments_database.transaction() as connection:
            for number, (name, cents) in enumerate(CENTS.items(), 1):
                plan = await plans.get(connection, name)
                assert plan is not None
                sold = {"lemon_squeezy_variant_id": variant_id(number, cents=cents)}
                await plans.change(connection, name, replace(plan.terms, provider_ids=sold))
        yield stack, browser
    await provider.close()


async def bought(stack: PaymentStack, browser: httpx.AsyncClient, plan: str) -> User:
    user = await stack.create_user()
    checkout = await stack.subscribe(user, plan)
    page = await browser.get(checkout.url or "")
    assert f"1 x {CENTS[plan] / 100:.2f} USD" in page.text
    assert user.email in page.text
    paid = await browser.post(checkout.url or "")
    assert (paid.status_code, paid.headers["location"]) == (303, f"https://app.test/paid?checkout={checkout.id}")
    async with await stack.client_for(user) as client:
        confirmed = await client.post(f"/me/checkout/{checkout.id}/confirm")
    assert confirmed.status_code == 200, confirmed.text
    return user


async def test_coupon_takes_something_off_at_the_shop(shop: tuple[PaymentStack, httpx.AsyncClient]) -> None:
    stack, browser = shop
    user, coupon = await stack.create_user(), await a_coupon(stack, percent_off=50)
    async with await stack.client_for(user) as client:
        begun = (await client.post(f"/subscriptions/pro?coupon={coupon.code}")).json()
        assert "29.99 USD a month, less 15.00 USD" in (await browser.get(begun["checkout_url"])).text
        await browser.post(begun["checkout_url"])
        await client.post(f"/me/checkout/{begun['checkout_id']}/confirm")
    (paid,) = await stack.payments(user)
    assert (str(paid.amount), paid.status, await statuses(stack, user)) == ("14.99", "completed", ["redeemed"])


async def ask(stack: PaymentStack, user: User, method: str, path: str, body: Any = None) -> Any:
    found = await current_subscription(stack, user)
    async with await stack.client_for(user) as client:
        answer = await client.request(method, f"/subscriptions/{found.id}{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_plan_is_bought_changed_and_cancelled_at_the_shop(shop: tuple[PaymentStack, httpx.AsyncClient]) -> None:
    stack, browser = shop
    user = await bought(stack, browser, "basic")
    state = await stack.billing_state(user)
    assert (state.status, state.plan_id, state.balance) == ("active", "basic", 100)
    assert (await ask(stack, user, "POST", "/change", {"plan_id": "pro"}))["plan_id"] == "pro"
    assert 990 <= await stack.balance(user) <= 1000
    amounts = sorted(row.amount for row in await stack.payments(user))
    assert amounts[0] == Decimal("9.99")
    assert Decimal("19.90") <= amounts[1] <= Decimal("20.00")
    assert (await ask(stack, user, "DELETE", ""))["cancel_at_period_end"]
    assert not (await ask(stack, user, "POST", "/undo-cancel"))["cancel_at_period_end"]


async def test_payment_at_the_shop_is_refunded_with_its_credits(shop: tuple[PaymentStack, httpx.AsyncClient]) -> None:
    stack, browser = shop
    user = await bought(stack, browser, "pro")
    (payment,) = await stack.payments(user)
    await stack.provider.refund(payment.provider_payment_id or "", amount=Decimal("10.00"), currency="USD", key="one")
    poller = ProviderPoller(stack.database, stack.provider, interval=timedelta(0))
    for _ in range(3):  # the kinds of objects
        await poller.run_once()
    await stack.process_all()
    assert (await stack.billing_state(user)).balance == 667
    found = await current_subscription(stack, user)
    await stack.provider.pause_payments(found.provider_subscription_id or "")
    await stack.provider.resume_payments(found.provider_subscription_id or "")


async def test_prices_of_the_shop_are_those_of_the_plans(shop: tuple[PaymentStack, httpx.AsyncClient]) -> None:
    stack, _ = shop
    async with stack.database.read() as connection:
        pro = await plans.get(connection, "pro")
    assert pro is not None
    assert await check([stack.provider], pro.offer) == []
