"""Counts as APIs report them: picked by path from a usage object, and taken only where they are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from gateway.proxy.metering.readers.reading import Counts
from policies.usage.counts import MAX_COUNT, Usage, UsageClass


class Paths(NamedTuple):
    """Where the counts of a usage object stand: the paths of its own members, and what is in those that are objects."""

    members: Mapping[str, str]
    below: Mapping[str, Paths]


def paths(*names: str) -> Paths:
    """The places of such names as `prompt_tokens_details/cached_tokens`, which is a member of a member."""
    return _paths_below("", names)


def _paths_below(path: str, names: Iterable[str]) -> Paths:
    members, containers = {}, dict[str, list[str]]()
    for name in names:
        first_part, _, rest = name.partition("/")
        if rest:
            containers.setdefault(first_part, []).append(rest)
        else:
            members[name] = path + name
    return Paths(members, {name: _paths_below(f"{path}{name}/", below) for name, below in containers.items()})


def pick_counts(usage: Any, where: Paths) -> dict[str, int | Decimal]:
    """The numbers of a usage object at these paths, by path."""
    counts: dict[str, int | Decimal] = {}
    if isinstance(usage, dict):
        _pick_into(counts, usage, where)
        if counts and not 0 <= min(counts.values()) <= max(counts.values()) <= MAX_COUNT:
            return {name: count for name, count in counts.items() if 0 <= count <= MAX_COUNT}
    return counts


def _pick_into(counts: dict[str, int | Decimal], usage: dict[str, Any], where: Paths) -> None:
    members, below = where
    for name, value in usage.items():
        if name in members:
            if type(value) is int:  # as nearly every one is
                counts[members[name]] = value
            elif (found := number(value)) is not None:
                counts[members[name]] = found
        elif name in below and isinstance(value, dict):
            _pick_into(counts, value, below[name])


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


def classes(counts: Counts, names: dict[str, UsageClass]) -> dict[UsageClass, int]:
    """For each class the first of its names that is reported as a whole number; classes that have none are left out."""
    found: dict[UsageClass, int] = {}
    for name, count in counts.items():
        if name in names and isinstance(count, int):
            kind = names[name]
            if kind in found:  # under two of its names
                reported = ((each, counts.get(each)) for each in reversed(names))
                return {names[each]: value for each, value in reported if isinstance(value, int)}
            found[kind] = count
    return found


def total(*counts: int | None) -> int | None:
    """The sum of what is reported; None if nothing is."""
    reported = [count for count in counts if count is not None]
    return sum(reported) if reported else None


def usage_of(counts: Mapping[UsageClass, int | None]) -> Usage | None:
    """The usage of what is reported; None if nothing is."""
    reported = {kind: count for kind, count in counts.items() if count is not None}
    return Usage(reported) if reported else None
