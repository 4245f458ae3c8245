"""Counts as APIs report them: picked by path from a usage object, and taken only where they are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from gateway.proxy.metering.readers.reading import Counts
from policies.usage.counts import MAX_COUNT, Usage, UsageClass

Paths = Mapping[str, Any]
ClassNames = Sequence[tuple[UsageClass, Sequence[str]]]


def paths(*names: str) -> Paths:
    """Where the counts of a usage object stand: `prompt_tokens_details/cached_tokens` is a member of a member."""
    found: dict[str, Any] = {}
    for name in names:
        *containers, last = name.split("/")
        place = found
        for container in containers:
            place = place.setdefault(container, {})
        place[last] = name
    return found


def pick_counts(usage: Any, where: Paths) -> dict[str, int | Decimal]:
    """The numbers of a usage object at these paths, by path."""
    counts: dict[str, int | Decimal] = {}
    if isinstance(usage, dict):
        _pick_into(counts, usage, where)
    return counts


def _pick_into(counts: dict[str, int | Decimal], usage: dict[str, Any], where: Paths) -> None:
    for name, value in usage.items():
        place = where.get(name)
        if place is None:
            continue
        if type(place) is not str:
            if isinstance(value, dict):
                _pick_into(counts, value, place)
        elif type(value) is int and 0 <= value <= MAX_COUNT:  # nearly every one
            counts[place] = value
        elif (found := number(value)) is not None:
            counts[place] = found


def number(value: Any) -> int | Decimal | None:
    """A number that a bill can be made of: none below zero, none that is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else Decimal(repr(value))


def first(counts: Counts, *names: str) -> int | None:
    """The first of some counts that is reported as a whole number."""
    for name in names:
        value = counts.get(name)
        if isinstance(value, int):
            return value
    return None


def classes(counts: Counts, names: ClassNames) -> dict[UsageClass, int]:
    """For each class the first of its names that is reported as a whole number; classes that have none are left out."""
    found: dict[UsageClass, int] = {}
    for kind, names_of_it in names:
        for name in names_of_it:
            if name in counts and isinstance(value := counts[name], int):
                found[kind] = value
                break
    return found


def first_decimal(counts: Counts, name: str) -> Decimal | None:
    value = counts.get(name)
    return None if value is None else Decimal(value)


def total(*counts: int | None) -> int | None:
    """The sum of what is reported; None if nothing is."""
    reported = [count for count in counts if count is not None]
    return sum(reported) if reported else None


def usage_of(
    counts: Mapping[UsageClass, int | None], *, seconds: Decimal | None = None, cost_usd: Decimal | None = None
) -> Usage | None:
    """The usage of what is reported; None if nothing is."""
    reported = {kind: count for kind, count in counts.items() if count is not None}
    if not reported and seconds is None and cost_usd is None:
        return None
    return Usage(reported, seconds, cost_usd)
