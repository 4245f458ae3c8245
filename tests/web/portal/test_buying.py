"""Plans and credits are bought at a provider's page, which a link leads to, and changed as the API changes them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.api.checkout import CheckoutService
from gateway.clock import now
from gateway.ledger.catalogue import coupons, plans
from gateway.ledger.catalogue.plans import PlanTerms
from tests.payments.conftest import stripe_provider
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PACK
from tests.web.portal.visitors import PortalStack, Visitor, build_stack


@pytest.fixture(scope="module")
async def stripe(stack: PortalStack) -> FakeStripe:
    """With two plans that it sells."""
    basic, pro = f"price_{uuid4().hex}", f"price_{uuid4().hex}"
    async with stack.account.database.transaction() as connection:
        for name, price_id, price in (("Bought basic", basic, "9.99"), ("Bought pro", pro, "29.99")):
            ids = {"stripe_price_id": price_id}
            terms = PlanTerms(name=name, price=Decimal(price), credits_per_period=100, provider_ids=ids)
            await plans.create(connection, terms, plan_id=name.lower().replace(" ", "-"))
    return FakeStripe({basic: 999, pro: 2999, "price_pack": 500})


@pytest.fixture
async def buyer(stack: PortalStack, stripe: FakeStripe) -> AsyncIterator[Visitor]:
    provider = stripe_provider(stripe)
    service = CheckoutService(
        providers={"stripe": provider},
        default="stripe",
        packs=(PACK,),
        success_url="https://gateway.test/portal/paid",
    )
    async with httpx.AsyncClient() as client:
        selling = build_stack(stack.account, client, checkout_service=service)
        yield await selling.customer(email_verified_at=now())
    await provider.close()


async def pay(buyer: Visitor, stripe: FakeStripe, page: httpx.Response) -> None:
    """Follows the link, pays there and comes back."""
    link = re.search(r'href="([^"]+)" rel="noopener noreferrer" data-follow', page.text)
    assert link is not None
    session = stripe.list_all("checkout.session")[-1]
    assert link[1] == session["url"]
    back = stripe.sessions[-1]["success_url"].removeprefix("https://gateway.test/portal")
    assert "Not paid yet" in await buyer.get(back)
    stripe.pay_checkout(session["id"])
    assert "Your payment has arrived" in await buyer.get(back)


async def test_a_plan_is_bought_changed_and_kept(buyer: Visitor, stripe: FakeStripe) -> None:
    offered = re.findall(r'name="plan_id" value="([^"]+)"', await buyer.get("/plan"))
    basic = next(each for each in offered if "basic" in each)
    pro = next(each for each in offered if "pro" in each)
    await pay(buyer, stripe, await buyer.submit("/plan", "/plan/subscribe", status=200, plan_id=basic))
    assert f"<dd>{basic}" in await buyer.get("/plan")

    change = f"/plan/change?plan={pro}"
    later = await buyer.submit(change, "/plan/change", plan_id=pro, when="period_end")
    assert f"The plan {pro} begins with the next period." in await buyer.follow(later)
    kept = await buyer.submit("/plan", "/plan/undo-change")
    assert "You keep your plan." in await buyer.follow(kept)
    refused = await buyer.submit(change, "/plan/change", status=422, plan_id=pro, when="period_end", quantity="some")
    assert 'value="period_end" checked' in refused.text, "the form stays as it was sent"
    assert f'name="plan_id" value="{pro}"' in refused.text

    changed = await buyer.submit(change, "/plan/change", plan_id=pro, when="now")
    assert f"You are on the plan {pro}." in await buyer.follow(changed)
    await buyer.submit("/plan/end", when="period_end")
    assert "Ends with the period" in await buyer.get("/plan")
    await buyer.submit("/plan", "/plan/undo-end")
    link = await buyer.submit("/plan", "/plan/provider", status=200)
    assert "your cards and details" in link.text
    assert "9.99 USD" in await buyer.get("/billing")
    await buyer.get("/plan/change?plan=none", status=404)


async def test_a_pack_is_bought(buyer: Visitor, stripe: FakeStripe) -> None:
    await pay(buyer, stripe, await buyer.submit("/plan", "/plan/buy", status=200, pack=PACK.id))
    assert ",100," in await buyer.get("/credits.csv")
    await buyer.submit("/plan", "/plan/buy", status=422, pack="none")


async def test_a_top_up_is_agreed_to_and_turned_off(buyer: Visitor, stripe: FakeStripe) -> None:
    terms: dict[str, Any] = {"pack": PACK.id, "threshold": "50", "daily_limit": "20", "monthly_limit": "100"}
    wrong = await buyer.submit("/top-up", status=422, **terms | {"daily_limit": "1"})
    assert "Is less than the pack costs" in wrong.text
    page = await buyer.submit("/top-up", status=200, **terms)
    session = stripe.list_all("checkout.session")[-1]
    assert session["url"] in page.text
    assert "Awaiting card" in await buyer.get("/top-up")
    stripe.saved.save(session["id"])
    back = await buyer.get("/top-up")
    assert "visa 4242" in back
    assert "0.00 USD of 20.00 USD" in back
    assert "Save another card" in back
    assert "It is on." in await buyer.follow(await buyer.submit("/top-up", **terms))
    assert "It is off" in await buyer.follow(await buyer.submit("/top-up", "/top-up/off"))


async def test_a_coupon_of_the_address_is_shown_and_used(
    buyer: Visitor, stripe: FakeStripe, stack: PortalStack
) -> None:
    async with stack.account.database.transaction() as connection:
        code = f"P{uuid4().hex[:10]}".upper()
        await coupons.create(connection, code=code, percent_off=Decimal(40), packs=[PACK.id], plans=[])
    page = await buyer.get("/plan", coupon=code.lower())
    assert f"The coupon {code} is used" in page
    assert re.search(r"<del[^>]*>5.00 USD</del> <ins>3.00 USD</ins>", page)
    assert page.count(f'name="coupon" value="{code}"') == 1, "of the pack alone"
    await pay(
        buyer, stripe, await buyer.submit(f"/plan?coupon={code}", "/plan/buy", status=200, pack=PACK.id, coupon=code)
    )
    assert stripe.list_all("payment_intent")[-1]["amount"] == 300
    assert code in await buyer.get("/billing")
    again = await buyer.submit("/plan", "/plan/buy", status=422, pack=PACK.id, coupon=code)
    assert "you have used it" in again.text
    assert "There is no coupon NOPE." in await buyer.get("/plan", coupon="nope")


async def test_coupon_that_nobody_made_counts_once_for_a_look_at_all_that_is_sold(
    buyer: Visitor, stack: PortalStack
) -> None:
    async with stack.account.database.transaction() as connection:
        code = f"P{uuid4().hex[:10]}".upper()
        await coupons.create(connection, code=code, percent_off=Decimal(40))
    for number in range(59):
        assert "There is no coupon" in await buyer.get("/plan", coupon=f"TYPO{number}")
    assert f"The coupon {code} is used" in await buyer.get("/plan", coupon=code)
    await buyer.get("/plan", coupon="TYPO")
    slowed = await buyer.get("/plan", coupon=code)
    assert "It is for nothing that is sold here." not in slowed
    assert "Too many" in slowed
