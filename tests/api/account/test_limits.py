"""Limits and quotes read the state of an account and change nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.clock import now
from gateway.ledger.accounts import principals
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.subscriptions import lifecycle
from gateway.ledger.usage import ingestion, key_budgets
from gateway.meter.replies import LoadResult, Verdict
from policies.access.key_budgets import Cap, cap_of
from policies.access.limits import limits_of
from tests.api.account.conftest import AccountApi, Customer
from tests.api.conftest import prefix_of_user
from tests.ledger.make import a_line

TERMS: dict[str, Any] = {
    "credits_per_period": 10,
    "requests_per_minute": 5,
    "requests_per_hour": 50,
    "max_concurrent_requests": 2,
    "max_products_per_batch": 4,
    "features": {"analysis": True},
}


@pytest.fixture
async def subscriber(account_api: AccountApi) -> Customer:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        terms = PlanTerms(name=f"plan-{uuid4().hex}", price=Decimal(0), **TERMS)
        plan = await plans.create(connection, terms)
        await lifecycle.start(connection, customer.id, plan_id=plan.id, now=now())
    return customer


async def test_account_without_calls_has_the_whole_plan(subscriber: Customer) -> None:
    left = await subscriber.get("/me/limits")
    assert [(each["name"], each["limit"], each["remaining"]) for each in left["limits"]] == [
        ("minute", 5, 5),
        ("hour", 50, 50),
    ]
    assert left["in_flight"] == {"limit": 2, "current": 0}
    assert (left["credits"]["remaining"], left["credits"]["used_this_period"]) == (10, 0)
    assert left["features"] == {"analysis": True}
    assert left["subscription_status"] == "active"


async def test_credits_are_shown_as_money(subscriber: Customer) -> None:
    left = await subscriber.get("/me/limits")
    assert (left["credits"]["remaining"], left["credits"]["shown_as"]) == (10, {"currency": "USD", "amount": "0.01"})
    quoted = await subscriber.post("/me/quote", {"route": "generate", "units": 3})
    assert (quoted["credits"], quoted["credits_shown_as"]) == (6, {"currency": "USD", "amount": "0.006000"})


async def test_account_without_a_subscription_has_no_limits_and_no_plan(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    left = await customer.get("/me/limits")
    assert (left["plan"], left["limits"], left["credits"]["remaining"]) == (None, [], 0)


async def test_call_under_way_is_seen_by_limits_at_once(account_api: AccountApi, subscriber: Customer) -> None:
    await _admitted(account_api, subscriber, amount=3)
    left = await subscriber.get("/me/limits")
    assert [each["remaining"] for each in left["limits"]] == [4, 49]
    # A window is given back in steps of a sixtieth.
    assert all(0 < each["reset_seconds"] <= each["window_seconds"] * 61 / 60 for each in left["limits"])
    assert left["limits"][0]["reset_seconds"] <= 60
    assert left["in_flight"]["current"] == 1
    assert left["credits"]["remaining"] == 7


@pytest.mark.parametrize(
    ("asked", "credits", "price"),
    [
        ({"route": "analyze"}, 1, "1 credit per call"),
        ({"route": "generate", "units": 3}, 6, "2 credits per item x 3 items"),
        ({"route": "generate", "body": {"products": ["lamp", "chair"]}}, 4, "2 credits per item x 2 items"),
        ({"route": "generate"}, 2, "2 credits per item x 1 item"),
    ],
)
async def test_quote_is_the_cost_of_the_call(
    subscriber: Customer, asked: dict[str, Any], credits: int, price: str
) -> None:
    quoted = await subscriber.post("/me/quote", asked)
    assert (quoted["admitted"], quoted["credits"], quoted["price"]) == (True, credits, price)


async def test_quote_ends_at_what_the_plan_lets_a_call_cost(account_api: AccountApi, subscriber: Customer) -> None:
    async with account_api.database.transaction() as connection:
        plan = await principals.find_account(connection, subscriber.id)
        assert plan is not None
        assert plan.subscription is not None
        stored = await plans.get(connection, plan.subscription.plan.id)
        assert stored is not None
        await plans.change(connection, stored.id, replace(stored.terms, max_credits_per_call=5))
    quoted = await subscriber.post("/me/quote", {"route": "generate", "units": 4})
    assert (quoted["credits"], quoted["hold"]) == (5, 5)
    assert quoted["price"] == "2 credits per item x 4 items, at most 5 by the plan"


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        ({"route": "generate", "units": 4}, None, None),
        ({"route": "generate", "units": 5}, "batch_too_large", 422),
        ({"route": "analyze", "body_bytes": 1001}, "payload_too_large", 413),
    ],
)
async def test_quote_names_the_refusal_of_the_call(
    subscriber: Customer, asked: dict[str, Any], code: str | None, status: int | None
) -> None:
    quoted = await subscriber.post("/me/quote", asked)
    assert (quoted["admitted"], quoted["code"], quoted["status"]) == (code is None, code, status)


async def test_quote_knows_what_was_spent_and_changes_nothing(account_api: AccountApi, subscriber: Customer) -> None:
    await _admitted(account_api, subscriber, amount=5)
    before = await subscriber.get("/me/limits")
    for _ in range(10):
        quoted = await subscriber.post("/me/quote", {"route": "generate", "units": 3})
        assert (quoted["admitted"], quoted["code"], quoted["balance"]) == (False, "insufficient_credits", 5)
    after = await subscriber.get("/me/limits")
    for left in (before, after):
        for each in left["limits"]:
            del each["reset_seconds"]  # time goes by
    assert after == before


async def test_quote_of_the_models_is_free_whatever_is_used_up(account_api: AccountApi, subscriber: Customer) -> None:
    for amount in (5, 5):
        await _admitted(account_api, subscriber, amount=amount)
    assert (await subscriber.post("/me/quote", {"route": "analyze"}))["code"] == "too_many_in_flight"
    quoted = await subscriber.post("/me/quote", {"route": "models"})
    assert (quoted["admitted"], quoted["credits"], quoted["hold"], quoted["price"]) == (True, 0, 0, "free")


async def test_quote_of_a_key_respects_its_permissions_and_status(subscriber: Customer) -> None:
    key = await subscriber.post("/me/keys", {"allowed_ips": ["203.0.113.9/32"]}, status=201)
    asked = {"route": "analyze", "key_id": key["id"]}
    assert (await subscriber.post("/me/quote", asked))["code"] == "ip_not_allowed"
    await subscriber.post(f"/me/keys/{key['id']}/revoke")
    assert (await subscriber.post("/me/quote", asked))["code"] == "key_revoked"


async def test_quote_of_a_key_respects_its_credit_cap(account_api: AccountApi, subscriber: Customer) -> None:
    key = await subscriber.post("/me/keys", {"credit_cap": 5}, status=201)
    asked = {"route": "generate", "units": 2, "key_id": key["id"]}
    await _spent(account_api, subscriber, key["id"], 1)
    quoted = await subscriber.post("/me/quote", asked)
    assert (quoted["admitted"], quoted["key_credits_left"]) == (True, 4)
    cap = await _admitted(account_api, subscriber, amount=3, key_id=key["id"])
    quoted = await subscriber.post("/me/quote", asked)
    assert (quoted["admitted"], quoted["code"], quoted["key_credits_left"]) == (False, "insufficient_credits", 1)
    assert quoted["detail"] == "This call needs 4 credits; the credit cap of this key, 5 a period, leaves 1."
    assert cap is not None
    by_account = await subscriber.post("/me/quote", {"route": "generate", "units": 2})
    assert (by_account["admitted"], by_account["key_credits_left"]) == (True, None)


async def test_limits_show_the_credits_left_to_the_key(account_api: AccountApi, subscriber: Customer) -> None:
    key = await subscriber.post("/me/keys", {"credit_cap": 5}, status=201)
    await _admitted(account_api, subscriber, amount=3, key_id=key["id"])
    async with account_api.new_client() as program:
        asked = await program.get("/me/limits", headers={"x-api-key": key["key"]})
    assert asked.json()["credits"].items() >= {"remaining": 7, "key_credits_left": 2}.items()
    assert (await subscriber.get("/me/limits"))["credits"]["key_credits_left"] is None


async def test_quote_of_an_unknown_route_is_not_found(subscriber: Customer) -> None:
    refused = await subscriber.post("/me/quote", {"route": "nope"}, status=404)
    assert refused["detail"] == "There is no route nope."


async def test_body_that_cannot_be_counted_is_a_named_error(subscriber: Customer) -> None:
    refused = await subscriber.post("/me/quote", {"route": "generate", "body": {"items": []}}, status=422)
    assert [each["field"] for each in refused["errors"]] == ["body"]


async def _spent(account_api: AccountApi, customer: Customer, key_id: str, credits_charged: int) -> None:
    """A call that PostgreSQL has."""
    async with account_api.database.transaction() as connection:
        line = a_line(customer.id, at=now(), api_key_id=key_id, credits_charged=credits_charged)
        await ingestion.ingest(connection, [line])


async def _admitted(
    account_api: AccountApi, customer: Customer, *, amount: int, key_id: str | None = None
) -> Cap | None:
    """A call that is under way, by a key that may have a cap."""
    async with account_api.database.read() as connection:
        key = None if key_id is None else await principals.find_key(connection, customer.id, UUID(key_id))
    async with account_api.database.read() as connection:
        account = await principals.find_account(connection, customer.id)
        balance = await principals.get_balance(connection, customer.id)
        catalogue = await principals.get_catalogue(connection)
    assert account is not None
    assert account.subscription is not None
    assert balance is not None
    keys, cap = account_api.meter.keys(customer.id), cap_of(key, account.subscription)
    await account_api.meter.load(
        keys,
        account_version=balance.account_version,
        credit_seq=balance.credit_seq,
        balance=balance.current_credits,
        catalogue_version=catalogue.version,
    )
    if cap is not None:
        async with account_api.database.read() as connection:
            spent = await key_budgets.credits_spent(connection, customer.id, cap)
        key_ids = [cap.budget_id]
        assert (
            await account_api.meter.load_key_budget(keys, cap, spent=spent, counted_upto="0-0", key_ids=key_ids)
            is LoadResult.LOADED
        )
    admission = await account_api.meter.admit(
        keys,
        request_id=str(uuid4()),
        account_version=balance.account_version,
        catalogue_version=catalogue.version,
        amount=amount,
        required=amount,
        limits=limits_of(account.subscription.plan),
        prefix=prefix_of_user(str(customer.id), api_key_id=key_id, created_at=time.time_ns() // 1000),
        cap=cap,
    )
    assert admission.verdict is Verdict.ADMITTED
    return cap
