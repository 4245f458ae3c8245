"""What a call is charged in the end depends on how it ended, and on what is known of its usage."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest

from policies.model import Outcome, Route
from policies.pricing.charges import (
    Charge,
    Ending,
    Metered,
    bounded,
    charge,
    charge_by_list,
    charge_fixed,
    charge_free,
    charged_statuses,
)
from policies.pricing.model_costs import Flag
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import Usage, UsageClass, UsageSource

ONE = Decimal(1)
O = Outcome  # noqa: E741 - the tables below are read by column


def _route(price: Price, *charge_on: str) -> Route:
    route = Route("r", "/r", frozenset({"POST"}), "u", "analysis", price)
    return replace(route, charge_on=frozenset(charge_on)) if charge_on else route


@pytest.mark.parametrize(
    ("charge_on", "status", "is_charged"),
    [
        ((), 200, True),
        ((), 204, True),
        ((), 304, False),
        (("304",), 304, True),
        ((), 199, False),
        ((), 404, False),
        ((), 500, False),
        (("2xx",), 301, False),
        (("2xx", "404"), 404, True),
        (("2xx", "404"), 403, False),
        (("4xx",), 200, False),
    ],
)
def test_charged_status_counts_by_its_class_or_itself(
    charge_on: tuple[str, ...], status: int, is_charged: bool
) -> None:
    assert (status in charged_statuses(_route(Price(ONE), *charge_on).charge_on)) is is_charged


HELD, UNITS, REPORTED = 9, 4, 33
UNCHARGED = (O.UPSTREAM_UNREACHABLE, O.UPSTREAM_TIMEOUT, O.UPSTREAM_INVALID, O.ABANDONED)
PRICES = {
    "call": Price(ONE),
    "item": Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST),
    "token": Price(ONE, PriceUnit.TOKEN, hold=HELD),
    "minute": Price(ONE, PriceUnit.MINUTE, hold=HELD),
}


def _expected(outcome: Outcome, unit: str, *, status: int | None, units: int | None, reported: int | None) -> int:
    """The table of the contract, under "Accounting"."""
    if outcome in UNCHARGED:
        return 0
    if reported is not None:
        return reported
    counted = HELD if unit in ("call", "item") or units is None else UNITS
    if status == 200:
        return counted
    return HELD if outcome is O.CLIENT_ABORTED and status is None else 0


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("unit", PRICES)
def test_charge_of_a_plain_price_is_that_of_the_table(outcome: Outcome, unit: str) -> None:
    route = _route(PRICES[unit])
    for status, units, reported in itertools.product((None, 200, 404, 500), (None, UNITS), (None, 0, REPORTED)):
        ending = Ending(outcome, status, reported)
        charged = charge(route, PRICES[unit], ending, held=HELD, units=units).credits
        expected = _expected(outcome, unit, status=status, units=units, reported=reported)
        assert charged == expected, (status, units, reported)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("unit", [unit for unit, price in PRICES.items() if price.is_fixed])
def test_charge_of_a_fixed_price_is_that_of_a_plain_one(outcome: Outcome, unit: str) -> None:
    route = _route(PRICES[unit])
    for status, reported, was_sent in itertools.product((None, 101, 200, 404, 500), (None, 0, REPORTED), (True, False)):
        expected = charge(route, PRICES[unit], Ending(outcome, status, reported, was_sent), held=HELD, units=None)
        found = charge_fixed(
            route, PRICES[unit], outcome, status, held=HELD, reported_credits=reported, was_sent=was_sent
        )
        assert found == expected, (status, reported, was_sent)


def test_price_is_fixed_where_no_response_changes_it() -> None:
    assert [unit for unit, price in PRICES.items() if price.is_fixed] == ["call", "item"]
    assert not Price(ONE, error_pointer="/error").is_fixed


@pytest.mark.parametrize("outcome", Outcome)
def test_charge_is_nothing_for_a_request_that_the_upstream_never_had_whole(outcome: Outcome) -> None:
    price = Price(ONE)
    assert not charge(_route(price), price, Ending(outcome, None, was_sent=False), held=HELD, units=None).credits


def test_charge_includes_a_switch_of_protocols_whatever_the_statuses() -> None:
    assert 101 in charged_statuses(frozenset({"404"}))


def test_charge_follows_the_response_where_the_last_byte_of_the_upload_is_held_back() -> None:
    price = Price(ONE)
    assert charge(_route(price), price, Ending(O.CLIENT_ABORTED, 200, was_sent=False), held=9, units=None).credits == 9


def test_charge_above_the_maximum_is_cut_and_flagged() -> None:
    price = Price(ONE, PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/n",), maximum=100)
    for units, flags in ((100, ()), (101, (Flag.MAXIMUM_REACHED,)), (10**12 - 1, (Flag.MAXIMUM_REACHED,))):
        found = charge(_route(price), price, Ending(O.SUCCEEDED, 200), held=9, units=units)
        assert (found.credits, found.flags) == (min(units, 100), flags)


def test_charge_says_that_usage_is_missing_only_where_the_price_asks_for_it() -> None:
    tokens = Price(ONE, PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/n",), hold=9)
    sources = {
        tokens: UsageSource.MISSING,
        Price(ONE): UsageSource.NONE,
        Price(ONE, PriceUnit.MINUTE): UsageSource.NONE,
    }
    for price, source in sources.items():
        assert charge(_route(price), price, Ending(O.SUCCEEDED, 200), held=9, units=None).source is source
    assert charge(_route(tokens), tokens, Ending(O.SUCCEEDED, 200), held=9, units=5).source is UsageSource.REPORTED


@pytest.mark.parametrize("outcome", [O.UPSTREAM_INVALID, O.UPSTREAM_TIMEOUT, O.ABANDONED])
def test_charge_of_a_broken_call_is_what_was_reported_where_the_route_says_so(outcome: Outcome) -> None:
    price = Price(ONE, PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/n",), hold=9)
    route = replace(_route(price), charge_broken=True)
    expected = 0 if outcome is O.ABANDONED else 5
    assert charge(route, price, Ending(outcome, 200), held=9, units=5).credits == expected
    assert charge(route, price, Ending(outcome, 200), held=9, units=None).credits == 0
    assert charge_by_list(
        replace(ROUTE, charge_broken=True), LIST, MODEL, Ending(outcome, 200), held=HELD, metered=FULL
    ).credits == (0 if outcome is O.ABANDONED else 130)


ROUTE = _route(Price(ONE))
MODEL = ModelPrice({UsageClass.INPUT: ONE, UsageClass.OUTPUT: Decimal(3)})
LIST = PriceList("l", ReaderName.OPENAI, {"m": MODEL})
FULL = Metered(Usage({UsageClass.INPUT: 100, UsageClass.OUTPUT: 10}), request_bytes=4000, text_bytes=400)
INPUT_ONLY = Metered(Usage({UsageClass.INPUT: 100}), request_bytes=4000, text_bytes=400)
NOTHING = Metered(None, request_bytes=4000, text_bytes=400)
BEGUN = Metered(Usage({UsageClass.INPUT: 100, UsageClass.OUTPUT: 1}), 4000, text_bytes=400, is_final=False)
R, E, M = UsageSource.REPORTED, UsageSource.ESTIMATED, UsageSource.MISSING


@pytest.mark.parametrize(
    ("ending", "metered", "credits", "source"),
    [
        (Ending(O.SUCCEEDED, 200), FULL, 130, R),
        (Ending(O.SUCCEEDED, 200), INPUT_ONLY, 400, E),
        (Ending(O.SUCCEEDED, 200), NOTHING, 1300, E),
        (Ending(O.SUCCEEDED, 200, reported_credits=0), NOTHING, 0, M),
        (Ending(O.SUCCEEDED, 200, reported_credits=7), FULL, 7, R),
        (Ending(O.UPSTREAM_ERROR, 500), NOTHING, 0, M),
        (Ending(O.UPSTREAM_ERROR, 200, is_error=True), NOTHING, 0, M),
        (Ending(O.UPSTREAM_ERROR, 200, is_error=True), FULL, 130, R),
        (Ending(O.UPSTREAM_ERROR, 400, reported_credits=5, is_error=True), NOTHING, 5, M),
        (Ending(O.UPSTREAM_INVALID, None, reported_credits=5), NOTHING, 0, M),
        (Ending(O.CLIENT_ABORTED, 200), BEGUN, 100 + 300, E),
        (Ending(O.CLIENT_ABORTED, 200), FULL, 130, R),
        (Ending(O.CLIENT_ABORTED, 200), INPUT_ONLY, 400, E),
        (Ending(O.CLIENT_ABORTED, 200), NOTHING, 1300, E),
        (Ending(O.CLIENT_ABORTED, 200, was_sent=False), FULL, 130, R),
        (Ending(O.CLIENT_ABORTED, None), NOTHING, 1300, E),
        (Ending(O.CLIENT_ABORTED, None, was_sent=False), NOTHING, 0, M),
        (Ending(O.UPSTREAM_INVALID, 200), FULL, 0, R),
        (Ending(O.ABANDONED, None), NOTHING, 0, M),
    ],
)
def test_charge_by_list_is_what_was_reported_else_an_estimate(
    ending: Ending, metered: Metered, credits: int, source: UsageSource
) -> None:
    found = charge_by_list(ROUTE, LIST, MODEL, ending, held=HELD, metered=metered)
    assert (found.credits, found.source) == (credits, source)


def test_charge_of_an_error_is_what_the_upstream_asks_for_it() -> None:
    price = Price(ONE, error_pointer="/error")
    ending = Ending(O.UPSTREAM_ERROR, 200, reported_credits=3, is_error=True)
    assert charge(_route(price), price, ending, held=HELD, units=None).credits == 3
    assert (
        charge(_route(price), price, Ending(O.UPSTREAM_ERROR, 200, is_error=True), held=HELD, units=None).credits == 0
    )


def test_charge_by_list_of_tool_calls_asks_for_no_usage() -> None:
    tools = PriceList("t", ReaderName.MCP, {}, unit=PriceUnit.CALL)
    found = charge_by_list(
        ROUTE, tools, ModelPrice({UsageClass.INPUT: ONE}), Ending(O.SUCCEEDED, 200), held=1, metered=NOTHING
    )
    assert (found.credits, found.source) == (1, UsageSource.NONE)


def test_charge_by_list_of_a_tool_that_failed_is_nothing() -> None:
    tools, price = PriceList("t", ReaderName.MCP, {}, unit=PriceUnit.CALL), ModelPrice({UsageClass.INPUT: ONE})
    failed = Ending(O.UPSTREAM_ERROR, 200, is_error=True)
    metered = Metered(Usage(), request_bytes=40, text_bytes=0)
    assert charge_by_list(ROUTE, tools, price, failed, held=1, metered=metered).credits == 0


@pytest.mark.parametrize(
    ("usage", "credits", "source"),
    [(Usage(seconds=Decimal("2.5")), 25, R), (Usage({UsageClass.INPUT: 9}), HELD, M), (None, HELD, M)],
)
def test_charge_by_list_of_seconds_that_are_missing_is_the_hold(
    usage: Usage | None, credits: int, source: UsageSource
) -> None:
    seconds = PriceList("s", ReaderName.OPENAI, {}, unit=PriceUnit.SECOND, hold=HELD)
    price, metered = ModelPrice({UsageClass.INPUT: Decimal(10)}), Metered(usage, 4000, text_bytes=0)
    found = charge_by_list(ROUTE, seconds, price, Ending(O.SUCCEEDED, 200), held=HELD, metered=metered)
    assert (found.credits, found.source) == (credits, source)


@pytest.mark.parametrize(("credits", "flags"), [(0, ()), (20, ()), (100, (Flag.PLAN_MAXIMUM_REACHED,))])
def test_charge_below_the_ceiling_of_a_plan_is_not_flagged_although_its_hold_was_cut(
    credits: int, flags: tuple[Flag, ...]
) -> None:
    assert bounded(Charge(credits), 100, is_cut=True) == Charge(credits, flags=flags)


def test_charge_of_a_fixed_price_that_the_upstream_asks_for_is_cut_and_flagged() -> None:
    price = Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/p",), maximum=100)
    found = charge_fixed(_route(price), price, O.SUCCEEDED, 200, held=3, reported_credits=500, was_sent=True)
    assert (found.credits, found.flags) == (100, (Flag.MAXIMUM_REACHED,))
    assert found == charge(_route(price), price, Ending(O.SUCCEEDED, 200, 500), held=3, units=None)


@pytest.mark.parametrize(("units", "flags"), [(100, ()), (101, (Flag.MAXIMUM_REACHED,))])
def test_charge_of_what_the_request_counts_is_flagged_above_the_maximum(units: int, flags: tuple[Flag, ...]) -> None:
    fixed = Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/p",), maximum=100)
    for price in (fixed, replace(fixed, error_pointer="/error")):
        found = charge(_route(price), price, Ending(O.SUCCEEDED, 200), held=100, units=None, asked_units=units)
        assert (found.credits, found.flags) == (100, flags)
    fixed_charge = partial(charge_fixed, _route(fixed), fixed, held=100, reported_credits=None, was_sent=True)
    assert fixed_charge(O.SUCCEEDED, 200, asked_units=units).flags == flags
    assert fixed_charge(O.CLIENT_ABORTED, None, asked_units=units).flags == flags


@pytest.mark.parametrize(("units", "is_complete", "credits"), [(3, True, 3), (3, False, 9), (12, False, 12)])
def test_charge_of_a_client_that_left_is_the_larger_of_the_hold_and_what_was_reported(
    units: int, is_complete: bool, credits: int
) -> None:
    price = Price(ONE, PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/n",), hold=9)
    ending = Ending(O.CLIENT_ABORTED, 200, is_complete=is_complete)
    assert charge(_route(price), price, ending, held=9, units=units).credits == credits


@pytest.mark.parametrize("status", [400, 429, 500, 502])
def test_charge_of_an_error_by_its_status_is_nothing_although_it_reports_usage(status: int) -> None:
    ending = Ending(O.UPSTREAM_ERROR, status, is_error=True)
    assert charge_by_list(ROUTE, LIST, MODEL, ending, held=HELD, metered=FULL).credits == 0
    price = Price(ONE, PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/n",), error_pointer="/error")
    assert charge(_route(price), price, ending, held=HELD, units=4).credits == 0


def test_charge_by_the_cost_that_an_upstream_reports_says_whether_it_did() -> None:
    price = Price(Decimal(100), PriceUnit.USD, hold=5)
    missing = charge(_route(price), price, Ending(O.SUCCEEDED, 200), held=5, units=None)
    told = charge(_route(price), price, Ending(O.SUCCEEDED, 200), held=5, units=Decimal("0.1"))
    assert (missing.credits, missing.source, told.credits, told.source) == (5, M, 10, R)


@pytest.mark.parametrize(("is_charged", "credits"), [(True, 7), (False, 0)])
def test_charge_of_a_broken_call_is_what_the_upstream_asks_where_the_route_says_so(
    is_charged: bool, credits: int
) -> None:
    price = Price(ONE)
    route = replace(_route(price), charge_broken=is_charged)
    found = charge_fixed(route, price, O.UPSTREAM_INVALID, 200, held=9, reported_credits=7, was_sent=True)
    assert found.credits == credits
    assert charge(route, price, Ending(O.UPSTREAM_INVALID, 200, 7), held=9, units=None).credits == credits


@pytest.mark.parametrize(
    ("outcome", "reported", "credits", "flags"),
    [
        (O.SUCCEEDED, None, 0, ()),
        (O.SUCCEEDED, 7, 7, ()),
        (O.UPSTREAM_ERROR, 7, 7, ()),
        (O.SUCCEEDED, 900, 500, (Flag.MAXIMUM_REACHED,)),
        (O.UPSTREAM_INVALID, 7, 0, ()),
        (O.UPSTREAM_TIMEOUT, 7, 0, ()),
        (O.ABANDONED, 7, 0, ()),
    ],
)
def test_charge_of_a_protocol_message_is_what_the_upstream_asks_within_the_table(
    outcome: Outcome, reported: int | None, credits: int, flags: tuple[Flag, ...]
) -> None:
    found = charge_free(ROUTE, replace(LIST, maximum=500), Ending(outcome, 200, reported))
    assert (found.credits, found.flags) == (credits, flags)


def test_charge_of_an_error_above_the_maximum_is_flagged_too() -> None:
    ending = Ending(O.UPSTREAM_ERROR, 200, is_error=True)
    found = charge_by_list(ROUTE, replace(LIST, maximum=50), MODEL, ending, held=HELD, metered=FULL)
    assert (found.credits, found.flags) == (50, (Flag.MAXIMUM_REACHED,))
    counted = Price(ONE, PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/n",))
    price = replace(counted, maximum=3, error_pointer="/error")
    plain = charge(_route(price), price, ending, held=HELD, units=4)
    assert (plain.credits, plain.flags) == (3, (Flag.MAXIMUM_REACHED,))
