"""The plans on offer, for everyone to see."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from gateway.api.account.dependencies import AnyReader, DependenciesDep
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.billing_records import ShownAs, Tier
from gateway.api.schemas.pages import PageModel, ResponseModel
from gateway.ledger.catalogue import experiments, plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.subscriptions import subscriptions
from policies.billing.invoicing import first_price
from policies.billing.money import CreditValue, plain
from policies.model import FeatureValue, PastDue

router = APIRouter(tags=["plans"])


class OfferedOverage(ResponseModel):
    credits: int = Field(description="How far below zero the balance may go.")
    price: str | None = Field(description="Of each credit below zero; null: the plan prices all usage alike.")


class OfferedPlan(ResponseModel):
    """Limits that are null are no limits."""

    id: str = Field(examples=["pro"])
    name: str
    description: str | None
    price: str = Field(
        description="Per billing interval, seat or unit, by `pricing_model`; of the first where `tiers` price them.",
        examples=["29.99"],
    )
    currency: str
    pricing_model: Literal["flat", "per_seat", "tiered", "volume", "usage"]
    tiers: list[Tier]
    tiers_mode: Literal["graduated", "volume"] | None
    billing_interval: Literal["day", "week", "month", "year"]
    billing_interval_count: int
    trial_period_days: int
    credits_per_period: int
    credits_shown_as: ShownAs | None = Field(description="The credits of a period as money, where they are shown so.")
    credits_rollover: bool
    requests_per_minute: int | None
    requests_per_hour: int | None
    max_api_calls_per_day: int | None
    max_products_per_batch: int | None
    max_concurrent_requests: int | None
    max_file_size_bytes: int | None
    max_credits_per_call: int | None
    overage: OfferedOverage | None = Field(description="Postpaid: usage beyond the credits, which is billed.")
    features: dict[str, FeatureValue]
    past_due: PastDue = Field(description="What it gives from a failed renewal until that is paid.")
    fallback_plan: str | None = Field(description="The plan for credits that are left once a subscription has ended.")


@router.get("/plans", summary="The plans on offer", responses=SIGNED_IN, openapi_extra={"security": [{}]})
async def list_plans(dependencies: DependenciesDep, account_id: AnyReader) -> PageModel[OfferedPlan]:
    """By `sort_order`, then price. Nobody needs to be signed in; who is sees what experiments offer the account, and
    the plan that it is on."""
    async with dependencies.database.read() as connection:
        stored = await plans.list_plans(connection)
        hidden = await experiments.hidden_from(connection, account_id)
        if hidden and account_id is not None:
            current = await subscriptions.get_current(connection, account_id)
            hidden -= set() if current is None else {current.plan_id}
    offered = [plan for plan in stored if plan.terms.is_active and plan.id not in hidden]
    return PageModel(data=[shown_plan(plan, dependencies.credit_value) for plan in offered], next_cursor=None)


def shown_plan(plan: StoredPlan, credit_value: CreditValue | None) -> OfferedPlan:
    stored = OfferedPlan.model_fields.keys() - {"id", "credits_shown_as", "overage"}
    fields = {name: getattr(plan.terms, name) for name in stored}
    fields["credits_shown_as"] = ShownAs.of_balance(credit_value, plan.terms.credits_per_period)
    fields["tiers"] = [Tier.of(tier) for tier in plan.terms.tiers]
    overage = plan.terms.overage
    fields["overage"] = overage and OfferedOverage(
        credits=overage.credits, price=None if overage.price is None else plain(overage.price)
    )
    return OfferedPlan.model_validate(fields | {"id": plan.id, "price": plain(first_price(plan.terms.pricing))})
