"""OpenAI and what speaks like it: chat, completions, Responses, embeddings, images, audio.

Requests: platform.openai.com/docs/api-reference. Azure names the model in the path (`/deployments/NAME/`), OpenRouter
takes more `models`, of which one answers where the first does not (openrouter.ai/docs/features/model-routing).
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from gateway.proxy.metering.documents.selection import Fields, select
from gateway.proxy.metering.framing import media_type
from gateway.proxy.metering.readers import fields as read
from gateway.proxy.metering.readers.forms import form_fields
from gateway.proxy.metering.readers.numbers import paths, pick_counts, rename
from gateway.proxy.metering.readers.reader import Reader
from gateway.proxy.metering.readers.reading import Counts, RequestReading, Statement
from gateway.proxy.metering.readers.response import ResponseFormat, member_finder, text_counter
from gateway.proxy.metering.strict_json import invalid_body, read_fields
from policies.usage.counts import Usage, UsageClass

_ASKS_FOR_USAGE = "stream_options/include_usage"
_ALTERNATIVES = "models"
_NAMES_OF_ALTERNATIVES = tuple(f"{_ALTERNATIVES}/{index}" for index in range(16))
_ONE_MODEL = (
    "model",
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "stream",
    "background",
    _ASKS_FOR_USAGE,
)
_REQUEST = select(*_ONE_MODEL, *_NAMES_OF_ALTERNATIVES, sizes=(_ALTERNATIVES,))
_NOTHING_ELSE = frozenset(_ONE_MODEL) | {"response_format"}  # which is in forms
_FORM = frozenset({"model", "n", "stream", "response_format"})
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
_STORED = re.compile(r"/(?:responses|completions)/[^/]")
_WITHOUT_OUTPUT = ("/embeddings", "/moderations")
_RESPONSES, _BATCHES = ("/responses", "/responses/"), ("/batches", "/batches/")
_COUNTS_ONLY = "/responses/input_tokens"
_WITH_USAGE_OPTION = "/completions"  # chat and legacy; the other streams always tell

_MESSAGE = ("content", "content/*/text", "refusal", "reasoning_content", "tool_calls/*/function/arguments")
_OUTPUT_TEXTS = ("output/*/content/*/text", "output/*/arguments")
_TEXTS = (
    *(f"choices/*/message/{path}" for path in _MESSAGE),
    "choices/*/text",
    *_OUTPUT_TEXTS,
    "text",
    "delta",
)
_RESPONSE = select(
    "model",
    "object",
    "type",
    "status",
    "usage",
    "error",
    "response/model",
    "response/status",
    "response/usage",
    "response/error",
    "x_groq/usage",
    "choices/*/usage",
    sizes=("choices",),
    texts=_TEXTS,
)
_IN_STREAMS, _CHUNK = frozenset({"x_groq", "choices"}), "chat.completion.chunk"
_GENERATED = frozenset({"choices", "error", "status", "text"})  # what only a response that generates has
_TOTAL = "total_tokens"
_INPUT, _OUTPUT, _REASONING = UsageClass.INPUT, UsageClass.OUTPUT, UsageClass.REASONING
# The counts of most answers, which are called what they count; the other names of a class follow in order.
_CLASSES: dict[str, str] = {
    "prompt_tokens": _INPUT,
    "prompt_tokens_details/cached_tokens": UsageClass.CACHED_INPUT,
    "prompt_tokens_details/cache_write_tokens": UsageClass.CACHE_WRITE,
    "prompt_tokens_details/audio_tokens": UsageClass.INPUT_AUDIO,
    "prompt_tokens_details/image_tokens": UsageClass.INPUT_IMAGE,
    "completion_tokens": _OUTPUT,
    "completion_tokens_details/reasoning_tokens": _REASONING,
    "completion_tokens_details/audio_tokens": UsageClass.OUTPUT_AUDIO,
    "completion_tokens_details/image_tokens": UsageClass.OUTPUT_IMAGE,
}
_OTHER_NAMES: dict[str, UsageClass] = {
    "input_tokens": _INPUT,
    "input_tokens_details/cached_tokens": UsageClass.CACHED_INPUT,
    "input_token_details/cached_tokens": UsageClass.CACHED_INPUT,
    "prompt_cache_hit_tokens": UsageClass.CACHED_INPUT,
    "cached_tokens": UsageClass.CACHED_INPUT,
    "input_tokens_details/cache_write_tokens": UsageClass.CACHE_WRITE,
    "input_token_details/cache_write_tokens": UsageClass.CACHE_WRITE,
    "input_tokens_details/audio_tokens": UsageClass.INPUT_AUDIO,
    "input_token_details/audio_tokens": UsageClass.INPUT_AUDIO,
    "input_tokens_details/image_tokens": UsageClass.INPUT_IMAGE,
    "input_token_details/image_tokens": UsageClass.INPUT_IMAGE,
    "output_tokens": _OUTPUT,
    "output_tokens_details/reasoning_tokens": _REASONING,
    "output_tokens_details/audio_tokens": UsageClass.OUTPUT_AUDIO,
    "output_tokens_details/image_tokens": UsageClass.OUTPUT_IMAGE,
}
_USAGE = paths(_TOTAL, "seconds", "cost", *_OTHER_NAMES, called=_CLASSES)
_LAST_EVENT = re.compile(
    r"(?:response\.(?:completed|incomplete|failed)|image_(?:generation|edit)\.completed|(?:transcript\.text|speech\.audio)\.done)"
)
_TYPE_WITHIN = 100  # the first bytes of an event, among which OpenAI writes its type
_ERRORS = frozenset({"error", "response.failed"})
_TOLD_OF_ERRORS = frozenset({"type", "status", "error", "response/error", "response/status"})

_says_more = member_finder("usage", "error", types=_LAST_EVENT.pattern)
_count_text = text_counter("content", "delta", "arguments", "text", "refusal", "reasoning_content", "reasoning")


def _read_request(path: str, content_type: bytes, body: bytes) -> RequestReading:
    if path.endswith(_COUNTS_ONLY):
        return RequestReading(is_free=True)
    deployment = _deployment(path)
    if not body:
        return RequestReading(deployment, is_retrieval=_STORED.search(path) is not None)
    is_form = media_type(content_type) == b"multipart/form-data"
    fields = form_fields(content_type, body, _FORM) if is_form else read_fields(body, _REQUEST)
    model = read.text(fields, "model") if deployment is None else deployment
    limit = read.limit(fields, "max_completion_tokens", "max_tokens", "max_output_tokens")
    asks_for_usage = _ASKS_FOR_USAGE in fields and read.flag(fields, _ASKS_FOR_USAGE)
    is_streaming = "stream" in fields and read.flag(fields, "stream")
    needs_usage_option = is_streaming and not asks_for_usage and path.endswith(_WITH_USAGE_OPTION)
    max_output = 0 if path.endswith(_WITHOUT_OUTPUT) else limit
    answers = read.answers(fields, "n", "best_of")
    is_deferred = path.endswith(_BATCHES) or ("background" in fields and _is_in_background(path, fields))
    others = () if _NOTHING_ELSE.issuperset(fields) else _alternatives(fields)
    return RequestReading(model, max_output, is_streaming, needs_usage_option, False, answers, others, is_deferred)


def _is_in_background(path: str, fields: Fields) -> bool:
    return path.endswith(_RESPONSES) and read.flag(fields, "background")  # of an image it is the colour


def _alternatives(fields: Fields) -> tuple[str, ...]:
    """The other models that may answer; raises Refused for what is no list of them."""
    names = [fields[name] for name in _NAMES_OF_ALTERNATIVES if name in fields]
    found = tuple(name for name in names if isinstance(name, str) and name)
    if len(found) != fields.get(_ALTERNATIVES):
        raise invalid_body(f"{_ALTERNATIVES!r} must be a list of at most {len(_NAMES_OF_ALTERNATIVES)} names.")
    return found


@lru_cache(maxsize=1024)
def _deployment(path: str) -> str | None:
    found = _DEPLOYMENT.search(path)
    return unquote(found[1]) if found else None


def _state(fields: Fields, _: bytes) -> Statement:
    kind = fields.get("type")
    usage = fields.get("response/usage") or fields.get("usage")
    if not usage and fields.get("object") == _CHUNK:
        usage = fields.get("x_groq/usage") or fields.get("choices/*/usage")  # so Groq and Moonshot say it unasked
    is_usage_event = fields.get("choices") == 0 and isinstance(usage, dict)  # it comes after all content
    is_last = isinstance(kind, str) and _LAST_EVENT.fullmatch(kind) is not None
    model = fields.get("response/model") or fields.get("model")
    counts = pick_counts(usage, _USAGE)
    if len(counts) == 1 and _TOTAL in counts and kind is None and _GENERATED.isdisjoint(fields):
        counts[_INPUT] = counts[_TOTAL]  # so embeddings and rankings of some providers say it
    return Statement(
        model if isinstance(model, str) else None,
        counts,
        not _TOLD_OF_ERRORS.isdisjoint(fields) and _is_error(fields, kind),
        True if is_usage_event or is_last else None,
    )


def _is_error(fields: Fields, kind: object) -> bool:
    if isinstance(kind, str) and kind in _ERRORS:
        return True
    if fields.get("error") or fields.get("response/error") or fields.get("response/status") == "failed":
        return True
    return fields.get("object") == "response" and fields.get("status") == "failed"


def _normalize(counts: Counts) -> Usage | None:
    if not counts:
        return None
    found: dict[Any, Any] = dict(counts)
    whole, seconds, cost = found.pop(_TOTAL, None), found.pop("seconds", None), found.pop("cost", None)
    if not _OTHER_NAMES.keys().isdisjoint(found):
        rename(found, _OTHER_NAMES)
    given, output, reasoning = found.get(_INPUT), found.get(_OUTPUT), found.get(_REASONING)
    if given is None or output is None:
        _complete(found, whole)
    elif reasoning and whole == given + output + reasoning:
        found[_OUTPUT] = output + reasoning  # xAI counts reasoning beside the completion, and the total says so
    if not found and seconds is None and cost is None:
        return None
    return Usage(found, None if seconds is None else Decimal(seconds), None if cost is None else Decimal(cost))


def _complete(found: dict[Any, Any], whole: Any) -> None:
    """Adds the root that is not reported, where the total tells it; embeddings have no output."""
    known, missing = (_INPUT, _OUTPUT) if _INPUT in found else (_OUTPUT, _INPUT)
    if known in found and isinstance(whole, int) and whole > found[known]:
        found[missing] = whole - found[known]


def _text_bytes(text: bytes) -> int:
    """Events of Responses repeat at the end of each part what its deltas have said."""
    is_repeating = text.find(b'"response.', 0, _TYPE_WITHIN) >= 0 and b'.delta"' not in text
    return 0 if is_repeating else _count_text(text)


OPENAI = Reader(
    "openai",
    _read_request,
    ResponseFormat(_RESPONSE, _state, _normalize, _says_more, _text_bytes, _IN_STREAMS),
)
