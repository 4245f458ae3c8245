"""The page of plans shows a customer those of the own variant."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import uuid4

import pytest

from gateway.ledger.catalogue import experiments, plans
from gateway.ledger.catalogue.experiments import Experiment
from gateway.ledger.catalogue.plans import PlanTerms
from policies.experiments.assignment import Arms, Variant, assign
from tests.web.portal.visitors import PortalStack


@pytest.fixture
async def running(stack: PortalStack) -> AsyncIterator[Experiment]:
    async with stack.account.database.transaction() as connection:
        made = [await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(0))) for _ in range(2)]
        variants = tuple(Variant(f"v{at}", 1, (plan.id,)) for at, plan in enumerate(made))
        draft = await experiments.create(connection, uuid4().hex, Arms(uuid4().hex, variants))
        started = await experiments.start(connection, draft.id)
    yield started
    async with stack.account.database.transaction() as connection:
        await experiments.stop(connection, started.id)


async def test_customer_is_shown_and_sold_the_plans_of_the_own_variant(stack: PortalStack, running: Experiment) -> None:
    waiting = {variant.name for variant in running.arms.variants}
    while waiting:
        customer = await stack.customer()
        own = assign(running.arms, customer.user_id)
        waiting.discard(own.name)
        offered = set(re.findall(r'name="plan_id" value="([^"]+)"', await customer.get("/plan")))
        assert offered & running.arms.plans == set(own.plans)
        (other,) = running.arms.plans - set(own.plans)
        refused = await customer.submit("/plan", "/plan/subscribe", status=404, plan_id=other)
        assert f"There is no plan {other}" in refused.text
        await customer.submit("/plan", "/plan/subscribe", plan_id=own.plans[0])
        await customer.get(f"/plan/change?plan={other}", status=404)
