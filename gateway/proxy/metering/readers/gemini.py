"""Gemini and Vertex: one document, server-sent events (`alt=sse`), or an array whose elements come one by one.

Each chunk has running totals. Thoughts and tool use stand beside prompt and candidates on one platform and within
them on the other; the total is right on both, so output is what of it is neither prompt nor tool use.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote

from gateway.http.fields import HeaderBlock
from gateway.proxy.metering.documents.selection import Fields, select
from gateway.proxy.metering.readers import fields as read
from gateway.proxy.metering.readers.numbers import first, number, paths, pick_counts, total, usage_of
from gateway.proxy.metering.readers.reader import Reader
from gateway.proxy.metering.readers.reading import Counts, RequestReading, Statement
from gateway.proxy.metering.readers.response import ResponseFormat, member_finder, text_counter
from gateway.proxy.metering.strict_json import invalid_body, read_fields
from policies.model import Refusal, Refused
from policies.usage.counts import Usage, UsageClass

# Parsers of protocol buffers take both spellings of a name (protobuf.dev, ProtoJSON).
_CONFIGS = ("generationConfig", "generation_config")
_LIMITS = tuple(f"{config}/{name}" for config in _CONFIGS for name in ("maxOutputTokens", "max_output_tokens"))
_ANSWERS = tuple(f"{config}/{name}" for config in _CONFIGS for name in ("candidateCount", "candidate_count"))
_REQUEST = select("model", *_LIMITS, *_ANSWERS)
_OPERATION = re.compile(r"/(?:models|tunedModels|endpoints)/([^/:]+):([A-Za-z]+)$")
_STREAMS = frozenset({"streamGenerateContent", "streamRawPredict", "serverStreamingPredict"})
_DEFERRED = frozenset({"batchGenerateContent", "asyncBatchEmbedContent", "predictLongRunning"})
_WITHOUT_OUTPUT = frozenset({"countTokens", "embedContent", "batchEmbedContents", "predict"})

_PARTS = ("candidates/*/content/parts/*/text",)
_RESPONSE = select(
    "modelVersion",
    "usageMetadata",
    "error",
    "candidates/*/finishReason",
    "promptFeedback/blockReason",
    texts=_PARTS,
)
_TOTAL = "totalTokenCount"
_COUNTS = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    _TOTAL,
)
_USAGE = paths(*_COUNTS)
_DETAILS = ("promptTokensDetails", "candidatesTokensDetails")
_MODALITIES = ("AUDIO", "IMAGE")  # no set: what stands in a response may have no hash


def _read_request(path: str, _: bytes, body: bytes) -> RequestReading:
    named = _OPERATION.search(path)
    model, operation = (unquote(named[1]), named[2]) if named else (None, "")
    is_streaming, is_free = operation in _STREAMS, operation == "countTokens"
    if not body:
        return RequestReading(model, is_streaming=is_streaming, is_free=is_free)
    fields = read_fields(body, _REQUEST)
    if len({name.partition("/")[0] for name in fields if "/" in name}) > 1:
        raise invalid_body("'generationConfig' stands twice, in two spellings.")
    limit = 0 if operation in _WITHOUT_OUTPUT else read.limit(fields, *_LIMITS)
    answers = read.answers(fields, *_ANSWERS)
    is_deferred = operation in _DEFERRED
    return RequestReading(model, limit, is_streaming, is_free=is_free, answers=answers, is_deferred=is_deferred)


# System parameters, which all APIs of Google take (cloud.google.com/apis/docs/system-parameters).
_MASK_FIELD = re.compile(rb"(?<![^\n])x-goog-fieldmask: ([^\r]*)")
_MASK_PARTS = re.compile(r"([(),])")
_WITH_USAGE = frozenset({"*", "usageMetadata", "usage_metadata"})


def _check_parameters(query: bytes, fields: HeaderBlock) -> None:
    masks = [mask.decode("latin-1") for mask in _MASK_FIELD.findall(fields)]
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        parameter = name.removeprefix("$").lower()
        if parameter == "fields":
            masks.append(value)
        elif parameter == "callback" or (parameter == "alt" and value.partition(";")[0] not in ("json", "sse")):
            raise Refused(Refusal.BAD_REQUEST, f"The call is priced by JSON; {name[:20]!r} asks for another response.")
    if not all(map(_has_usage, masks)):
        raise Refused(Refusal.BAD_REQUEST, "The field mask leaves out 'usageMetadata', by which the call is priced.")


def _has_usage(mask: str) -> bool:
    """Whether a mask has all of the usage: `candidates(content),usageMetadata` has."""
    depth, path = 0, ""
    for part in _MASK_PARTS.split(mask + ","):
        if part in ("(", ")"):
            depth, path = depth + (1 if part == "(" else -1), path + "/"
        elif part != "," and not depth:
            path += part
        elif not depth:
            if path.strip() in _WITH_USAGE:
                return True
            path = ""
    return False


def _state(fields: Fields, _: bytes) -> Statement:
    model, metadata = fields.get("modelVersion"), fields.get("usageMetadata")
    is_finished = fields.get("candidates/*/finishReason") or fields.get("promptFeedback/blockReason")
    return Statement(
        model if isinstance(model, str) else None,
        pick_counts(metadata, _USAGE) | _modalities(metadata),
        bool(fields.get("error")),
        True if is_finished else None,
    )


def _modalities(metadata: Any) -> dict[str, int | Decimal]:
    """Counts by modality, named `promptTokensDetails/AUDIO`."""
    counts: dict[str, int | Decimal] = {}
    for name in _DETAILS if isinstance(metadata, dict) else ():
        details = metadata.get(name)
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict) and detail.get("modality") in _MODALITIES:
                counts[f"{name}/{detail['modality']}"] = number(detail.get("tokenCount")) or 0
    return counts


def _normalize(counts: Counts) -> Usage | None:
    named = [name for name in _COUNTS if name in counts]
    if named == [_TOTAL]:  # of a cached content, which is all input
        return usage_of({UsageClass.INPUT: first(counts, _TOTAL)})
    if not named:
        return None
    # A count of zero is left out by some serializers; once there is any, the prompt is known.
    given = total(first(counts, "promptTokenCount") or 0, first(counts, "toolUsePromptTokenCount"))
    return usage_of(
        {
            UsageClass.INPUT: given,
            UsageClass.CACHED_INPUT: first(counts, "cachedContentTokenCount"),
            UsageClass.INPUT_AUDIO: first(counts, "promptTokensDetails/AUDIO"),
            UsageClass.INPUT_IMAGE: first(counts, "promptTokensDetails/IMAGE"),
            UsageClass.OUTPUT: _output(counts, given or 0),
            UsageClass.REASONING: first(counts, "thoughtsTokenCount"),
            UsageClass.OUTPUT_AUDIO: first(counts, "candidatesTokensDetails/AUDIO"),
            UsageClass.OUTPUT_IMAGE: first(counts, "candidatesTokensDetails/IMAGE"),
        }
    )


def _output(counts: Counts, given: int) -> int | None:
    whole, candidates = first(counts, _TOTAL), first(counts, "candidatesTokenCount")
    parts = total(candidates, first(counts, "thoughtsTokenCount"))
    if whole is None or whole < given:
        return parts
    rest = whole - given
    return rest if parts is None or rest >= parts or _is_sum(counts, whole - (candidates or 0)) else parts


def _is_sum(counts: Counts, beside: int) -> bool:
    """Whether a total that has so many tokens beside its candidates is of these counts, and not of an earlier chunk:
    the last of some streams has none. Thoughts and tool use may each stand within the others.
    """
    beside -= first(counts, "promptTokenCount") or 0
    return beside in (0, first(counts, "toolUsePromptTokenCount"), first(counts, "thoughtsTokenCount"))


_says_more = member_finder("usageMetadata", "error", "finishReason", "blockReason")

GEMINI = Reader(
    "gemini",
    _read_request,
    ResponseFormat(_RESPONSE, _state, _normalize, _says_more, text_counter("text")),
    _check_parameters,
)
