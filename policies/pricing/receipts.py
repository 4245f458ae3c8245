"""How a call that was made came to its credits, in words for the one who paid."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from policies.model import Outcome, Route
from policies.pricing import model_costs
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.prices import cost, explain
from policies.pricing.units import Count, PriceUnit
from policies.usage.counts import Usage
from policies.wording import counted


class RecordedCall(NamedTuple):
    """What the record of a call keeps of its price. `usage` is empty where no reader measured it."""

    outcome: Outcome
    credits_charged: int
    items: int
    tokens: int | None
    response_time_ms: int | None
    model: str | None = None
    usage: Usage = Usage()


def explained(route: Route | None, call: RecordedCall) -> str:
    """By the route's present price where that gives what was charged; else that something else did.

    `route` None is one that is no longer served.
    """
    if call.credits_charged == 0:
        return "free" if call.outcome is Outcome.SUCCEEDED else f"nothing, the call ended as {call.outcome}"
    charged = counted(call.credits_charged, "credit")
    if route is None or route.price.is_free:
        return f"{charged}, as recorded"
    price = route.price
    found = _by_list(price, call) if isinstance(price, PriceList) else _plain(price, call)
    return found or f"{charged}, as the service itself priced the call or the price was at the time"


def _plain(price: Price, call: RecordedCall) -> str | None:
    units = _units(price, call)
    return explain(price, units) if units is not None and cost(price, units) == call.credits_charged else None


def _by_list(listed: PriceList, call: RecordedCall) -> str | None:
    price = listed.find(call.model)
    found = None if price is None else model_costs.cost(listed, price, call.usage)
    is_it = found is not None and found.credits == call.credits_charged
    return model_costs.explain(listed, found) if is_it and found is not None else None


def _units(price: Price, call: RecordedCall) -> Count | None:
    match price.unit:
        case PriceUnit.CALL:
            return 1
        case PriceUnit.ITEM:
            return call.items
        case PriceUnit.TOKEN:
            return call.tokens
        case PriceUnit.MINUTE | PriceUnit.SECOND if price.source is None:
            return None if call.response_time_ms is None else price.unit.elapsed(call.response_time_ms / 1000)
        case PriceUnit.MINUTE | PriceUnit.SECOND | PriceUnit.CHARACTER | PriceUnit.USD:
            return None
        case _:
            assert_never(price.unit)
