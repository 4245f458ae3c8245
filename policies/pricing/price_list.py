"""Prices of AI calls: for each model a map from usage class to credits.

Counts are inclusive (`policies.usage.counts`): input contains cached input, output contains reasoning. A class
without a rate is priced as its parent, so a map of input and output is a whole price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar

from policies.pricing.rate_tables import Rates, RateTable, rate_table
from policies.pricing.units import PriceUnit


class ReaderName(StrEnum):
    """The APIs whose requests and responses can be read."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    BEDROCK = "bedrock"
    OLLAMA = "ollama"
    MCP = "mcp"


@dataclass(frozen=True)
class ModelPrice:
    """What one model costs for each unit of its list.

    `above` maps a count of input to the rates of the whole call once its input passes it, lowest mark first. Where they
    have input, no part of the input has a rate from below; so with output. `feature` is the plan feature that the model
    needs. `max_output` is the most tokens that the model writes.
    """

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    feature: str | None = None
    max_output: int | None = None

    def table_at(self, input_count: int) -> RateTable:
        """The rates of a call with so much input."""
        found = self.table
        for mark, table in self._tables_above:
            if input_count > mark:
                found = table
        return found

    def mark_at(self, input_count: int) -> int | None:
        """The mark of `above` that so much input has passed; None for none."""
        return max((mark for mark, _ in self.above if input_count > mark), default=None)

    @cached_property
    def table(self) -> RateTable:
        """The rates of a call below every mark."""
        return rate_table(self.rates)

    @cached_property
    def _tables_above(self) -> tuple[tuple[int, RateTable], ...]:
        return tuple((mark, rate_table(self._rates_above(rates))) for mark, rates in self.above)

    def _rates_above(self, rates: Rates) -> Rates:
        """Those of a mark alone, but for input or output where it has none: that costs what it does below."""
        below = {kind: rate for kind, rate in self.rates.items() if kind.root not in rates}
        return {**below, **rates}


Catalogue = Callable[[str], ModelPrice | None]  # what a model costs, by the name that an API has for it


@dataclass(frozen=True)
class CostList:
    """What models cost the operator, in US dollars. `models` outrank the catalogue."""

    models: Mapping[str, ModelPrice]
    unit: PriceUnit = PriceUnit.TOKEN
    unit_size: int = 1
    catalogue: Catalogue | None = None

    @cached_property
    def _patterns(self) -> Patterns:
        return patterns_of(self.models)

    def find(self, *, served: str | None, asked: str | None) -> ModelPrice | None:
        """By the exact name of the model that answered, then of the one asked for, then by the longest pattern.

        None where none of these is known, to the catalogue neither.
        """
        names = [name for name in (served, asked) if name is not None]
        ways: tuple[Catalogue, ...] = (self.models.get, lambda name: longest_match(self._patterns, name))
        if self.catalogue is not None:
            ways = (*ways, self.catalogue)
        return _first(way(name) for way in ways for name in names)


def _first(found: Iterable[ModelPrice | None]) -> ModelPrice | None:
    return next((price for price in found if price is not None), None)


Patterns = tuple[tuple[str, ModelPrice], ...]


def patterns_of(models: Mapping[str, ModelPrice]) -> Patterns:
    """The names that end in `*`, without it, the longest first."""
    patterns = [(name[:-1], price) for name, price in models.items() if name.endswith("*")]
    return tuple(sorted(patterns, key=lambda pattern: -len(pattern[0])))


def longest_match(patterns: Patterns, name: str) -> ModelPrice | None:
    for prefix, price in patterns:
        if name.startswith(prefix):
            return price
    return None


@dataclass(frozen=True)
class PriceList:
    """Prices by model. `reader` names the API whose usage is priced.

    `hold` None is an estimate of the request itself. `unknown_model` prices models that are not listed; None refuses
    them. `maximum` is what one call can cost at most. `costs` None: what the upstream asks is not known.
    """

    name: str
    reader: ReaderName
    models: Mapping[str, ModelPrice]
    unit: PriceUnit = PriceUnit.TOKEN
    unit_size: int = 1
    unknown_model: ModelPrice | None = None
    hold: int | None = None
    minimum: int = 0
    maximum: int | None = None
    costs: CostList | None = None
    is_fixed: ClassVar[bool] = False

    @cached_property
    def _patterns(self) -> Patterns:
        return patterns_of(self.models)

    @cached_property
    def is_free(self) -> bool:
        """Whether no model costs anything: the list is then open to an account without credits."""
        priced = [*self.models.values(), self.unknown_model or ModelPrice({})]
        maps = [rates for price in priced for rates in (price.rates, *(above for _, above in price.above))]
        return not self.minimum and not any(rate for rates in maps for rate in rates.values())

    def find(self, model: str | None) -> ModelPrice | None:
        """The price of a model: by its exact name, else by the longest pattern, else what unknown models cost.

        A request that names no model has the price of every model, where the list has one.
        """
        if model is not None:
            exact = self.models.get(model)
            if exact is not None:
                return exact
            found = longest_match(self._patterns, model)
            return self.unknown_model if found is None else found
        return self.models.get("*", self.unknown_model)

    def name_for(self, model: str) -> str | None:
        """The name that prices a model: its own, or the pattern that fits it; None for an unknown one."""
        if model in self.models:
            return model
        return next((f"{prefix}*" for prefix, _ in self._patterns if model.startswith(prefix)), None)
