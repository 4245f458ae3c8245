"""While an experiment runs, each account is offered the plans of its variant, and can have no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import uuid4

import pytest

from gateway.clock import now
from gateway.ledger.catalogue import experiments, plans
from gateway.ledger.catalogue.experiments import Experiment
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.subscriptions import lifecycle
from gateway.workers.outbox import OutboxPublisher
from policies.experiments.assignment import Arms, Variant, assign
from tests.api.account.conftest import AccountApi, Customer


@pytest.fixture
async def running(account_api: AccountApi) -> AsyncIterator[Experiment]:
    """Of two free plans, each of a variant."""
    async with account_api.database.transaction() as connection:
        made = [await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(0))) for _ in range(2)]
        variants = tuple(Variant(f"v{at}", 1, (plan.id,)) for at, plan in enumerate(made))
        draft = await experiments.create(connection, uuid4().hex, Arms(uuid4().hex, variants))
        started = await experiments.start(connection, draft.id)
    await _publish(account_api)
    yield started
    async with account_api.database.transaction() as connection:
        if (await experiments.get(connection, started.id)).status == experiments.RUNNING:
            await experiments.stop(connection, started.id)
    await _publish(account_api)


async def _publish(account_api: AccountApi) -> None:
    await OutboxPublisher(account_api.database, account_api.meter).publish_all()


async def _customer(account_api: AccountApi, running: Experiment, variant: Variant) -> Customer:
    while True:
        customer = await account_api.customer()
        if assign(running.arms, customer.id) == variant:
            return customer


async def _offered(customer: Customer | AccountApi, running: Experiment) -> set[str]:
    response = await customer.client.get("/plans")
    assert response.status_code == 200, response.text
    return {plan["id"] for plan in response.json()["data"]} & running.arms.plans


async def test_account_is_offered_the_plans_of_its_variant_only(account_api: AccountApi, running: Experiment) -> None:
    for variant in running.arms.variants:
        customer = await _customer(account_api, running, variant)
        assert await _offered(customer, running) == set(variant.plans)
        key = (await customer.post("/me/keys", {"name": "k"}, status=201))["key"]
        async with account_api.new_client() as program:
            response = await program.get("/plans", headers={"x-api-key": key})
        assert {plan["id"] for plan in response.json()["data"]} & running.arms.plans == set(variant.plans)


async def test_account_goes_on_seeing_the_plan_that_it_is_on(account_api: AccountApi, running: Experiment) -> None:
    control, other = running.arms.variants
    customer = await _customer(account_api, running, other)
    async with account_api.database.transaction() as connection:
        await lifecycle.start(connection, customer.id, plan_id=control.plans[0], now=now(), actor="test")
    assert await _offered(customer, running) == running.arms.plans


async def test_stranger_is_offered_what_the_control_is(account_api: AccountApi, running: Experiment) -> None:
    assert await _offered(account_api, running) == set(running.arms.control.plans)
    response = await account_api.client.get("/plans", headers={"authorization": "Bearer junk"})
    assert response.status_code == 401


async def test_plan_of_another_variant_cannot_be_subscribed_to(account_api: AccountApi, running: Experiment) -> None:
    control, other = running.arms.variants
    customer = await _customer(account_api, running, other)
    await customer.post(f"/subscriptions/{control.plans[0]}", status=404)
    begun = await customer.post(f"/subscriptions/{other.plans[0]}", status=201)
    change = {"plan_id": control.plans[0], "at_period_end": True}
    await customer.post(f"/subscriptions/{begun['id']}/change", change, status=404)


async def test_end_offers_all_plans_to_all_or_the_winners_alone(account_api: AccountApi, running: Experiment) -> None:
    control, other = running.arms.variants
    customer = await _customer(account_api, running, other)
    async with account_api.database.transaction() as connection:
        await experiments.stop(connection, running.id, winner=control.name)
    await _publish(account_api)
    assert await _offered(customer, running) == await _offered(account_api, running) == set(control.plans)
    begun = await customer.post(f"/subscriptions/{control.plans[0]}", status=201)
    assert begun["status"] == "active"


async def test_end_without_a_winner_offers_everything_to_everybody(
    account_api: AccountApi, running: Experiment
) -> None:
    async with account_api.database.transaction() as connection:
        await experiments.stop(connection, running.id)
    await _publish(account_api)
    assert await _offered(account_api, running) == running.arms.plans
