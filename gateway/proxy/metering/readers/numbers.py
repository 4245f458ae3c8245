"""Counts as APIs report them: picked by path from a usage object, and taken only where they are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from gateway.proxy.metering.readers.reading import Counts
from policies.usage.counts import MAX_COUNT, Usage, UsageClass


class Paths(NamedTuple):
    """Where the counts of a usage object stand: how its members are called, and what is in those that are objects."""

    members: Mapping[str, str]
    below: Mapping[str, Paths]


def paths(*names: str, called: Mapping[str, str] = MappingProxyType({})) -> Paths:
    """The places of such names as `prompt_tokens_details/cached_tokens`, which is a member of a member.

    `called` says what the count at a path is called, for those that go by another name than their path.
    """
    members, containers = {}, dict[str, dict[str, str]]()
    for path, name in {**dict(zip(names, names, strict=True)), **called}.items():
        step, _, rest = path.partition("/")
        if rest:
            containers.setdefault(step, {})[rest] = name
        else:
            members[step] = name
    return Paths(members, {step: paths(called=below) for step, below in containers.items()})


def pick_counts(usage: Any, where: Paths, *, into: dict[str, int | Decimal] | None = None) -> dict[str, int | Decimal]:
    """The numbers of a usage object at these paths, by their names; `into` are those to add them to."""
    counts = {} if into is None else into
    if not isinstance(usage, dict):
        return counts
    members, below = where
    for name, value in usage.items():
        if name in members:
            if type(value) is int and 0 <= value <= MAX_COUNT:  # as nearly every one is
                counts[members[name]] = value
            elif (found := number(value)) is not None:
                _add(counts, members[name], found)
        elif name in below:
            pick_counts(value, below[name], into=counts)
    return counts


def _add(counts: dict[str, int | Decimal], name: str, count: int | Decimal) -> None:
    if isinstance(count, int) or not isinstance(name, UsageClass):  # a class counts whole tokens
        counts[name] = count


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


def rename(counts: dict[str, Any], names: Mapping[str, UsageClass]) -> None:
    """Puts counts under the class that they count, the first whole number above 0 if there are several."""
    for name, kind in names.items():
        if name in counts and isinstance(value := counts.pop(name), int):
            counts[kind] = counts.get(kind) or value


def total(*counts: int | None) -> int | None:
    """The sum of what is reported; None if nothing is."""
    reported = [count for count in counts if count is not None]
    return sum(reported) if reported else None


def usage_of(counts: Mapping[UsageClass, int | None]) -> Usage | None:
    """The usage of what is reported; None if nothing is."""
    reported = {kind: count for kind, count in counts.items() if count is not None}
    return Usage(reported) if reported else None
