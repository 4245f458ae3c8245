"""Against localstripe, an independent model of Stripe with objects of older API versions, over HTTP.

It has no Checkout, disputes or proration; `fake_stripe.py` has them.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.api.checkout import ensure_customer
from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.db.session import Database
from gateway.ledger.payments import checkouts
from gateway.ledger.subscriptions import lifecycle
from gateway.payments.stripe.adapter import Stripe
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.payment_stack import PaymentStack, only, payment_stack
from tests.payments.test_provider_poller import poll_fully
from tests.support.polling import eventually

# On loopback only, and without the file that it keeps its fake_stripe in.
SERVE = """
import sys
from aiohttp import web
from localstripe.resources import Store
Store.dump_to_disk = lambda self: None
from localstripe.server import app
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
GOOD_CARD, REFUSED_CARD = "4242424242424242", "4000000000000341"


@dataclass(frozen=True)
class LocalStripe:
    """What a person does at Stripe, by its API."""

    http: httpx.AsyncClient

    async def post(self, path: str, **form: Any) -> Any:
        answer = await self.http.post(f"/v1{path}", data=form)
        assert answer.status_code in (200, 402), answer.text
        return answer.json()

    async def use_card(self, customer_id: str, number: str) -> None:
        card = {"card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2099", "card[cvc]": "123"}
        method = await self.post("/payment_methods", type="card", **card)
        await self.post(f"/payment_methods/{method['id']}/attach", customer=customer_id)
        await self.post(f"/customers/{customer_id}", **{"invoice_settings[default_payment_method]": method["id"]})


@pytest.fixture
async def localstripe() -> AsyncIterator[LocalStripe]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(port), stderr=asyncio.subprocess.DEVNULL
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", auth=("sk_test_x", "")) as http:
        await eventually(lambda: listens(port))
        found = LocalStripe(http)
        for plan, amount in (("price_basic", 999), ("price_pro", 2999)):
            await found.post(
                "/plans", id=plan, amount=amount, currency="usd", interval="month", **{"product[name]": plan}
            )
        yield found
    process.terminate()
    await process.wait()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def localstripe_stack(payments_database: Database, localstripe: LocalStripe) -> AsyncIterator[PaymentStack]:
    provider = Stripe("sk_test_x", api_base=str(localstripe.http.base_url), webhook_secrets=STRIPE_SECRETS)
    async with payment_stack(payments_database, provider) as stack:
        yield stack
    await provider.close()


async def test_localstripe_lifecycle_is_followed_step_by_step(
    localstripe_stack: PaymentStack, localstripe: LocalStripe
) -> None:
    user = await localstripe_stack.create_user()
    remote = await subscribe(localstripe_stack, localstripe, user, card=GOOD_CARD)
    await poll_and_process(localstripe_stack)
    found = await localstripe_stack.subscription(user)
    assert found is not None
    assert (found.status, found.plan_id) == ("active", "pro")
    assert await localstripe_stack.balance(user) == 1000
    payment = only(await localstripe_stack.payments(user), "subscription")
    assert (str(payment.amount), payment.status) == ("29.99", "completed")

    client = await localstripe_stack.client_for(user)
    ending = await client.delete(f"/subscriptions/{found.id}")
    assert ending.json()["cancel_at_period_end"] is True, ending.text
    going_on = await client.post(f"/subscriptions/{found.id}/undo-cancel")
    assert going_on.json()["cancel_at_period_end"] is False, going_on.text

    await localstripe_stack.provider.refund(
        payment.provider_payment_id or "", amount=Decimal("29.99"), currency="USD", key="a"
    )
    ended = await client.delete(f"/subscriptions/{found.id}?now=true")
    assert ended.json()["status"] == "canceled", ended.text
    await poll_and_process(localstripe_stack)
    assert only(await localstripe_stack.payments(user), "subscription").status == "refunded"
    assert only(await localstripe_stack.payments(user), "refund").amount == Decimal("29.99")
    assert await localstripe_stack.balance(user) == 0
    assert remote["id"] == found.provider_subscription_id


async def test_declined_card_gives_nothing_until_another_card_pays(
    localstripe_stack: PaymentStack, localstripe: LocalStripe
) -> None:
    user = await localstripe_stack.create_user()
    remote = await subscribe(localstripe_stack, localstripe, user, card=REFUSED_CARD)
    await poll_and_process(localstripe_stack)
    found = await localstripe_stack.subscription(user)
    assert found is not None
    assert found.status == "incomplete"
    assert await localstripe_stack.balance(user) == 0
    assert only(await localstripe_stack.payments(user), "subscription").status == "failed"

    await localstripe.use_card(remote["customer"], GOOD_CARD)
    await localstripe.post(f"/invoices/{remote['latest_invoice']}/pay")
    await poll_and_process(localstripe_stack)
    assert await localstripe_stack.balance(user) == 1000
    assert only(await localstripe_stack.payments(user), "subscription").status == "completed"


async def subscribe(localstripe_stack: PaymentStack, localstripe: LocalStripe, user: User, *, card: str) -> Any:
    """In place of Checkout, which localstripe does not have."""
    customer_id = await ensure_customer(localstripe_stack.provider, localstripe_stack.database, user)
    await localstripe.use_card(customer_id, card)
    async with localstripe_stack.database.transaction() as connection:
        waiting = await lifecycle.await_payment(connection, user.id, plan_id="pro", provider="stripe", now=now())
        checkout = await checkouts.create(
            connection,
            user.id,
            provider="stripe",
            subscription_id=waiting.id,
            price_id="price_pro",
            price=Decimal("29.99"),
        )
    reference = {"metadata[gateway_checkout]": str(checkout.id)}
    return await localstripe.post(
        "/subscriptions", customer=customer_id, **{"items[0][plan]": "price_pro"}, **reference
    )


async def poll_and_process(localstripe_stack: PaymentStack) -> None:
    """Polls, and processes again what was processed before, since localstripe has no events of refunds."""
    await poll_fully(ProviderPoller(localstripe_stack.database, localstripe_stack.provider, interval=timedelta()))
    await localstripe_stack.process_all()
    assert not await localstripe_stack.event_reasons("failed")
