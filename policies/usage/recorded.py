"""How the usage of a call stands in its record, and how it is read back.

Five classes have a column each. The metadata keeps the others, the seconds, the model that answered where it is another
than the one asked for, the upstream's own id of the request, and what was odd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from policies.usage import records
from policies.usage.counts import Usage, UsageClass, UsageSource

MAX_MODEL_LENGTH = 256
MAX_TOKENS = 2**63 - 1  # bigint
MAX_COST_USD = Decimal("999999.999999")  # numeric(12,6)
_MICRO = Decimal("0.000001")
# What a row's metadata has of the gateway itself, and what is read from it as such.
METADATA_NAMES = frozenset(
    {"model", "model_served", "usage", "seconds", "flags", "upstream_request_id", records.BALANCE_AFTER}
)
COST_CUT = "cost_cut"
COUNT_CUT = "count_cut"
MODEL_CUT = "model_cut"
_NO_COUNTS: Mapping[UsageClass, int] = {}
_PLAIN = re.compile("[A-Za-z0-9_.:/@ -]*+")  # stands in JSON and in a record as it is
_PLAIN_MODEL = re.compile(f"[A-Za-z0-9_.:/@ -]{{1,{MAX_MODEL_LENGTH}}}+")

# A look-up in an Enum takes 50 ns.
_INPUT, _CACHED_INPUT, _CACHE_WRITE = UsageClass.INPUT, UsageClass.CACHED_INPUT, UsageClass.CACHE_WRITE
_OUTPUT, _REASONING = UsageClass.OUTPUT, UsageClass.REASONING

COLUMN_OF: Mapping[UsageClass, str] = {
    _INPUT: "input_tokens",
    _CACHED_INPUT: "cached_input_tokens",
    _CACHE_WRITE: "cache_write_tokens",
    _OUTPUT: "output_tokens",
    _REASONING: "reasoning_tokens",
}


class UsageRecord(NamedTuple):
    """The columns of a record that tell its usage, escaped; None is NULL."""

    columns: str
    cost_usd: Decimal | None = None
    metadata: str | None = None


NO_USAGE = UsageRecord(records.usage_columns(**dict.fromkeys(COLUMN_OF.values()), model=None, usage_source="none"))


def usage_record(
    source: UsageSource,
    usage: Usage | None,
    *,
    asked: str | None,
    served: str | None,
    cost_usd: Decimal | None,
    flags: Iterable[str],
    upstream_request_id: str | None = None,
) -> UsageRecord:
    """What does not fit a column is cut to it and flagged: no upstream may make a row that PostgreSQL refuses."""
    odd = [*flags]
    model, counts = asked or served, _NO_COUNTS if usage is None else usage.counts
    if counts and max(counts.values()) > MAX_TOKENS:
        counts = _bounded(counts, odd)
    columns = records.usage_columns(
        model=model if model is None or _PLAIN_MODEL.fullmatch(model) else records.text(_model(model, odd)),
        input_tokens=counts.get(_INPUT),
        cached_input_tokens=counts.get(_CACHED_INPUT),
        cache_write_tokens=counts.get(_CACHE_WRITE),
        output_tokens=counts.get(_OUTPUT),
        reasoning_tokens=counts.get(_REASONING),
        usage_source=source,
    )
    cost = None if cost_usd is None else bounded_cost(cost_usd, odd)
    model_served = _model(served, odd) if asked and served and served != asked else None
    return UsageRecord(
        columns,
        cost,
        _metadata(counts, usage, model_served=model_served, odd=odd, upstream_request_id=upstream_request_id),
    )


def _metadata(
    counts: Mapping[UsageClass, int],
    usage: Usage | None,
    *,
    model_served: str | None,
    odd: list[str],
    upstream_request_id: str | None,
) -> str | None:
    """The metadata, written without `json.dumps`, which takes longer than all the rest of a record."""
    members = [f'"model_served": {_quoted(model_served)}'] if model_served else []
    if not counts.keys() <= COLUMN_OF.keys():
        kept = [f'"{kind}": {count}' for kind, count in counts.items() if kind not in COLUMN_OF]
        members.append(f'"usage": {{{", ".join(kept)}}}')
    if usage is not None and usage.seconds is not None:
        members.append(f'"seconds": "{usage.seconds}"')
    if odd:
        members.append(f'"flags": [{", ".join(map(_quoted, dict.fromkeys(odd)))}]')
    if upstream_request_id:
        members.append(f'"upstream_request_id": {_quoted(upstream_request_id)}')
    return f"{{{', '.join(members)}}}" if members else None


def _quoted(text: str) -> str:
    """A JSON string, escaped for the record. Most need neither: names, which are written as they are."""
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    return records.text(json.dumps(text))


def bounded_cost(cost_usd: Decimal, odd: list[str]) -> Decimal:
    """The cost as its column holds it, in millionths; notes a larger one among what is odd."""
    if cost_usd > MAX_COST_USD:
        odd.append(COST_CUT)
        return MAX_COST_USD
    return cost_usd.quantize(_MICRO)


def read_usage(columns: Mapping[str, int | None], cost_usd: Decimal | None, metadata: Mapping[str, Any]) -> Usage:
    """The usage of a row by its columns and metadata, where rows of older versions have all classes in the latter."""
    kept = metadata.get("usage")
    counts = {UsageClass(name): count for name, count in kept.items()} if isinstance(kept, dict) else {}
    counts |= {kind: count for kind, name in COLUMN_OF.items() if (count := columns.get(name)) is not None}
    seconds = metadata.get("seconds")
    return Usage(counts, None if seconds is None else Decimal(seconds), cost_usd)


def _model(name: str, odd: list[str]) -> str:
    """A name from outside as PostgreSQL takes it: without NUL and halves of surrogate pairs."""
    if len(name) <= MAX_MODEL_LENGTH and name.isascii() and name.isprintable():
        return name
    if len(name) > MAX_MODEL_LENGTH:
        odd.append(MODEL_CUT)
    return name[:MAX_MODEL_LENGTH].replace("\0", "").encode("utf-8", "replace").decode()


def _bounded(counts: Mapping[UsageClass, int], odd: list[str]) -> Mapping[UsageClass, int]:
    odd.append(COUNT_CUT)
    return {kind: min(count, MAX_TOKENS) for kind, count in counts.items()}
