"""What a call is charged in the end: by how it ended, what it used, and what the upstream asked for it."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from policies.model import Outcome, Route
from policies.pricing.model_costs import Flag, completed
from policies.pricing.model_costs import cost as cost_by_model
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList
from policies.pricing.prices import cost, uncapped_cost
from policies.pricing.units import Count, CountSource
from policies.usage.counts import Usage


class UsageSource(StrEnum):
    """How the usage of a call is known."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    MISSING = "missing"
    NONE = "none"  # the price does not ask for any


class Ending(NamedTuple):
    """How a call ended. `status` None is no response head; `reported_credits` is the upstream's Gateway-Credits.

    `was_sent` says that the upstream had the whole request, `is_error` that its response is an error object.
    """

    outcome: Outcome
    status: int | None
    reported_credits: int | None = None
    was_sent: bool = True
    is_error: bool = False


class Metered(NamedTuple):
    """What was read of a call by a reader: the usage, as far as it was reported, and the bytes an estimate needs."""

    usage: Usage | None
    request_bytes: int
    text_bytes: int


class Charge(NamedTuple):
    """What a call is charged, the usage that it is charged for, and how that is known."""

    credits: int
    source: UsageSource = UsageSource.NONE
    usage: Usage | None = None
    flags: tuple[Flag, ...] = ()


def charge(route: Route, price: Price, ending: Ending, *, held: int, units: Count | None) -> Charge:
    """The charge of a call with a plain price.

    A client that left pays what its call cost, or the hold where that could not be learned, and nothing if the upstream
    neither had the whole request nor began to answer.
    """
    source = _source(price, units)
    if ending.outcome in _UNCHARGED or ending.is_error:
        is_charged = ending.is_error or _is_broken_charged(route, ending)
        is_reported = price.source is CountSource.RESPONSE and units is not None
        return Charge(cost(price, units or 0) if is_charged and is_reported else 0, source)
    if ending.reported_credits is not None:
        return Charge(ending.reported_credits, source)
    if not _is_due(route, ending):
        return Charge(0, source)
    if price.is_known_at_admission or units is None or ending.status is None:
        return Charge(held, source)
    credits = cost(price, units)
    return Charge(credits, source, flags=() if credits == uncapped_cost(price, units) else (Flag.MAXIMUM_REACHED,))


def charge_by_list(route: Route, prices: PriceList, price: ModelPrice, ending: Ending, metered: Metered) -> Charge:
    """The charge of a call that a reader measures. What was not reported is estimated from bytes."""
    reported = None if metered.usage is None else cost_by_model(prices, price, metered.usage)
    if ending.outcome in _UNCHARGED or ending.is_error:
        is_charged = reported is not None and (ending.is_error or _is_broken_charged(route, ending))
        credits = reported.credits if is_charged and reported is not None else 0
        return Charge(credits, _reported_or_missing(metered), metered.usage)
    if ending.reported_credits is not None:
        return Charge(ending.reported_credits, _reported_or_missing(metered), metered.usage)
    if not _is_due(route, ending):
        return Charge(0, _reported_or_missing(metered), metered.usage)
    usage, is_estimated = completed(metered.usage, request_bytes=metered.request_bytes, text_bytes=metered.text_bytes)
    found = cost_by_model(prices, price, usage)
    least = 0 if reported is None else reported.credits
    source = UsageSource.ESTIMATED if is_estimated else UsageSource.REPORTED
    return Charge(max(found.credits, least), source, usage, found.flags)


def describe(charge: Charge, *, model: str | None, model_served: str | None) -> str:
    """What a record keeps of a charge by usage, as a JSON object; `model_served` where it is another than `model`."""
    counts = {} if charge.usage is None else {str(kind): count for kind, count in charge.usage.counts.items()}
    members = {
        "usage_source": str(charge.source),
        "model": model,
        "model_served": model_served,
        "usage": counts,
        "flags": [str(flag) for flag in charge.flags],
    }
    return json.dumps({name: value for name, value in members.items() if value})


_UNCHARGED = frozenset(
    {
        Outcome.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_TIMEOUT,
        Outcome.UPSTREAM_INVALID,
        Outcome.ABANDONED,
    }
)


def _is_broken_charged(route: Route, ending: Ending) -> bool:
    """Whether a call that the upstream broke off is charged what was reported of it."""
    return route.charge_broken and ending.outcome is not Outcome.ABANDONED


def _is_due(route: Route, ending: Ending) -> bool:
    if ending.outcome is Outcome.CLIENT_ABORTED and ending.status is None:
        return ending.was_sent
    return ending.status is not None and is_charged_status(route, ending.status)


def _source(price: Price, units: Count | None) -> UsageSource:
    if price.is_known_at_admission or price.source is None:
        return UsageSource.NONE
    return UsageSource.MISSING if units is None else UsageSource.REPORTED


def _reported_or_missing(metered: Metered) -> UsageSource:
    return UsageSource.MISSING if metered.usage is None else UsageSource.REPORTED


def is_charged_status(route: Route, status: int) -> bool:
    """Whether an upstream status counts as a delivered call: its class (`2xx`) or itself (`404`) in `charge_on`.

    A switch of protocols does anyhow: it is passed on only where it was asked for.
    """
    return status in _charged_statuses(route.charge_on)


@lru_cache(maxsize=1024)
def _charged_statuses(charge_on: frozenset[str]) -> AbstractSet[int]:
    listed = {status for status in range(100, 600) if f"{status // 100}xx" in charge_on or str(status) in charge_on}
    return listed | {int(HTTPStatus.SWITCHING_PROTOCOLS)}
