"""Customers see the plans on sale, subscribe to free ones, and cancel their own subscriptions."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from gateway.clock import now
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.credits import grants
from gateway.ledger.subscriptions import lifecycle
from gateway.workers.outbox import OutboxPublisher
from tests.api.account.conftest import AccountApi, Customer


async def a_plan(account_api: AccountApi, **terms: Any) -> StoredPlan:
    given = {"name": uuid4().hex, "price": Decimal(0), "credits_per_period": 10, **terms}
    async with account_api.database.transaction() as connection:
        made = await plans.create(connection, PlanTerms(**given))
    await OutboxPublisher(account_api.database, account_api.meter).publish_all()  # `/plans` is made again
    return made


@pytest.fixture
async def free(account_api: AccountApi) -> StoredPlan:
    return await a_plan(account_api)


@pytest.fixture
async def ada(account_api: AccountApi) -> Customer:
    return await account_api.customer()


async def balance(account_api: AccountApi, customer: Customer) -> int:
    async with account_api.database.read() as connection:
        found = await grants.get_balance(connection, customer.id)
    assert found is not None
    return found.current_credits


async def test_plans_on_sale_are_public_without_internal_fields(account_api: AccountApi, free: StoredPlan) -> None:
    gone = await a_plan(account_api, is_active=False, provider_ids={"stripe_price_id": f"price_{uuid4().hex}"})
    shown = {plan["id"]: plan for plan in (await account_api.client.get("/plans")).json()["data"]}
    assert gone.id not in shown
    assert shown[free.id].items() >= {"price": "0", "credits_per_period": 10, "features": {}}.items()
    assert shown[free.id]["credits_shown_as"] == {"currency": "USD", "amount": "0.01"}
    assert not {"stripe_price_id", "is_active", "sort_order", "version", "product_id"} & shown[free.id].keys()


async def test_free_plan_is_active_at_once(account_api: AccountApi, ada: Customer, free: StoredPlan) -> None:
    await ada.get("/subscriptions/me", status=404)
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    assert begun.items() >= {"status": "active", "plan_id": free.id, "checkout_url": None}.items()
    assert (await ada.get("/subscriptions/me"))["id"] == begun["id"]
    assert await balance(account_api, ada) == 10
    refused = await ada.post(f"/subscriptions/{free.id}", status=409)
    assert "current subscription" in refused["detail"]


async def test_paid_plan_needs_a_payment_provider(account_api: AccountApi, ada: Customer) -> None:
    paid = await a_plan(account_api, price=Decimal(5))
    refused = await ada.post(f"/subscriptions/{paid.id}", status=501)
    assert refused["code"] == "payments_not_configured"
    await ada.get("/subscriptions/me", status=404)
    assert await balance(account_api, ada) == 0


async def test_change_from_a_free_to_a_paid_plan_needs_a_payment(
    account_api: AccountApi, ada: Customer, free: StoredPlan
) -> None:
    paid = await a_plan(account_api, price=Decimal(5), credits_per_period=1000)
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    path = f"/subscriptions/{begun['id']}/change"
    assert f"/subscriptions/{paid.id}" in (await ada.post(path, {"plan_id": paid.id}, status=409))["detail"]
    refused = await ada.post(path, {"plan_id": free.id, "quantity": 9}, status=422)
    assert [error["field"] for error in refused["errors"]] == ["quantity"]
    assert await balance(account_api, ada) == 10


async def test_restart_within_a_period_gives_no_second_credits(
    account_api: AccountApi, ada: Customer, free: StoredPlan
) -> None:
    first = await ada.post(f"/subscriptions/{free.id}", status=201)
    for _ in range(3):
        current = await ada.get("/subscriptions/me")
        ended = await ada.call("DELETE", f"/subscriptions/{current['id']}?now=true")
        assert ended["status"] == "canceled"
        again = await ada.post(f"/subscriptions/{(await a_plan(account_api, credits_per_period=99)).id}", status=201)
        assert again["current_period_end"] == first["current_period_end"]
    assert await balance(account_api, ada) == 10


async def test_cancellation_waits_for_the_period_and_can_be_undone(ada: Customer, free: StoredPlan) -> None:
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    path = f"/subscriptions/{begun['id']}"
    ending = await ada.call("DELETE", path)
    assert (ending["status"], ending["cancel_at_period_end"]) == ("active", True)
    assert (await ada.post(f"{path}/undo-cancel"))["cancel_at_period_end"] is False
    refused = await ada.post(f"{path}/undo-cancel", status=409)
    assert refused["legal"] == ["cancel_now", "cancel_at_period_end", "pause", "change_plan", "change_quantity"]
    assert (await ada.call("DELETE", f"{path}?now=true"))["status"] == "canceled"
    assert (await ada.call("DELETE", path, status=409))["legal"] == []


async def test_change_to_another_free_plan_comes_with_the_next_period(
    account_api: AccountApi, ada: Customer, free: StoredPlan
) -> None:
    other = await a_plan(account_api, credits_per_period=500)
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    changed = await ada.post(f"/subscriptions/{begun['id']}/change", {"plan_id": other.id})
    assert (changed["plan_id"], changed["next_plan_id"]) == (free.id, other.id)
    assert await balance(account_api, ada) == 10


async def test_subscription_of_another_user_is_not_found(
    account_api: AccountApi, ada: Customer, free: StoredPlan
) -> None:
    theirs = await ada.post(f"/subscriptions/{free.id}", status=201)
    eve = await account_api.customer()
    for subscription_id in (theirs["id"], str(uuid4())):
        path = f"/subscriptions/{subscription_id}"
        await eve.call("DELETE", path, status=404)
        await eve.post(f"{path}/undo-cancel", status=404)
        await eve.post(f"{path}/change", {"plan_id": free.id}, status=404)
    assert (await ada.get("/subscriptions/me"))["cancel_at_period_end"] is False


async def test_plan_not_on_sale_is_not_found(account_api: AccountApi, ada: Customer) -> None:
    gone = await a_plan(account_api, is_active=False)
    for plan_id in (gone.id, "nope"):
        assert (await ada.post(f"/subscriptions/{plan_id}", status=404))["code"] == "not_found"


@pytest.mark.parametrize("body", [{"quantity": 0}, {"quantity": "2"}, {"price": 0}, {"provider": "cash"}, []])
async def test_malformed_order_is_refused(ada: Customer, free: StoredPlan, body: Any) -> None:
    assert (await ada.post(f"/subscriptions/{free.id}", body, status=422))["code"] == "validation_failed"
    assert (await ada.get("/subscriptions/me", status=404))["code"] == "not_found"


async def test_subscribing_needs_a_session(account_api: AccountApi, free: StoredPlan) -> None:
    for method, path in (("POST", free.id), ("GET", "me"), ("DELETE", str(uuid4()))):
        assert (await account_api.client.request(method, f"/subscriptions/{path}")).status_code == 401


async def test_unpaid_order_can_be_cancelled(account_api: AccountApi, ada: Customer) -> None:
    paid = await a_plan(account_api, price=Decimal(5))
    async with account_api.database.transaction() as connection:
        waiting = await lifecycle.await_payment(
            connection, ada.id, plan_id=paid.id, provider="stripe", now=now() - timedelta(hours=1)
        )
    assert (await ada.get("/subscriptions/me"))["status"] == "incomplete"
    assert (await ada.call("DELETE", f"/subscriptions/{waiting.id}"))["status"] == "canceled"
