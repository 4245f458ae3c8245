"""Whether the terms of a plan fit each other: tiers, amounts, periods, and the plan that it falls back to."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import inf

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.errors import Invalid
from gateway.api.schemas.pages import RequestModel
from gateway.ledger.catalogue import plans
from gateway.ledger.db.errors import NotFound
from policies.billing.money import exponent, fits, plain
from policies.billing.overage import objection
from policies.billing.periods import LONGEST


async def check_fallback(connection: AsyncConnection, plan_id: str | None, *, own_id: str | None) -> None:
    """Raises NotFound for an unknown plan, Invalid for the plan itself."""
    if plan_id is None:
        return
    if plan_id == own_id:
        raise Invalid("fallback_plan", "must be another plan")
    if await plans.get(connection, plan_id) is None:
        raise NotFound("plan", plan_id)


def tiers_of(body: Iterable[RequestModel]) -> tuple[plans.Tier, ...]:
    return tuple(plans.Tier(**tier.model_dump()) for tier in body)


def checked(terms: plans.PlanTerms, *, before: plans.PlanTerms | None = None) -> plans.PlanTerms:
    """The terms, if their tiers and overage fit each other and the pricing model. Raises Invalid.

    Releases before 0.2.0 saved tiers with a price that nobody is charged: it is refused where this change is about it.
    """
    is_kept = before is not None and (before.price, before.tiers) == (terms.price, terms.tiers)
    if terms.tiers and terms.price and not is_kept:
        raise Invalid("price", "must be 0 where tiers price the plan: nobody would be charged it")
    if terms.pricing_model in ("tiered", "volume") and not terms.tiers:
        raise Invalid("tiers", f"are needed for the pricing model {terms.pricing_model}")
    if terms.pricing_model in ("flat", "per_seat") and terms.tiers:
        raise Invalid("tiers", "are for the pricing models tiered, volume and usage")
    if terms.tiers_mode is not None and not (terms.tiers and terms.pricing_model == "usage"):
        raise Invalid("tiers_mode", "is for tiers of the pricing model usage")
    if (wrong := objection(terms.overage, pricing_model=terms.pricing_model)) is not None:
        raise Invalid("overage", wrong)
    bounds = [inf if tier.up_to is None else tier.up_to for tier in terms.tiers]
    if any(low >= high for low, high in pairwise(bounds)):
        raise Invalid("tiers", "must rise by up_to; only the last may leave it out")
    if terms.tiers and terms.tiers[-1].up_to is not None:
        raise Invalid("tiers", "the last must leave up_to out, or whatever exceeds it has no price")
    _check_amounts(terms)
    if terms.billing_interval_count > LONGEST[terms.billing_interval]:
        raise Invalid("billing_interval_count", f"at most {LONGEST[terms.billing_interval]} {terms.billing_interval}s")
    return terms


def _check_amounts(terms: plans.PlanTerms) -> None:
    """Raises Invalid for what cannot be paid; prices of units may be finer, since only their sum is."""
    amounts = [] if terms.pricing_model == "usage" else [("price", terms.price)]
    for field, amount in (*amounts, *(("tiers", tier.flat_price) for tier in terms.tiers)):
        if not fits(amount, terms.currency):
            raise Invalid(field, f"{plain(amount)} is no amount of {terms.currency}: it has {_digits(terms.currency)}")


def _digits(currency: str) -> str:
    return f"{exponent(currency) or 'no'} decimal digits"
