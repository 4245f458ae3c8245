"""Anthropic Messages. Its input, cache writes and cache reads exclude each other; here input contains them.

A stream reports the input in `message_start` and running totals in `message_delta`; relays that translate other APIs
put zeros in either, so both are merged field by field before anything is added up. Iterations of compaction and of
advisors stand beside these counts ("Compaction" and "Advisor tool" of its documents), and are added to them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from gateway.proxy.metering.documents.selection import Fields, select
from gateway.proxy.metering.readers import fields as read
from gateway.proxy.metering.readers.numbers import first, paths, pick_counts, total, usage_of
from gateway.proxy.metering.readers.reader import Reader
from gateway.proxy.metering.readers.reading import Counts, RequestReading, Statement
from gateway.proxy.metering.readers.response import ResponseFormat, member_finder, text_counter
from gateway.proxy.metering.strict_json import read_fields
from policies.usage.counts import Usage, UsageClass, latest, merge_counts

_REQUEST = select("model", "max_tokens", "stream")
_RESPONSE = select(
    "model",
    "type",
    "usage",
    "error",
    "message/model",
    "message/usage",
    texts=("content/*/text", "content/*/thinking", "delta/text", "delta/thinking", "delta/partial_json"),
)
_USAGE = paths(
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation/ephemeral_5m_input_tokens",
    "cache_creation/ephemeral_1h_input_tokens",
    "output_tokens_details/thinking_tokens",
)
_BESIDE = ("compaction", "advisor_message")  # iterations that the counts beside them leave out
_OF_ITERATIONS = "iterations/"


def _read_request(path: str, _: bytes, body: bytes) -> RequestReading:
    counts_only = path.endswith("/count_tokens")
    if not body:
        return RequestReading(is_free=counts_only)
    fields = read_fields(body, _REQUEST)
    return RequestReading(
        read.text(fields, "model"),
        0 if counts_only else read.limit(fields, "max_tokens"),
        read.flag(fields, "stream"),
        is_free=counts_only,
        is_deferred=path.endswith("/batches"),
    )


def _state(fields: Fields, _: bytes) -> Statement:
    kind = fields.get("type")
    model = fields.get("message/model") or fields.get("model")
    opening = pick_counts(fields.get("message/usage"), _USAGE)
    return Statement(
        model if isinstance(model, str) else None,
        merge_counts(opening, pick_counts(fields.get("usage"), _USAGE) | _beside(fields.get("usage"))),
        kind == "error" or bool(fields.get("error")),
        True if kind == "message_stop" else None,
    )


def _beside(usage: Any) -> dict[str, int | Decimal]:
    """What iterations used that the usage itself leaves out, named `iterations/input_tokens`."""
    counts: dict[str, int | Decimal] = {}
    iterations = usage.get("iterations") if isinstance(usage, dict) else None
    for each in iterations if isinstance(iterations, list) else ():
        if isinstance(each, dict) and each.get("type") in _BESIDE:
            for name, count in pick_counts(each, _USAGE).items():
                counts[_OF_ITERATIONS + name] = counts.get(_OF_ITERATIONS + name, 0) + count
    return counts


def _normalize(counts: Counts) -> Usage | None:
    of_iterations = {name: count for name, count in counts.items() if name.startswith(_OF_ITERATIONS)}
    beside = _classes({name.removeprefix(_OF_ITERATIONS): count for name, count in of_iterations.items()})
    return usage_of({kind: total(count, beside[kind]) for kind, count in _classes(counts).items()})


def _classes(counts: Counts) -> dict[UsageClass, int | None]:
    long_lived = first(counts, "cache_creation/ephemeral_1h_input_tokens")
    by_ttl = total(first(counts, "cache_creation/ephemeral_5m_input_tokens"), long_lived)
    writes = latest(by_ttl, first(counts, "cache_creation_input_tokens"))
    reads = first(counts, "cache_read_input_tokens")
    return {
        UsageClass.INPUT: total(first(counts, "input_tokens"), writes, reads),
        UsageClass.CACHED_INPUT: reads,
        UsageClass.CACHE_WRITE: writes,
        UsageClass.CACHE_WRITE_1H: long_lived,
        UsageClass.OUTPUT: first(counts, "output_tokens"),
        UsageClass.REASONING: first(counts, "output_tokens_details/thinking_tokens"),
    }


_says_more = member_finder("usage", "error", types="message_stop")
_count_text = text_counter("text", "thinking", "partial_json")

ANTHROPIC = Reader(
    "anthropic",
    _read_request,
    ResponseFormat(_RESPONSE, _state, _normalize, _says_more, _count_text),
)
