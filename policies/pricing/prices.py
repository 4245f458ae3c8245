"""What a call costs: credits to hold before it, credits to charge after it.

Prices round up to whole credits, once, at the end.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from typing import Any

from policies.model import Outcome, Price, Refusal, Refused, Route

# A record keeps the items of a call in four bytes; no bill has more tokens than twelve digits hold.
MAX_ITEMS = 2**31 - 1
MAX_UNITS = 10**12 - 1

_ABSENT = object()
_INDEX = re.compile("0|[1-9][0-9]*")  # RFC 6901, section 4: ASCII digits without leading zeros


def is_free(price: Price) -> bool:
    """A free route is limited and recorded, and open to an account without credits."""
    return not price.minimum and not price.credits


def units_in_request(price: Price, body: Any) -> int:
    """How many items a parsed request body asks for; an array counts its length, a number itself."""
    value = resolve(body, price.pointer or "")
    if isinstance(value, list):
        return len(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ITEMS:
        return value
    found = "nothing" if value is _ABSENT else type(value).__name__
    raise Refused(
        Refusal.INVALID_BODY,
        f"The body must be JSON with an array or a whole number up to {MAX_ITEMS} at {price.pointer!r}; found {found}.",
        pointer=price.pointer,
    )


def units_in_response(price: Price, body: Any) -> int | None:
    """How many units a parsed response reports, or None if it does not say, or says what no bill can be made of."""
    value = resolve(body, price.pointer or "")
    if isinstance(value, list):
        return len(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_UNITS:
        return value
    return None


def check_batch(items: int, max_items: int | None) -> None:
    """Raises Refused if a batch holds more items than the plan allows."""
    if max_items is not None and items > max_items:
        raise Refused(
            Refusal.BATCH_TOO_LARGE,
            f"The plan allows {max_items} items in a call; this one has {items}.",
            max_items=max_items,
            items=items,
        )


def cost(price: Price, units: int) -> int:
    """Whole credits for `units` calls, items, tokens or minutes."""
    exact = price.credits * Decimal(units) / Decimal(price.unit_size)
    return max(price.minimum, int(exact.to_integral_value(ROUND_CEILING)))


def hold(price: Price, items: int | None) -> int:
    """Credits to set aside before the call: the whole price where it is known, else the route's `hold`."""
    if price.unit == "call":
        return cost(price, 1)
    if price.unit == "item":
        return cost(price, items or 0)
    if price.hold is not None:
        return price.hold
    return cost(price, price.unit_size)


def explain(price: Price, units: int) -> str:
    """How `cost` came to its credits, for the one who pays: `2 credits per 1000 tokens x 1500 tokens`."""
    per_call = f"{price.credits.normalize():f} {'credit' if price.credits == 1 else 'credits'}"
    if price.unit == "call":
        return f"{per_call} per call"
    size = price.unit if price.unit_size == 1 else f"{price.unit_size} {price.unit}s"
    counted = f"{units} {price.unit}" if units == 1 else f"{units} {price.unit}s"
    minimum = f", at least {price.minimum}" if price.minimum else ""
    return f"{per_call} per {size} x {counted}{minimum}"


def started_minutes(seconds: float) -> int:
    """Minutes that a call of that length is charged: each that it began, and it began one."""
    return max(1, ceil(seconds / 60))


def required(price: Price, held: int) -> int:
    """The balance a call needs. A priced call needs a positive one even if it holds nothing, a free call none."""
    return 0 if is_free(price) else max(held, 1)


def charge(
    route: Route,
    *,
    outcome: Outcome,
    status: int | None,
    held: int,
    units: int | None,
    reported_credits: int | None,
    was_sent: bool = True,
) -> int:
    """Credits that a call is charged in the end.

    `reported_credits` is what the upstream itself asked for (Gateway-Credits); it outranks the price on any complete
    response. A client that left pays what its call cost, or the hold where that could not be learned (`status` None),
    and nothing if the upstream never had the whole request (`was_sent` False).
    """
    if outcome in _UNCHARGED:
        return 0
    if reported_credits is not None:
        return reported_credits
    if outcome is Outcome.CLIENT_ABORTED and not was_sent:
        return 0
    if status is None:
        return held if outcome is Outcome.CLIENT_ABORTED else 0
    if not is_charged_status(route, status):
        return 0
    if route.price.unit in ("call", "item"):
        return held
    return held if units is None else cost(route.price, units)


_UNCHARGED = frozenset(
    {
        Outcome.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_TIMEOUT,
        Outcome.UPSTREAM_INVALID,
        Outcome.ABANDONED,
    }
)


def is_charged_status(route: Route, status: int) -> bool:
    """Whether an upstream status counts as a delivered call: its class (`2xx`) or itself (`404`) in `charge_on`.

    A switch of protocols does anyhow: it is passed on only where it was asked for.
    """
    return status in _charged_statuses(route.charge_on)


@lru_cache(maxsize=1024)
def _charged_statuses(charge_on: frozenset[str]) -> AbstractSet[int]:
    listed = {status for status in range(100, 600) if f"{status // 100}xx" in charge_on or str(status) in charge_on}
    return listed | {int(HTTPStatus.SWITCHING_PROTOCOLS)}


def resolve(document: Any, pointer: str) -> Any:
    """The value at a JSON Pointer (RFC 6901), or a private marker where there is none."""
    value = document
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return _ABSENT
    return value
