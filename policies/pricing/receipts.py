"""How a call that was made came to its credits, in words for the one who paid."""

from __future__ import annotations

from typing import assert_never

from policies.model import Outcome, Route
from policies.pricing.prices import cost, explain
from policies.pricing.units import Count, PriceUnit
from policies.wording import counted


def explained(
    route: Route | None,
    *,
    outcome: Outcome,
    credits_charged: int,
    items: int,
    tokens: int | None,
    response_time_ms: int | None,
) -> str:
    """By the route's present price where that gives what was charged; else that something else did.

    `route` None is one that is no longer served.
    """
    if credits_charged == 0:
        return "free" if outcome is Outcome.SUCCEEDED else f"nothing, the call ended as {outcome}"
    if route is None or route.price.is_free:
        return f"{counted(credits_charged, 'credit')}, as recorded"
    units = _units(route, items=items, tokens=tokens, response_time_ms=response_time_ms)
    if units is not None and cost(route.price, units) == credits_charged:
        return explain(route.price, units)
    return f"{counted(credits_charged, 'credit')}, as the service itself priced the call or the price was at the time"


def _units(route: Route, *, items: int, tokens: int | None, response_time_ms: int | None) -> Count | None:
    match route.price.unit:
        case PriceUnit.CALL:
            return 1
        case PriceUnit.ITEM:
            return items
        case PriceUnit.TOKEN:
            return tokens
        case PriceUnit.MINUTE | PriceUnit.SECOND if route.price.source is None:
            return None if response_time_ms is None else route.price.unit.elapsed(response_time_ms / 1000)
        case PriceUnit.MINUTE | PriceUnit.SECOND | PriceUnit.CHARACTER | PriceUnit.USD:
            return None
        case _:
            assert_never(route.price.unit)
