"""What a call is charged in the end: by how it ended, what it used, and what the upstream asked for it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from policies.model import Outcome, Route
from policies.pricing.model_costs import Flag, completed, is_reported
from policies.pricing.model_costs import cost as cost_by_model
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList
from policies.pricing.prices import cost, uncapped_cost
from policies.pricing.units import Count, PriceUnit
from policies.usage.counts import Usage, UsageClass, UsageSource

# A look-up in an Enum takes 50 ns.
_TOKEN, _REPORTED, _ESTIMATED = PriceUnit.TOKEN, UsageSource.REPORTED, UsageSource.ESTIMATED
_INPUT, _OUTPUT = UsageClass.INPUT, UsageClass.OUTPUT

# Redis computes in doubles, and balances have 64 bits: no number of calls that anybody can make overflows either.
MAX_CHARGE = 10**12


class Ending(NamedTuple):
    """How a call ended. `status` None is no response head; `reported_credits` is the upstream's Gateway-Credits.

    `was_sent` says that the upstream had the whole request, `is_error` that its response is an error object,
    `is_complete` that what was counted in its response is all of it.
    """

    outcome: Outcome
    status: int | None
    reported_credits: int | None = None
    was_sent: bool = True
    is_error: bool = False
    is_complete: bool = True


class Metered(NamedTuple):
    """What was read of a call by a reader: the usage, as far as it was reported, and the bytes an estimate needs.

    `is_final` says that the response is complete, so that what it reported is the whole.
    """

    usage: Usage | None
    request_bytes: int
    text_bytes: int
    is_final: bool = True


class Charge(NamedTuple):
    """What a call is charged, the usage that it is charged for, and how that is known."""

    credits: int
    source: UsageSource = UsageSource.NONE
    usage: Usage | None = None
    flags: tuple[Flag, ...] = ()


def charge(
    route: Route, price: Price, ending: Ending, *, held: int, units: Count | None, asked_units: int | None = None
) -> Charge:
    """The charge of a call with a plain price; `asked_units` are those that its request counts.

    A client that left pays what its call cost, or at least the hold where that could not be learned, and nothing if the
    upstream neither had the whole request nor began to answer.
    """
    source = _source(price, units)
    is_broken = ending.outcome in _UNCHARGED
    if ending.reported_credits is not None and (not is_broken or _is_failure_charged(route, ending)):
        return _reported(ending.reported_credits, price.maximum, source)
    if is_broken or ending.is_error:
        is_charged = _is_measured(price) and _is_failure_charged(route, ending)
        return _of_units(price, units, source) if is_charged and units is not None else Charge(0, source)
    if not _is_due(route, ending):
        return Charge(0, source)
    if price.is_known_at_admission:
        return _of_request(price, held, asked_units)
    if units is None or ending.status is None:
        return Charge(held, source)
    found = _of_units(price, units, source)
    if ending.outcome is Outcome.CLIENT_ABORTED and not ending.is_complete and found.credits < held:
        return Charge(held, UsageSource.MISSING)
    return found


def _of_units(price: Price, units: Count, source: UsageSource) -> Charge:
    credits = cost(price, units)
    return Charge(credits, source, flags=() if credits == uncapped_cost(price, units) else (Flag.MAXIMUM_REACHED,))


def charge_fixed(
    route: Route,
    price: Price,
    outcome: Outcome,
    status: int | None,
    *,
    held: int,
    reported_credits: int | None,
    was_sent: bool,
    asked_units: int | None = None,
) -> Charge:
    """As `charge`, of a call with a fixed price, of which there are most: the hold, or nothing."""
    is_asked = reported_credits is not None and route.charge_broken and outcome is not Outcome.ABANDONED
    if outcome in _UNCHARGED and not is_asked:
        return UNCHARGED
    if reported_credits is not None:
        return _reported(reported_credits, price.maximum, UsageSource.NONE)
    if status is None:
        is_due = outcome is Outcome.CLIENT_ABORTED and was_sent
    else:
        is_due = status in charged_statuses(route.charge_on)
    if not is_due:
        return UNCHARGED
    return _plain(held) if price.maximum is None else _of_request(price, held, asked_units)


def _of_request(price: Price, held: int, units: int | None) -> Charge:
    """The hold, which is the price of what the request asks for, flagged where the maximum of the price cuts it."""
    if price.maximum is not None and uncapped_cost(price, 1 if units is None else units) > price.maximum:
        return Charge(held, flags=(Flag.MAXIMUM_REACHED,))
    return _plain(held)


_plain = lru_cache(maxsize=1024)(Charge)  # most calls are charged one of few prices


def charge_by_list(
    route: Route, prices: PriceList, price: ModelPrice, ending: Ending, *, held: int, metered: Metered
) -> Charge:
    """The charge of a call that a reader measures.

    Tokens that were not reported are estimated from bytes; of seconds and dollars nothing is known then but the hold.
    A failed call pays for what was reported of it, and where the call is the unit nothing is.
    """
    usage, is_broken = metered.usage, ending.outcome in _UNCHARGED
    source = _source_by_list(prices, usage)
    if ending.reported_credits is not None and (not is_broken or _is_failure_charged(route, ending)):
        return _reported(ending.reported_credits, prices.maximum, source, usage)
    if is_broken or ending.is_error:
        if usage is None or prices.unit is PriceUnit.CALL or not _is_failure_charged(route, ending):
            return Charge(0, source, usage)
        failed = cost_by_model(prices, price, usage)
        return Charge(failed.credits, source, usage, failed.flags)
    if not _is_due(route, ending):
        return Charge(0, source, usage)
    if prices.unit is _TOKEN:
        return charge_tokens(
            prices, price, usage, metered.request_bytes, text_bytes=metered.text_bytes, is_final=metered.is_final
        )
    if not is_reported(prices.unit, usage):
        return Charge(held, source, usage)
    found = cost_by_model(prices, price, usage or Usage())
    return Charge(found.credits, source, usage, found.flags)


def charge_free(route: Route, prices: PriceList, ending: Ending) -> Charge:
    """The charge of a message of the protocol: nothing, unless the upstream asks for it."""
    is_broken = ending.outcome in _UNCHARGED
    if ending.reported_credits is None or (is_broken and not _is_failure_charged(route, ending)):
        return UNCHARGED
    return _reported(ending.reported_credits, prices.maximum, UsageSource.NONE)


def charge_tokens(
    prices: PriceList, price: ModelPrice, usage: Usage | None, request_bytes: int, *, text_bytes: int, is_final: bool
) -> Charge:
    """As `charge_by_list`, of a call that is charged by its tokens, as most are."""
    source = _REPORTED
    if usage is None or not is_final or _INPUT not in usage.counts or _OUTPUT not in usage.counts:
        usage, is_estimated = completed(usage, request_bytes=request_bytes, text_bytes=text_bytes, is_final=is_final)
        source = _ESTIMATED if is_estimated else _REPORTED
    found = cost_by_model(prices, price, usage)
    return Charge(found.credits, source, usage, found.flags)


def bounded(charge: Charge, maximum: int | None, *, is_cut: bool) -> Charge:
    """The charge of a call that its plan lets cost `maximum` credits at most; `is_cut` if its hold was cut to them.

    A hold that was cut is an estimate, unless it is what the call is charged.
    """
    if maximum is not None and (charge.credits > maximum or (is_cut and charge.credits == maximum)):
        return charge._replace(credits=min(charge.credits, maximum), flags=(*charge.flags, Flag.PLAN_MAXIMUM_REACHED))
    if charge.credits > MAX_CHARGE:
        return charge._replace(credits=MAX_CHARGE, flags=(*charge.flags, Flag.MAXIMUM_REACHED))
    return charge


def _reported(credits: int, maximum: int | None, source: UsageSource, usage: Usage | None = None) -> Charge:
    """The charge that the upstream asked for itself, up to the most that the price allows."""
    if maximum is not None and credits > maximum:
        return Charge(maximum, source, usage, (Flag.MAXIMUM_REACHED,))
    return Charge(credits, source, usage)


UNCHARGED = Charge(0)

_UNCHARGED = frozenset(
    {
        Outcome.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_TIMEOUT,
        Outcome.UPSTREAM_INVALID,
        Outcome.ABANDONED,
    }
)


def _is_failure_charged(route: Route, ending: Ending) -> bool:
    """Whether a failed call is charged what was reported of it.

    An error object is if its status is charged, a broken call by its route.
    """
    if ending.outcome in _UNCHARGED:
        return route.charge_broken and ending.outcome is not Outcome.ABANDONED
    return ending.is_error and _is_due(route, ending)


def _is_due(route: Route, ending: Ending) -> bool:
    status = ending.status
    if status is None:
        return ending.outcome is Outcome.CLIENT_ABORTED and ending.was_sent
    return status in charged_statuses(route.charge_on)


def _source(price: Price, units: Count | None) -> UsageSource:
    if not _is_measured(price):
        return UsageSource.NONE
    return UsageSource.MISSING if units is None else UsageSource.REPORTED


def _is_measured(price: Price) -> bool:
    """Whether the upstream tells the units, in its body or in Gateway-Cost-Usd."""
    return not price.is_known_at_admission and (price.source is not None or price.unit.seconds is None)


def _source_by_list(prices: PriceList, usage: Usage | None) -> UsageSource:
    if prices.unit is PriceUnit.CALL:
        return UsageSource.NONE
    is_known = usage is not None and is_reported(prices.unit, usage)
    return UsageSource.REPORTED if is_known else UsageSource.MISSING


@lru_cache(maxsize=1024)
def charged_statuses(charge_on: frozenset[str]) -> AbstractSet[int]:
    """The statuses of an upstream that count as a delivered call: their class (`2xx`) or they (`404`) in `charge_on`.

    A switch of protocols does anyhow: it is passed on only where it was asked for.
    """
    listed = {status for status in range(100, 600) if f"{status // 100}xx" in charge_on or str(status) in charge_on}
    return listed | {int(HTTPStatus.SWITCHING_PROTOCOLS)}
