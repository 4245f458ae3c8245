"""Free credits and trials are one a person, and wait for a verified address; debts return."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.ledger.accounts import persons, users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan, Tier
from gateway.ledger.credits import grants
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.subscriptions import free_credits, lifecycle, renewals
from policies.access.persons import digest
from tests.api.account.conftest import PASSWORD, SECRET, AccountApi, Customer
from tests.api.account.test_subscriptions import a_plan, balance


@pytest.fixture
async def free(account_api: AccountApi) -> StoredPlan:
    return await a_plan(account_api)


async def a_person(api: AccountApi, email: str, *, is_verified: bool = True) -> Customer:
    """A new account of the address, as a registration makes it."""
    named = (digest(SECRET, email),)
    proven: dict[str, Any] = {"email_verified_at": now(), "proven_persons": named} if is_verified else {}
    return await api.customer(email=email, persons=named, **proven)


async def spend(api: AccountApi, customer: Customer, credits: int) -> None:
    async with api.database.transaction() as connection:
        await grants.adjust(connection, customer.id, amount=-credits, reason="spent", actor="test")


async def delete(customer: Customer) -> None:
    await customer.call("DELETE", "/me", status=204, json={"password": PASSWORD})


async def recognise(api: AccountApi, customer: Customer) -> None:
    async with api.database.transaction() as connection:
        await persons.recognise(connection, customer.id, now=now(), actor="test")


async def test_free_plan_gives_its_credits_once_the_address_is_verified(
    verifying_api: AccountApi, free: StoredPlan
) -> None:
    ada = await verifying_api.customer()
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    assert (begun["status"], begun["credits_withheld"]) == ("active", "unverified")
    assert await balance(verifying_api, ada) == 0
    await verifying_api.verify(ada)
    assert (await ada.get("/subscriptions/me"))["credits_withheld"] is None
    assert await balance(verifying_api, ada) == 10
    await recognise(verifying_api, ada)
    assert await balance(verifying_api, ada) == 10


async def test_unverified_free_plan_gives_no_credits_in_later_periods_either(
    verifying_api: AccountApi, free: StoredPlan
) -> None:
    ada = await verifying_api.customer()
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    async with verifying_api.database.transaction() as connection:
        at = now() + timedelta(days=40)
        assert await renewals.advance(connection, begun["id"], now=at, grace=timedelta(days=3)) == 1
    assert await balance(verifying_api, ada) == 0
    await verifying_api.verify(ada)
    assert await balance(verifying_api, ada) == 10


async def test_verified_user_gets_free_credits_at_once(verifying_api: AccountApi, free: StoredPlan) -> None:
    ada = await verifying_api.customer(email_verified_at=now())
    assert (await ada.post(f"/subscriptions/{free.id}", status=201))["credits_withheld"] is None
    assert await balance(verifying_api, ada) == 10


@pytest.mark.parametrize("again", ["{}@example.com", "{}+2@example.com"])
async def test_deleting_and_registering_again_gives_no_second_free_credits(
    account_api: AccountApi, free: StoredPlan, again: str
) -> None:
    name = uuid4().hex
    first = await a_person(account_api, f"{name}@example.com")
    begun = await first.post(f"/subscriptions/{free.id}", status=201)
    await delete(first)
    for _ in range(3):
        later = await a_person(account_api, again.format(name))
        resumed = await later.post(f"/subscriptions/{free.id}", status=201)
        assert resumed["current_period_end"] == begun["current_period_end"]
        assert await balance(account_api, later) == 0
        await delete(later)


async def test_moving_to_another_address_frees_no_credits_at_the_former_one(
    account_api: AccountApi, free: StoredPlan
) -> None:
    email = f"{uuid4().hex}@example.com"
    ada = await account_api.customer(email=email)  # of a time before persons were remembered
    await ada.post(f"/subscriptions/{free.id}", status=201)
    moved = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    await ada.call("PATCH", "/me", json=moved)
    await delete(ada)
    for address in (email, moved["email"]):
        later = await a_person(account_api, address, is_verified=False)
        await later.post(f"/subscriptions/{free.id}", status=201)
        assert await balance(account_api, later) == 0


async def test_two_accounts_of_one_mailbox_have_the_free_credits_once(
    account_api: AccountApi, free: StoredPlan
) -> None:
    name = uuid4().hex
    tabs = [await a_person(account_api, f"{name}+{number}@example.com") for number in range(4)]
    begun = await asyncio.gather(*(tab.post(f"/subscriptions/{free.id}", status=201) for tab in tabs))
    assert sorted(str(each["credits_withheld"]) for each in begun) == ["None", *3 * ["same_person"]]
    assert sorted([await balance(account_api, tab) for tab in tabs]) == [0, 0, 0, 10]


async def test_debt_returns_with_its_person_and_is_owed_once(verifying_api: AccountApi, free: StoredPlan) -> None:
    email = f"{uuid4().hex}@example.com"
    first = await a_person(verifying_api, email)
    await spend(verifying_api, first, 500)
    await delete(first)
    later = await a_person(verifying_api, email, is_verified=False)
    await later.post(f"/subscriptions/{free.id}", status=201)
    # Not before the address is proven: it would tell a stranger that somebody owes.
    assert await balance(verifying_api, later) == 0
    await verifying_api.verify(later)
    assert await balance(verifying_api, later) == -490
    await recognise(verifying_api, later)
    assert await balance(verifying_api, later) == -490
    assert await balance(verifying_api, first) == 0
    async with verifying_api.database.read() as connection:
        query = text("SELECT sum(amount) FROM credit_ledger WHERE user_id IN (:a, :b)")
        assert await connection.scalar(query, {"a": first.id, "b": later.id}) == -490


async def test_debt_of_who_only_named_an_address_does_not_go_to_who_reads_its_mail(
    verifying_api: AccountApi, free: StoredPlan
) -> None:
    email = f"{uuid4().hex}@example.com"
    stranger = await a_person(verifying_api, email, is_verified=False)
    await spend(verifying_api, stranger, 500)
    await delete(stranger)
    owner = await a_person(verifying_api, email, is_verified=False)
    await verifying_api.verify(owner)
    await owner.post(f"/subscriptions/{free.id}", status=201)
    assert await balance(verifying_api, owner) == 10
    assert await balance(verifying_api, stranger) == -500


async def test_debt_of_who_moved_to_an_address_unproven_goes_to_the_one_that_was_proven(
    verifying_api: AccountApi, free: StoredPlan
) -> None:
    own, other = f"{uuid4().hex}@example.com", f"{uuid4().hex}@example.com"
    stranger = await a_person(verifying_api, own)
    await spend(verifying_api, stranger, 500)
    await stranger.call("PATCH", "/me", json={"email": other, "password": PASSWORD})
    await delete(stranger)
    for email, owed in ((other, 0), (own, 500)):
        later = await a_person(verifying_api, email, is_verified=False)
        await verifying_api.verify(later)
        await later.post(f"/subscriptions/{free.id}", status=201)
        assert await balance(verifying_api, later) == 10 - owed


async def test_who_only_names_an_address_withholds_no_credits_from_who_reads_its_mail(
    account_api: AccountApi, free: StoredPlan
) -> None:
    name = uuid4().hex
    stranger = await a_person(account_api, f"{name}@example.com", is_verified=False)
    await stranger.post(f"/subscriptions/{free.id}", status=201)
    again = await a_person(account_api, f"{name}+2@example.com", is_verified=False)
    await again.post(f"/subscriptions/{free.id}", status=201)
    assert await balance(account_api, again) == 0, "an address that nobody proves is believed"
    owner = await a_person(account_api, f"{name}+3@example.com")
    await owner.post(f"/subscriptions/{free.id}", status=201)
    assert await balance(account_api, owner) == 10


async def test_trial_is_one_a_person(account_api: AccountApi) -> None:
    email = f"{uuid4().hex}@example.com"
    first, later = await a_person(account_api, email), await a_person(account_api, email.replace("@", "+x@"))
    stranger = await a_person(account_api, email.replace("@", "+y@"), is_verified=False)
    async with account_api.database.transaction() as connection:
        terms = PlanTerms(name=uuid4().hex, price=Decimal(5), trial_period_days=7)
        plan = await plans.create(connection, terms)
        assert not await free_credits.had_trial(connection, later.id)
        await lifecycle.start_trial(connection, stranger.id, plan_id=plan.id, days=7, now=now(), actor="test")
        assert not await free_credits.had_trial(connection, later.id)
        await lifecycle.start_trial(connection, first.id, plan_id=plan.id, days=7, now=now(), actor="test")
    await delete(first)
    async with account_api.database.read() as connection:
        assert await free_credits.had_trial(connection, later.id)
        other = await account_api.customer()
        assert not await free_credits.had_trial(connection, other.id)


async def test_erased_person_is_forgotten_after_the_configured_time(account_api: AccountApi, free: StoredPlan) -> None:
    email = f"{uuid4().hex}@example.com"
    first = await a_person(account_api, email)
    await first.post(f"/subscriptions/{free.id}", status=201)
    await delete(first)
    async with account_api.database.transaction() as connection:
        assert await persons.forget_erased(connection, before=now() - timedelta(days=1), limit=10) == 0
        assert await persons.forget_erased(connection, before=now() + timedelta(days=1), limit=1000) >= 1
    later = await a_person(account_api, email)
    await later.post(f"/subscriptions/{free.id}", status=201)
    assert await balance(account_api, later) == 10


async def test_registered_account_has_the_digest_of_its_person(account_api: AccountApi) -> None:
    email = f"{uuid4().hex}@example.com"
    await account_api.call("/auth/register", {"email": email, "password": PASSWORD}, status=201)
    async with account_api.database.read() as connection:
        made = await users.get_by_email(connection, email)
        assert made is not None
        kept = await connection.scalar(text("SELECT persons FROM users WHERE id = :id"), {"id": made.id})
    assert kept == [digest(SECRET, email)]


async def test_free_plan_after_a_tiered_one_gives_its_credits(account_api: AccountApi, free: StoredPlan) -> None:
    tiers = (Tier(up_to=None, unit_price=Decimal(5)),)
    tiered = await a_plan(account_api, pricing_model="tiered", tiers=tiers, credits_per_period=0)
    ada = await a_person(account_api, f"{uuid4().hex}@example.com")
    async with account_api.database.transaction() as connection:
        begun = await lifecycle.start(connection, ada.id, plan_id=tiered.id, now=now())
    await ada.call("DELETE", f"/subscriptions/{begun.id}?now=true")
    await ada.post(f"/subscriptions/{free.id}", status=201)
    assert await balance(account_api, ada) == 10


@pytest.fixture
async def paid(account_api: AccountApi) -> StoredPlan:
    return await a_plan(account_api, price=Decimal(20), credits_per_period=1000)


async def move(api: AccountApi, subscription_id: str, plan: StoredPlan) -> None:
    """As an operator changes a plan that no provider bills."""
    async with api.database.transaction() as connection:
        await plan_changes.change(connection, UUID(subscription_id), plan_id=plan.id, now=now(), actor="test")


async def test_plan_that_an_operator_gave_is_not_granted_again_once_the_address_is_verified(
    verifying_api: AccountApi, free: StoredPlan, paid: StoredPlan
) -> None:
    ada = await verifying_api.customer()
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    await move(verifying_api, begun["id"], paid)
    before = await balance(verifying_api, ada)
    assert before in (999, 1000), "a moment of the period has passed"
    await verifying_api.verify(ada)
    assert await balance(verifying_api, ada) == before


async def test_period_of_a_plan_that_an_operator_gave_stays_once_the_address_is_verified(
    verifying_api: AccountApi, free: StoredPlan, paid: StoredPlan
) -> None:
    email = f"{uuid4().hex}@example.com"
    first = await a_person(verifying_api, email)
    await first.post(f"/subscriptions/{free.id}", status=201)
    await delete(first)
    later = await a_person(verifying_api, email, is_verified=False)
    begun = await later.post(f"/subscriptions/{free.id}", status=201)
    await move(verifying_api, begun["id"], paid)
    before = await later.get("/subscriptions/me")
    await verifying_api.verify(later)
    after = await later.get("/subscriptions/me")
    assert (after["current_period_start"], after["current_period_end"]) == (
        before["current_period_start"],
        before["current_period_end"],
    )


async def test_larger_free_plan_gives_no_part_of_withheld_credits(verifying_api: AccountApi, free: StoredPlan) -> None:
    larger = await a_plan(verifying_api, credits_per_period=100)
    ada = await verifying_api.customer()
    begun = await ada.post(f"/subscriptions/{free.id}", status=201)
    await move(verifying_api, begun["id"], larger)
    assert await balance(verifying_api, ada) == 0
    await move(verifying_api, begun["id"], free)
    assert await balance(verifying_api, ada) == 0
    await verifying_api.verify(ada)
    assert await balance(verifying_api, ada) == 10


async def test_plan_that_costs_something_since_gives_its_credits_once_the_address_is_verified(
    verifying_api: AccountApi, free: StoredPlan
) -> None:
    ada = await verifying_api.customer()
    await ada.post(f"/subscriptions/{free.id}", status=201)
    async with verifying_api.database.transaction() as connection:
        dearer = replace(free.terms, price=Decimal(5))
        await plans.change(connection, free.id, dearer, subscribers="migrate")
    await verifying_api.verify(ada)
    assert await balance(verifying_api, ada) == 10
