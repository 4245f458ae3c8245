"""Price units as values: where each is counted, what a value found there counts, and how a number of them is called."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from math import ceil
from typing import assert_never

from policies.usage.counts import MAX_COUNT

Count = int | Decimal

MAX_ITEMS = 2**31 - 1  # a usage row keeps the items of a call in four bytes


class CountSource(StrEnum):
    """The body in which a pointer counts the units of a call."""

    REQUEST = "request"
    RESPONSE = "response"


class PriceUnit(StrEnum):
    CALL = "call"
    ITEM = "item"
    MINUTE = "minute"
    SECOND = "second"
    TOKEN = "token"  # noqa: S105 - a unit, not a secret
    CHARACTER = "character"
    USD = "USD"

    @property
    def sources(self) -> tuple[CountSource, ...]:
        """The bodies in which the unit can be counted, the usual one first; empty for one that no body tells."""
        match self:
            case PriceUnit.CALL | PriceUnit.MINUTE:
                return ()
            case PriceUnit.ITEM | PriceUnit.CHARACTER:
                return (CountSource.REQUEST, CountSource.RESPONSE)
            case PriceUnit.TOKEN | PriceUnit.SECOND | PriceUnit.USD:
                return (CountSource.RESPONSE,)
            case _:
                assert_never(self)

    @property
    def seconds(self) -> int | None:
        """The length of a unit of time; None for what time does not count."""
        match self:
            case PriceUnit.SECOND:
                return 1
            case PriceUnit.MINUTE:
                return 60
            case PriceUnit.CALL | PriceUnit.ITEM | PriceUnit.TOKEN | PriceUnit.CHARACTER | PriceUnit.USD:
                return None
            case _:
                assert_never(self)

    def counted(self, value: object) -> Count | None:
        """How many units a value at the pointer is; None for what no bill can be made of.

        A number counts itself, an array its length, a string its characters. Seconds and dollars may be fractions.
        """
        match self:
            case PriceUnit.CHARACTER if isinstance(value, str):
                return len(value)
            case PriceUnit.SECOND | PriceUnit.USD:
                return _decimal(value)
            case PriceUnit.CALL | PriceUnit.ITEM | PriceUnit.MINUTE | PriceUnit.TOKEN | PriceUnit.CHARACTER:
                return _whole(len(value) if isinstance(value, list) else value)
            case _:
                assert_never(self)

    def elapsed(self, seconds: float) -> int:
        """The started units of a call of that length, at least one. ValueError for a unit that is not time."""
        if self.seconds is None:
            raise ValueError(f"{self} is no unit of time")
        return max(1, ceil(seconds / self.seconds))

    def phrase(self, count: Count) -> str:
        """`1 token`, `1500 tokens`, `0.25 USD`."""
        number = f"{count.normalize():f}" if isinstance(count, Decimal) else str(count)
        return f"{number} {self}" if count == 1 or self is PriceUnit.USD else f"{number} {self}s"


def _whole(value: object) -> int | None:
    """1500 may be written as 1500.0 or 1.5e3: to JSON they are one number."""
    if type(value) is int:  # as nearly every one is
        return value if 0 <= value <= MAX_COUNT else None
    exact = _decimal(value)
    return int(exact) if exact is not None and exact == int(exact) else None


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    exact = Decimal(str(value))
    return exact if exact.is_finite() and 0 <= exact <= MAX_COUNT else None
