"""What is held for a call before it runs, by a plain price or by the model that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from policies.access.authorization import check_feature, has_feature
from policies.model import FeatureValue, Plan, Refusal, Refused
from policies.pricing import prices
from policies.pricing.model_costs import cost, rounded_up
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList
from policies.pricing.units import PriceUnit
from policies.usage.counts import Usage

DEFAULT_MAX_OUTPUT = 4096  # output tokens that a request is taken to allow where nothing says more
HELD_BYTES_PER_TOKEN = 3  # of a request; less than any tokenizer's average, so that a hold is rarely too small


class Quote(NamedTuple):
    """The credits that a call holds, the balance that it needs, and the price that it keeps whatever changes meanwhile.

    `units` are those that its request counts, `items` what its record keeps as product_count. `model` is the one that
    it asks for, `model_price` the price of that; both None for a plain price. `body_bytes` is the size of its body
    without a content coding. `is_cut` says that the hold is the most that the plan lets a call cost, and not its price,
    `is_retrieval` that what the response reports was charged when it was made.
    """

    hold: int
    required: int
    units: int | None = None
    items: int = 1
    model: str | None = None
    model_price: ModelPrice | None = None
    body_bytes: int = 0
    is_cut: bool = False
    is_retrieval: bool = False


class ModelRequest(NamedTuple):
    """What a request asks of an AI API: `answers` of at most `max_output` tokens each, None for no limit of its own.

    A free one is a protocol message, a retrieval asks for no work. `alternatives` may answer in place of the model.
    """

    model: str | None
    max_output: int | None
    body_bytes: int
    is_free: bool = False
    answers: int = 1
    alternatives: tuple[str, ...] = ()
    is_retrieval: bool = False


def quote_plain(price: Price, plan: Plan | None = None, *, units: int | None = None) -> Quote:
    """The quote of a call with a plain price; `units` are those of its request where the price counts them there.

    Raises Refused if they are more items than the plan allows in a call.
    """
    hold = prices.hold(price, units)
    required = required_balance(hold, is_free=price.is_free)
    if units is None or price.unit is not PriceUnit.ITEM:
        return Quote(hold, required, units)
    prices.check_batch(units, None if plan is None else plan.max_products_per_batch)
    return Quote(hold, required, units, items=units)


def quote_by_list(
    listed: PriceList, plan: Plan, asked: ModelRequest, *, offered: Mapping[str, Mapping[str, FeatureValue]]
) -> Quote:
    """The quote of a call to a model. Raises Refused for one that is not offered, or not in the plan, and for
    alternatives that cost something else: which model answers is known when it has.
    """
    if asked.is_free:
        return Quote(0, 0)
    price = _price_of(listed, asked.model)
    if any(_price_of(listed, name) != price for name in asked.alternatives):
        raise Refused(Refusal.INVALID_BODY, "The request asks for models of several prices; ask for one.")
    if price.feature is not None:
        check_feature(price.feature, plan, offered=offered)
    if asked.is_retrieval and listed.unit is not PriceUnit.CALL:
        return Quote(0, 0, is_retrieval=True)
    hold = estimated_hold(listed, price, plan, asked)
    required = required_balance(hold, is_free=listed.is_free)
    return Quote(hold, required, model=asked.model, model_price=price, body_bytes=asked.body_bytes)


def within_plan(quote: Quote, maximum: int) -> Quote:
    """The quote of a call that its plan lets cost so many credits at most."""
    if quote.hold <= maximum:
        return quote
    return quote._replace(hold=maximum, required=min(quote.required, maximum), is_cut=True)


def models_in_plan(listed: PriceList, plan: Plan) -> tuple[str, ...]:
    """The models that a plan may use, by exact name: what a pattern stands for is listed nowhere."""
    return tuple(name for name in listed.models if not name.endswith("*") and is_in_plan(listed, plan, name))


def is_in_plan(listed: PriceList, plan: Plan, model: str) -> bool:
    """Whether a model is offered, and in the plan."""
    price = listed.find(model)
    return price is not None and (price.feature is None or has_feature(plan.features.get(price.feature)))


def required_balance(hold: int, *, is_free: bool) -> int:
    """The balance a call needs. A priced call needs a positive one even if it holds nothing, a free call none."""
    return 0 if is_free else max(hold, 1)


def _price_of(listed: PriceList, model: str | None) -> ModelPrice:
    """The price of a model; raises Refused for one that is not offered."""
    found = listed.find(model)
    if found is None:
        asked = "The request names no model" if model is None else f"The model {model[:100]!r} is not offered here"
        raise Refused(Refusal.MODEL_NOT_OFFERED, f"{asked}.", model=model, models=sorted(listed.models))
    return found


def estimated_hold(prices: PriceList, price: ModelPrice, plan: Plan, asked: ModelRequest) -> int:
    """Credits to hold for a call: the list's own number, else an estimate of the request.

    That is the body's bytes / 3 at the dearest input class, and the output that the request allows at the output rate.
    """
    if prices.hold is not None:
        return prices.hold if prices.maximum is None else min(prices.hold, prices.maximum)
    if prices.unit is not PriceUnit.TOKEN:
        return cost(prices, price, Usage()).credits
    input_count = -(-asked.body_bytes // HELD_BYTES_PER_TOKEN)
    table = price.table_at(input_count) if price.above else price.table
    amount = table.held_input * input_count + table.output.scaled * _allowed_output(price, plan, asked)
    credits = rounded_up(prices, amount, table.scale)
    return credits if prices.maximum is None else min(credits, prices.maximum)


def _allowed_output(price: ModelPrice, plan: Plan, asked: ModelRequest) -> int:
    """How much output a request allows in all answers: by itself, else by its plan, its model, or the default."""
    of_plan = plan.features.get("max_output_tokens")
    if asked.max_output is not None:
        each = asked.max_output
    elif isinstance(of_plan, int) and not isinstance(of_plan, bool):
        each = of_plan
    else:
        each = DEFAULT_MAX_OUTPUT if price.max_output is None else price.max_output
    return each * asked.answers
