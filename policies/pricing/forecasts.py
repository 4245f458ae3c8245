"""What a call would cost, by what is known of it before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from policies.model import FeatureValue, Plan, Refused, Route
from policies.pricing import model_costs, prices, receipts
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.quotes import ModelRequest, quote_by_list, quote_plain
from policies.pricing.units import PriceUnit
from policies.usage.counts import Usage, UsageClass
from policies.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of the call that is asked about; None is not known.

    `units` are the items, tokens or minutes that its route is priced by. `model`, `input_tokens` and `output_tokens`
    are for routes that price by model. `credits` outranks every price.
    """

    units: int | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    body_bytes: int | None = None
    credits: int | None = None
    client_ip: str | None = None


class Forecast(NamedTuple):
    """The credits that a call would cost and hold, the balance that they need, and how they were computed.

    `refused` is why the price does not allow the call, if it does not.
    """

    credits: int
    hold: int
    required: int
    price: str
    refused: Refused | None = None


def forecast(
    route: Route | None, facts: Facts, plan: Plan | None, *, offered: Mapping[str, Mapping[str, FeatureValue]]
) -> Forecast:
    """The forecast of a call to a route, or to none in particular, by an account with that plan."""
    if facts.credits is not None:
        return Forecast(facts.credits, facts.credits, facts.credits, f"{counted(facts.credits, 'credit')}, as asked")
    if route is None:
        return Forecast(0, 0, 0, "no route, no price")
    if route.serves_models:
        return Forecast(0, 0, 0, "free")
    try:
        if isinstance(route.price, PriceList):
            found = _by_list(route.price, facts, plan or NO_PLAN, offered=offered)
        else:
            found = _plain(route.price, facts, plan)
    except Refused as refused:
        return Forecast(0, 0, 0, "no price", refused)
    maximum = None if plan is None else plan.max_credits_per_call
    return found if maximum is None else _within_plan(found, maximum)


def _within_plan(found: Forecast, maximum: int) -> Forecast:
    if max(found.credits, found.hold) <= maximum:
        return found
    credits, hold, required = (min(each, maximum) for each in (found.credits, found.hold, found.required))
    return Forecast(credits, hold, required, f"{found.price}{receipts.at_most_by_plan(maximum)}")


NO_PLAN = Plan("", "", 0, {})


def _plain(price: Price, facts: Facts, plan: Plan | None) -> Forecast:
    """Where units are not known, a call counts one item, and costs what it holds where only its response tells."""
    units = 1 if facts.units is None or price.unit is PriceUnit.CALL else facts.units
    quote = quote_plain(price, plan, units=units)
    if facts.units is None and not price.is_known_at_admission:
        explanation = f"{quote.hold} held; the response tells the price"
        return Forecast(quote.hold, quote.hold, quote.required, explanation)
    return Forecast(prices.cost(price, units), quote.hold, quote.required, prices.explain(price, units))


def _by_list(
    listed: PriceList, facts: Facts, plan: Plan, *, offered: Mapping[str, Mapping[str, FeatureValue]]
) -> Forecast:
    request = ModelRequest(facts.model, facts.output_tokens, body_bytes=facts.body_bytes or 0)
    quote = quote_by_list(listed, plan, request, offered=offered)
    counts = {UsageClass.INPUT: facts.input_tokens, UsageClass.OUTPUT: facts.output_tokens}
    known = {kind: count for kind, count in counts.items() if count is not None}
    if quote.model_price is None or (not known and listed.unit is PriceUnit.TOKEN):
        return Forecast(quote.hold, quote.hold, quote.required, f"{quote.hold} held; the response tells the price")
    cost = model_costs.cost(listed, quote.model_price, Usage(known))
    return Forecast(cost.credits, quote.hold, quote.required, model_costs.explain(listed, cost))
