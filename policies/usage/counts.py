"""The inclusive normal form of usage: a tree of classes in which a parent counts all that its children count.

Providers count in two ways: cache reads stand inside the input of one and outside that of another. Readers turn
each into this form, so that prices and records know one arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")
N = TypeVar("N", int, Decimal)

MAX_COUNT = 10**12 - 1  # no bill has more tokens than twelve digits hold


class UsageClass(StrEnum):
    """What is counted and priced. `parent` is the class that contains it."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    CACHE_WRITE = "cache_write"
    CACHE_WRITE_1H = "cache_write_1h"
    INPUT_AUDIO = "input_audio"
    INPUT_IMAGE = "input_image"
    OUTPUT = "output"
    REASONING = "reasoning"
    OUTPUT_AUDIO = "output_audio"
    OUTPUT_IMAGE = "output_image"

    @property
    def parent(self) -> UsageClass | None:
        return PARENTS[self]

    @property
    def root(self) -> UsageClass:
        """`input` or `output`, of which it is a part or which it is."""
        return self if self.parent is None else self.parent.root


PARENTS: Mapping[UsageClass, UsageClass | None] = {
    UsageClass.INPUT: None,
    UsageClass.CACHED_INPUT: UsageClass.INPUT,
    UsageClass.CACHE_WRITE: UsageClass.INPUT,
    UsageClass.CACHE_WRITE_1H: UsageClass.CACHE_WRITE,
    UsageClass.INPUT_AUDIO: UsageClass.INPUT,
    UsageClass.INPUT_IMAGE: UsageClass.INPUT,
    UsageClass.OUTPUT: None,
    UsageClass.REASONING: UsageClass.OUTPUT,
    UsageClass.OUTPUT_AUDIO: UsageClass.OUTPUT,
    UsageClass.OUTPUT_IMAGE: UsageClass.OUTPUT,
}


class MissingReason(StrEnum):
    """Why the usage of a call is not known."""

    ENCODING = "encoding"  # the content encoding is unknown or its bytes are broken
    SHAPE = "shape"  # the body is in no form that the reader knows
    SIZE = "size"  # what would have to be kept is larger than the bound
    ABSENT = "absent"  # the response was read and reports none
    LEFT = "left"  # the client left before it was reported


class UsageSource(StrEnum):
    """How the usage of a call is known."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    MISSING = "missing"
    NONE = "none"  # the price does not ask for any


_INPUT, _OUTPUT = UsageClass.INPUT, UsageClass.OUTPUT  # a look-up in an Enum takes 50 ns


class Usage(NamedTuple):
    """What one call used. A class that is not in `counts` was not reported, which is not zero.

    `seconds` is the length of audio, where the API bills by it; `cost_usd` is what the provider itself asks.
    """

    counts: Mapping[UsageClass, int] = MappingProxyType({})
    seconds: Decimal | None = None
    cost_usd: Decimal | None = None

    @property
    def total(self) -> int | None:
        """Input and output together; None if neither was reported."""
        given, written = self.counts.get(_INPUT), self.counts.get(_OUTPUT)
        if given is None or written is None:
            return written if given is None else given
        return given + written

    def merged(self, later: Usage) -> Usage:
        """This report completed by a later one of the same call, each count by itself."""
        return Usage(
            merge_counts(self.counts, later.counts),
            latest(self.seconds, later.seconds),
            latest(self.cost_usd, later.cost_usd),
        )


def latest(earlier: Any, later: Any) -> Any:
    """The value that stands after a later report: non-null wins, and 0 never overwrites more.

    Running totals repeat, so nothing is summed. Some relays open with zeros and close with the truth, others do the
    reverse. JSON objects merge member by member.
    """
    if later is None:
        return earlier
    if isinstance(earlier, dict):
        return merge_counts(earlier, later) if isinstance(later, dict) else earlier
    if later == 0 and _is_number(later) and _is_number(earlier):
        return max(earlier, later)
    return later


def merge_counts(earlier: Mapping[K, Any], later: Mapping[K, Any]) -> dict[K, Any]:
    """Both reports in one, each member by `latest`."""
    merged = dict(earlier)
    for name, value in later.items():
        merged[name] = latest(merged.get(name), value)
    return merged


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
