"""How a call that was made came to its credits, in words for the one who paid."""

from __future__ import annotations

from policies.model import Outcome, Route
from policies.pricing.prices import cost, explain, is_free, started_minutes


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
    if route is None or is_free(route.price):
        return f"{credits_charged} credits, as recorded"
    units = _units(route, items=items, tokens=tokens, response_time_ms=response_time_ms)
    if units is not None and cost(route.price, units) == credits_charged:
        return explain(route.price, units)
    return f"{credits_charged} credits, as the service itself priced the call or the price was at the time"


def _units(route: Route, *, items: int, tokens: int | None, response_time_ms: int | None) -> int | None:
    if route.price.unit == "token":
        return tokens
    if route.price.unit == "minute":
        return None if response_time_ms is None else started_minutes(response_time_ms / 1000)
    return items if route.price.unit == "item" else 1
