"""Amazon Bedrock: Converse and ConverseStream, InvokeModel with and without a stream.

Cache reads and writes stand outside the input that it reports. InvokeModel passes on what the model's maker says, and
its stream wraps that in base64; the last chunk adds `amazon-bedrock-invocationMetrics`, which are the same for all.
Without a stream the same counts stand in the head, and for some models (Cohere, Mistral) nowhere else.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from gateway.proxy.metering.documents.selection import Fields, select
from gateway.proxy.metering.documents.values import parse, pick
from gateway.proxy.metering.readers import fields as read
from gateway.proxy.metering.readers.numbers import first, number, paths, pick_counts, total, usage_of
from gateway.proxy.metering.readers.reader import Reader
from gateway.proxy.metering.readers.reading import Counts, RequestReading, Statement
from gateway.proxy.metering.readers.response import ResponseFormat, text_counter
from gateway.proxy.metering.strict_json import read_fields
from policies.usage.counts import Usage, UsageClass, merge_counts

_OPERATION = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke|invoke-with-response-stream)$")
_COUNTS_ONLY = "/count-tokens"
_LIMITS = (
    "inferenceConfig/maxTokens",
    "inferenceConfig/max_new_tokens",
    "max_tokens",
    "max_gen_len",
    "maxTokens",
    "textGenerationConfig/maxTokenCount",
)
_REQUEST = select(*_LIMITS)
_METRICS = "amazon-bedrock-invocationMetrics"
_MODEL = select(
    "model",
    "type",
    "error",
    "usage",
    "message/model",
    "message/usage",
    "prompt_token_count",
    "generation_token_count",
    _METRICS,
)
_RESPONSE = select(
    "bytes",
    "model",
    "type",
    "error",
    "usage",
    "message/usage",
    "prompt_token_count",
    "generation_token_count",
    "inputTextTokenCount",
    _METRICS,
    texts=("output/message/content/*/text", "content/*/text", "outputText", "generation", "completion"),
)
_CONVERSE = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
_INVOCATION = ("inputTokenCount", "outputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount")
_ANTHROPIC = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_LLAMA = ("prompt_token_count", "generation_token_count")
_OTHERS = (
    "cache_creation/ephemeral_1h_input_tokens",
    "prompt_tokens",
    "completion_tokens",
)
_USAGE = paths(*_CONVERSE, *_INVOCATION, *_ANTHROPIC, *_OTHERS)
_TITAN = ("inputTextTokenCount", "", "", "")
_MODEL_COUNTS = paths(*_LLAMA, _TITAN[0])
_FAMILIES = (
    _INVOCATION,
    _CONVERSE,
    _ANTHROPIC,
    (*_LLAMA, "", ""),
    ("prompt_tokens", "completion_tokens", "", ""),
    _TITAN,
)

_count_text = text_counter("text", "thinking", "partial_json", "outputText", "generation", "completion")


def _read_request(path: str, _: bytes, body: bytes) -> RequestReading:
    if path.endswith(_COUNTS_ONLY):
        return RequestReading(is_free=True)
    named = _OPERATION.search(path)
    model, operation = (unquote(named[1]), named[2]) if named else (None, "")
    is_streaming = operation.endswith("stream")
    if not body:
        return RequestReading(model, is_streaming=is_streaming)
    return RequestReading(model, read.limit(read_fields(body, _REQUEST), *_LIMITS), is_streaming)


def _state(fields: Fields, event_name: bytes) -> Statement:
    if isinstance(fields.get("bytes"), str):
        fields = _unwrapped(fields["bytes"])
    model = fields.get("message/model") or fields.get("model")
    metrics = fields.get(_METRICS)
    return Statement(
        model if isinstance(model, str) else None,
        _counts(fields),
        event_name == b"error" or fields.get("type") == "error" or bool(fields.get("error")),
        True if event_name == b"metadata" or metrics is not None else None,
    )


def _counts(fields: Fields) -> dict[str, int | Decimal]:
    counts = pick_counts(fields, _MODEL_COUNTS)
    for name in ("message/usage", "usage", _METRICS):
        usage = fields.get(name)
        reported = pick_counts(usage, _USAGE) | _writes_by_ttl(usage)
        counts = merge_counts(counts, reported)
    return counts


def _writes_by_ttl(usage: Any) -> dict[str, int | Decimal]:
    """Converse lists cache writes by their time to live; here named as Anthropic has it."""
    details = usage.get("cacheDetails") if isinstance(usage, dict) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("ttl") == "1h":
            return {"cache_creation/ephemeral_1h_input_tokens": number(detail.get("inputTokens")) or 0}
    return {}


def _unwrapped(encoded: str) -> Fields:
    """The fields of a chunk in base64; none where it is not what it must be."""
    fields: Fields = {}
    try:
        pick(parse(b64decode(encoded, validate=True)), _MODEL, fields)
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return fields


def _normalize(counts: Counts) -> Usage | None:
    for given, output, read_name, written in _FAMILIES:
        if given in counts or output in counts:
            reads = first(counts, read_name, "cacheReadInputTokenCount")  # so Nova calls it, beside Converse's names
            writes = first(counts, written, "cacheWriteInputTokenCount")
            return usage_of(
                {
                    UsageClass.INPUT: total(first(counts, given), reads, writes),
                    UsageClass.CACHED_INPUT: reads,
                    UsageClass.CACHE_WRITE: writes,
                    UsageClass.CACHE_WRITE_1H: first(counts, "cache_creation/ephemeral_1h_input_tokens"),
                    UsageClass.OUTPUT: first(counts, output),
                }
            )
    return None


def _says_more(_: bytes) -> bool:
    return True  # base64 hides what it says


def _text_bytes(text: bytes) -> int:
    if b'"bytes"' not in text:
        return _count_text(text)
    fields: Fields = {}
    try:
        pick(parse(text), select("bytes"), fields)
        return _count_text(b64decode(fields.get("bytes", ""), validate=True))
    except (binascii.Error, TypeError, ValueError, RecursionError):
        return 0


BEDROCK = Reader(
    "bedrock",
    _read_request,
    ResponseFormat(_RESPONSE, _state, _normalize, _says_more, _text_bytes),
    counts_in_head=True,
)
