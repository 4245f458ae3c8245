"""Prices as gateway.yaml writes them: plain ones, and lists that price models by usage class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator

from gateway import cost_catalogue
from gateway.config import quantities
from gateway.config.errors import KeyPath
from gateway.config.quantities import Amount, Kind, NotNegative, about
from gateway.config.validation import Reader, unknown_key
from policies.pricing.price import Price
from policies.pricing.price_list import Catalogue, CostList, ModelPrice, PriceList, ReaderName
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import UsageClass

_POINTER = re.compile(r"(/([^~/]|~[01])*)*")
_PER = re.compile(r"(?:(\d{1,9}|1M)\s+)?(call|item|token|minute|second|character|USD)s?", re.ASCII)
_MODEL_KEYS = (*UsageClass, "above", "feature", "max_output")
_ANY_MODEL = "*"
_CATALOGUE_KEYS = frozenset({"catalogue", "provider"})


def _per(written: object) -> str:
    if not isinstance(written, str) or (match := _PER.fullmatch(written)) is None or match[1] == "0":
        raise ValueError(f"must be {', '.join(PriceUnit)} or a number of them such as 1000 tokens, got {written!r}")
    if match[2] == "call" and match[1] is not None:
        raise ValueError(f"must be call without a number, got {written!r}; credits may be a fraction")
    size = "1000000" if match[1] == "1M" else match[1] or "1"
    return f"{size} {match[2]}"


def _count(written: object) -> tuple[str, ...]:
    """One pointer or a list of them, all into the same body."""
    pointers = tuple(_pointer(each) for each in (written if isinstance(written, list | tuple) else [written]))
    if len({each.partition(":")[0] for each in pointers}) != 1:
        raise ValueError(f"must hold pointers into one body, either request: or response:, got {written!r}")
    return pointers


def _pointer(written: object) -> str:
    """`request:` or `response:` and a JSON Pointer (RFC 6901 section 3)."""
    source, colon, pointer = written.partition(":") if isinstance(written, str) else ("", "", "")
    if source not in tuple(CountSource) or not colon:
        raise ValueError(f"must be request:/pointer or response:/pointer, such as request:/products, got {written!r}")
    if not _POINTER.fullmatch(pointer):
        raise ValueError(
            f"must hold a JSON Pointer: each part begins with /, and ~ is written ~0 (RFC 6901), got {pointer!r}"
        )
    return f"{source}:{pointer}"


def _error_pointer(written: object) -> str | None:
    if written is None:
        return None
    if not isinstance(written, str) or not written or not _POINTER.fullmatch(written):
        raise ValueError(f"must be a JSON Pointer into the response, such as /error (RFC 6901), got {written!r}")
    return written


def _hold(written: object) -> int | None:
    if written == "estimate":
        return None
    if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
        return written
    raise ValueError(f"must be estimate or a whole number of credits, got {written!r}")


def _reader(written: object) -> ReaderName:
    if written not in tuple(ReaderName):
        raise ValueError(f"must be {', '.join(ReaderName)}, got {written!r}")
    return ReaderName(str(written))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    credits: Annotated[Amount, about("Credits for each `per`; 0 is free.")]
    per: Annotated[
        str, BeforeValidator(_per), Kind("unit, such as `call`, `item` or `1000 tokens`"), about("What is priced.")
    ] = "1 call"
    count: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(lambda value: None if value is None else _count(value)),
        Kind("`request:` or `response:` and a JSON Pointer, or a list of them"),
        about("Where the units stand in a body; of a list, the first pointer that resolves counts."),
    ] = None
    default: Annotated[
        NotNegative | None, about("Units of a request that leaves out the member that `count` names, or says null.")
    ] = None
    minimum: Annotated[NotNegative, about("Least credits that a call costs.")] = 0
    maximum: Annotated[NotNegative | None, about("Most credits that a call costs.")] = None
    hold: Annotated[
        NotNegative | None, about("Credits held while a call runs whose units are known at its end only.")
    ] = None
    error_pointer: Annotated[
        str | None,
        BeforeValidator(_error_pointer),
        Kind("JSON Pointer into the response"),
        about("Where a response of status 200 holds an error, if it is one."),
    ] = None

    def __post_init__(self) -> None:
        unit, source = self.unit, self.source
        if source is None:
            if unit.sources and unit.seconds is None and unit is not PriceUnit.USD:
                raise ValueError(f"per: {unit} needs count: {unit.sources[0]}:/pointer, such as {_EXAMPLES[unit]}")
        elif source not in unit.sources:
            raise ValueError(_misplaced(unit))
        if self.default is not None and source is not CountSource.REQUEST:
            raise ValueError("default needs count: request:/pointer; it is what a request without the member counts as")
        _check_bounds(self.minimum, self.maximum)

    @property
    def unit(self) -> PriceUnit:
        return PriceUnit(self.per.partition(" ")[2])

    @property
    def source(self) -> CountSource | None:
        return None if self.count is None else CountSource(self.count[0].partition(":")[0])


def _misplaced(unit: PriceUnit) -> str:
    if not unit.sources:
        return f"count needs a unit that a body tells, such as items or tokens; per: {unit} counts nothing in a body"
    return f"per: {unit} needs count: {unit.sources[0]}:/pointer, such as {_EXAMPLES[unit]}"


_EXAMPLES = {
    PriceUnit.ITEM: "request:/products",
    PriceUnit.CHARACTER: "request:/input",
    PriceUnit.TOKEN: "response:/usage/total_tokens",
    PriceUnit.SECOND: "response:/usage/seconds",
    PriceUnit.USD: "response:/usage/cost",
}


def _check_bounds(minimum: int, maximum: int | None) -> None:
    if maximum is not None and maximum < minimum:
        raise ValueError(f"maximum {maximum} is below minimum {minimum}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceListEntry:
    reader: Annotated[
        ReaderName,
        BeforeValidator(_reader),
        Kind(", ".join(f"`{name}`" for name in ReaderName)),
        about("API that is read."),
    ]
    per: Annotated[
        str,
        BeforeValidator(_per),
        Kind("unit, such as `1M tokens`, `call`, `second` or `USD`"),
        about("What is priced."),
    ] = "1 token"
    credits: Annotated[
        dict[str, object] | None, Kind("map of usage classes to credits"), about("Price of every model.")
    ] = None
    models: Annotated[
        dict[str, object] | None,
        Kind("map of model names, or beginnings of them with `*`, to a map of usage classes or one number"),
        about("Price of each model; a map may also hold `above`, `feature` and `max_output`."),
    ] = None
    unknown_model: Annotated[
        object, Kind("`refuse` or a price"), about("What a model costs that `models` does not name.")
    ] = "refuse"
    costs: Annotated[
        dict[str, object] | None,
        Kind("map as `models`, in US dollars, and `catalogue` and `provider`"),
        about("What each model costs the operator; `catalogue: genai-prices` knows what is not written here."),
    ] = None
    hold: Annotated[
        int | None,
        BeforeValidator(_hold),
        Kind("`estimate` or credits"),
        about("Credits held while a call runs; `estimate` takes the body's size and the output that it allows."),
    ] = None
    minimum: Annotated[NotNegative, about("Least credits that a call costs.")] = 0
    maximum: Annotated[NotNegative | None, about("Most credits that a call costs, whatever is reported.")] = None

    def __post_init__(self) -> None:
        if (self.credits is None) == (self.models is None):
            raise ValueError("needs either credits, a map of classes, or models, a map of models")
        if self.unit not in _LIST_UNITS:
            raise ValueError(f"per: must be tokens, call, second or USD where a reader counts, got {self.unit}")
        if self.hold is None and self.unit in (PriceUnit.SECOND, PriceUnit.USD):
            raise ValueError(
                f"per: {self.unit} needs hold, a number of credits; a request does not tell its {self.unit}"
            )
        _check_bounds(self.minimum, self.maximum)

    @property
    def unit(self) -> PriceUnit:
        return PriceUnit(self.per.partition(" ")[2])


_LIST_UNITS = frozenset({PriceUnit.TOKEN, PriceUnit.CALL, PriceUnit.SECOND, PriceUnit.USD})
AnyPrice = Price | PriceList


def read_named_prices(reader: Reader) -> dict[str, AnyPrice | None]:
    """The section `prices` by name; None for one with a problem, whose routes are then not blamed for it."""
    entries = reader.document.tree.get("prices")
    named = entries if isinstance(entries, dict) else {}
    return {name: read_price(reader, ("prices", name), entry, {}) for name, entry in named.items()}


def read_price(reader: Reader, path: KeyPath, written: object, named: Mapping[str, AnyPrice | None]) -> AnyPrice | None:
    """A price in place or by its name; None if the document now says why not."""
    if isinstance(written, str):
        if written not in named:
            known = ", ".join(named) or "none"
            reader.document.report(path, f"unknown price {written!r}; known prices: {known}")
        return named.get(written)
    if isinstance(written, dict) and (
        {"reader", "models"} & written.keys() or isinstance(written.get("credits"), dict)
    ):
        entry = reader.read(PriceListEntry, path, written)
        return None if entry is None else _ListReader(reader, path, entry).price_list()
    plain = reader.read(PriceEntry, path, written)
    return None if plain is None else _plain(plain)


def _is_list(written: Mapping[str, object]) -> bool:
    return bool({"reader", "models"} & written.keys()) or isinstance(written.get("credits"), dict)


def _plain(entry: PriceEntry) -> Price:
    return Price(
        credits=Decimal(entry.credits),
        unit=entry.unit,
        unit_size=int(entry.per.partition(" ")[0]),
        source=entry.source,
        pointers=tuple(each.partition(":")[2] for each in entry.count or ()),
        default=entry.default,
        minimum=entry.minimum,
        maximum=entry.maximum,
        hold=entry.hold,
        error_pointer=entry.error_pointer,
    )


class _ListReader:
    """Reads the maps of one price list; each problem is reported where it was written."""

    def __init__(self, reader: Reader, path: KeyPath, entry: PriceListEntry) -> None:
        self._document = reader.document
        self._path = path
        self._entry = entry

    def price_list(self) -> PriceList:
        entry = self._entry
        if entry.credits is not None:
            models = {_ANY_MODEL: self._model((*self._path, "credits"), entry.credits)}
        else:
            models = {
                name: self._model((*self._path, "models", name), written)
                for name, written in (entry.models or {}).items()
            }
        for name in models:
            if "*" in name[:-1]:
                self._document.report((*self._path, "models", name), "may hold * only at its end")
        return PriceList(
            name=str(self._path[-1]),
            reader=entry.reader,
            models=models,
            unit=entry.unit,
            unit_size=int(entry.per.partition(" ")[0]),
            unknown_model=self._unknown(entry.unknown_model),
            hold=entry.hold,
            minimum=entry.minimum,
            maximum=entry.maximum,
            costs=None if entry.costs is None else self._costs((*self._path, "costs"), entry.costs),
        )

    def _costs(self, path: KeyPath, written: Mapping[str, object]) -> CostList:
        models = {}
        for name, rates in written.items():
            if name in _CATALOGUE_KEYS:
                continue
            models[name] = self._model((*path, name), rates, keys=(*UsageClass, "above"))
            if "*" in name[:-1]:
                self._document.report((*path, name), "may hold * only at its end")
        unit, size = self._entry.unit, int(self._entry.per.partition(" ")[0])
        return CostList(models, unit, size, self._catalogue(path, written, size))

    def _catalogue(self, path: KeyPath, written: Mapping[str, object], unit_size: int) -> Catalogue | None:
        if not written.keys() & _CATALOGUE_KEYS:
            return None
        if written.get("catalogue") != cost_catalogue.NAME:
            known = f"must be {cost_catalogue.NAME}, got {written.get('catalogue')!r}"
            self._document.report((*path, "catalogue") if "catalogue" in written else path, f"catalogue: {known}")
        elif self._entry.unit is not PriceUnit.TOKEN:
            self._document.report(path, f"catalogue: needs per: tokens, got {self._entry.unit}")
        else:
            try:
                return cost_catalogue.open_catalogue(str(written.get("provider")), unit_size)
            except ValueError as error:
                self._document.report(path, str(error))
        return None

    def _unknown(self, written: object) -> ModelPrice | None:
        return None if written == "refuse" else self._model((*self._path, "unknown_model"), written)

    def _model(self, path: KeyPath, written: object, *, keys: Sequence[str] = _MODEL_KEYS) -> ModelPrice:
        if not isinstance(written, dict):
            return ModelPrice(self._flat(path, written))
        rates = self._rates(path, {key: value for key, value in written.items() if key in tuple(UsageClass)})
        for key in sorted(written.keys() - set(keys)):
            self._document.report((*path, key), unknown_key(key, keys))
        if not rates:
            self._document.report(path, "needs a number for input, output or another class")
        max_output = written.get("max_output")
        return ModelPrice(
            rates,
            above=self._marks((*path, "above"), written.get("above", {})),
            feature=self._feature((*path, "feature"), written.get("feature")),
            max_output=None if max_output is None else self._whole((*path, "max_output"), max_output),
        )

    def _flat(self, path: KeyPath, written: object) -> dict[UsageClass, Decimal]:
        """One number for all that is counted."""
        rate = self._amount(path, written)
        return {UsageClass.INPUT: rate, UsageClass.OUTPUT: rate}

    def _marks(self, path: KeyPath, written: object) -> tuple[tuple[int, dict[UsageClass, Decimal]], ...]:
        if not isinstance(written, dict):
            self._document.report(path, f"must map counts of input tokens to classes, got {written!r}")
            return ()
        marks = {}
        for key, rates in written.items():
            here = (*path, key)
            mark = self._whole(here, int(key) if key.isdecimal() else key)
            marks[mark] = self._rates(here, rates) if isinstance(rates, dict) else self._flat(here, rates)
        return tuple(sorted(marks.items()))

    def _rates(self, path: KeyPath, written: Mapping[str, object]) -> dict[UsageClass, Decimal]:
        rates = {}
        for key, value in written.items():
            if key not in tuple(UsageClass):
                self._document.report((*path, key), unknown_key(key, UsageClass))
                continue
            rates[UsageClass(key)] = self._amount((*path, key), value)
        return rates

    def _amount(self, path: KeyPath, written: object) -> Decimal:
        try:
            return quantities.decimal_amount(written)
        except ValueError as error:
            self._document.report(path, str(error))
            return Decimal(0)

    def _feature(self, path: KeyPath, written: object) -> str | None:
        try:
            return None if written is None else quantities.word(written)
        except ValueError as error:
            self._document.report(path, str(error))
            return None

    def _whole(self, path: KeyPath, written: object) -> int:
        if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
            return written
        self._document.report(path, f"must be a whole number of 0 or more, got {written!r}")
        return 0
