"""How a call that was made came to its credits, in words and by class, for the one who paid."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, assert_never

from policies.model import Outcome, Route
from policies.pricing import model_costs
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.prices import cost, explain
from policies.pricing.units import Count, PriceUnit
from policies.usage.counts import Usage, UsageSource
from policies.wording import counted


class RecordedCall(NamedTuple):
    """What the record of a call keeps of its price.

    `usage` is empty where no reader measured it. `is_cut_by_plan` says that it cost more than its plan lets a
    call be charged.
    """

    outcome: Outcome
    credits_charged: int
    items: int
    tokens: int | None
    response_time_ms: int | None
    model: str | None = None
    usage: Usage = Usage()
    source: UsageSource | None = None
    is_cut_by_plan: bool = False

    def is_charge(self, cost: int) -> bool:
        """Whether a call of that cost is charged what this one was."""
        return cost > self.credits_charged if self.is_cut_by_plan else cost == self.credits_charged

    @property
    def bound(self) -> str:
        """The words for the most that its plan lets a call be charged, where that was reached."""
        return at_most_by_plan(self.credits_charged) if self.is_cut_by_plan else ""


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """A part of a charge: units of a kind at a price for `per` of them, or `kind` ADJUSTMENT, which has no units."""

    kind: str
    count: int | Decimal | None
    price: Decimal | None
    per: str | None
    credits: Decimal


# What rounding up to whole credits, a minimum or a maximum adds to the other lines.
ADJUSTMENT = "adjustment"


class Receipt(NamedTuple):
    """`lines` add up to the charge exactly; where there are none, `computed` says why."""

    computed: str
    lines: tuple[ReceiptLine, ...] = ()


def at_most_by_plan(credits: int) -> str:
    return f", at most {credits} by the plan"


def receipt(route: Route | None, call: RecordedCall) -> Receipt:
    """By the route's present price where that gives what was charged; else that something else did.

    `route` None is one that is no longer served.
    """
    if call.credits_charged == 0:
        is_free = call.outcome is Outcome.SUCCEEDED
        return Receipt("free" if is_free else f"nothing, the call ended as {call.outcome}")
    charged = counted(call.credits_charged, "credit")
    if route is None or route.price.is_free:
        return Receipt(f"{charged}, as recorded")
    price = route.price
    found = _by_list(price, call) if isinstance(price, PriceList) else _plain(price, call)
    if found is not None:
        return found
    if call.source is UsageSource.MISSING:
        return Receipt(f"{charged} that were held, because the usage of the call was not reported")
    if call.is_cut_by_plan:
        return Receipt(f"{charged}, the most that the plan charges for a call")
    return Receipt(f"{charged}, as the service itself priced the call or the price was at the time")


def _plain(price: Price, call: RecordedCall) -> Receipt | None:
    units = _units(price, call)
    if units is None or not call.is_charge(cost(price, units)):
        return None
    exact = price.credits * units / price.unit_size
    line = ReceiptLine(price.unit, units, price.credits, price.unit.phrase(price.unit_size), exact)
    return Receipt(explain(price, units) + call.bound, _adjusted((line,), call.credits_charged))


def _by_list(listed: PriceList, call: RecordedCall) -> Receipt | None:
    """By the price of the recorded model, else of an unknown one: a request may name none."""
    for price in (listed.find(call.model), listed.unknown_model):
        found = None if price is None else model_costs.cost(listed, price, call.usage)
        if found is not None and call.is_charge(found.credits):
            per = listed.unit.phrase(listed.unit_size)
            lines = tuple(ReceiptLine(line.kind, line.count, line.rate, per, line.credits) for line in found.lines)
            return Receipt(model_costs.explain(listed, found) + call.bound, _adjusted(lines, call.credits_charged))
    return None


def _adjusted(lines: tuple[ReceiptLine, ...], charged: int) -> tuple[ReceiptLine, ...]:
    rest = charged - sum((line.credits for line in lines), Decimal(0))
    return (*lines, ReceiptLine(ADJUSTMENT, None, None, None, rest)) if rest else lines


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
