"""What a call with a plain price costs: the units of its request, the credits to hold, the credits of its units.

Prices round up to whole credits, once, at the end.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from policies.model import Refusal, Refused
from policies.pricing.json_pointer import ABSENT
from policies.pricing.price import Price
from policies.pricing.units import MAX_ITEMS, Count, PriceUnit
from policies.wording import counted


def units_in_request(price: Price, found: object) -> int:
    """How many units a request asks for, by the value at its pointer or ABSENT. Raises Refused for what counts none."""
    if found is ABSENT and price.default is not None:
        return price.default
    units = price.unit.counted(found)
    if isinstance(units, int) and units <= MAX_ITEMS:
        return units
    pointers = " or ".join(map(repr, price.pointers))
    there = "nothing" if found is ABSENT else "something else"
    raise Refused(
        Refusal.INVALID_BODY,
        f"The body must be JSON with {_COUNTABLE[price.unit]} at {pointers}; there is {there}.",
        pointer=price.pointers[0],
    )


_ITEMS = f"an array or a whole number up to {MAX_ITEMS}"
_COUNTABLE = dict.fromkeys(PriceUnit, _ITEMS) | {PriceUnit.CHARACTER: f"a string or {_ITEMS}"}


def check_batch(items: Count, max_items: int | None) -> None:
    """Raises Refused if a batch holds more items than the plan allows."""
    if max_items is not None and items > max_items:
        raise Refused(
            Refusal.BATCH_TOO_LARGE,
            f"The plan allows {counted(max_items, 'item')} in a call; this one has {items}.",
            max_items=max_items,
            items=items,
        )


def cost(price: Price, units: Count) -> int:
    """Whole credits for so many units, within the minimum and the maximum of the price."""
    credits = uncapped_cost(price, units)
    return credits if price.maximum is None else min(credits, price.maximum)


def uncapped_cost(price: Price, units: Count) -> int:
    exact = price.credits * units / Decimal(price.unit_size)
    return max(price.minimum, int(exact.to_integral_value(ROUND_CEILING)))


def hold(price: Price, units: Count | None) -> int:
    """Credits to hold before the call: the whole price where it is known, else the route's `hold`."""
    if price.unit is PriceUnit.CALL:
        return cost(price, 1)
    if price.is_counted_in_request:
        return cost(price, units or 0)
    if price.hold is not None:
        return price.hold if price.maximum is None else min(price.hold, price.maximum)
    return cost(price, price.unit_size)


def explain(price: Price, units: Count) -> str:
    """How `cost` came to its credits, for the one who pays: `2 credits per 1000 tokens x 1500 tokens`."""
    per_call = counted(price.credits, "credit")
    if price.unit is PriceUnit.CALL:
        return f"{per_call} per call"
    size = price.unit if price.unit_size == 1 else price.unit.phrase(price.unit_size)
    minimum = f", at least {price.minimum}" if price.minimum else ""
    maximum = "" if price.maximum is None else f", at most {price.maximum}"
    return f"{per_call} per {size} x {price.unit.phrase(units)}{minimum}{maximum}"
