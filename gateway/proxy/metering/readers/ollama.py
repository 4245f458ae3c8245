"""Ollama's own API: one document, or one line of JSON a chunk, of which the last has the counts.

Old versions leave out `prompt_eval_count` for a cached prompt: the input is then unknown, not 0.
"""

from __future__ import annotations

from gateway.proxy.metering.documents.selection import Fields, select
from gateway.proxy.metering.readers import fields as read
from gateway.proxy.metering.readers.numbers import first, paths, pick_counts, usage_of
from gateway.proxy.metering.readers.reader import Reader
from gateway.proxy.metering.readers.reading import Counts, RequestReading, Statement
from gateway.proxy.metering.readers.response import ResponseFormat, member_finder, text_counter
from gateway.proxy.metering.strict_json import read_fields
from policies.usage.counts import Usage, UsageClass

_REQUEST = select("model", "name", "stream", "options/num_predict")
_COUNTS = ("prompt_eval_count", "eval_count", "prompt_eval_cached_count")
_USAGE = paths(*_COUNTS)
_RESPONSE = select("model", "done", "error", *_COUNTS, texts=("message/content", "message/thinking", "response"))
_GENERATING = ("/api/chat", "/api/generate")
_EMBEDDING = ("/api/embed", "/api/embeddings")


def _read_request(path: str, _: bytes, body: bytes) -> RequestReading:
    if not body:
        return RequestReading()
    fields = read_fields(body, _REQUEST)
    return RequestReading(
        read.text(fields, "model") or read.text(fields, "name"),
        0 if path.endswith(_EMBEDDING) else read.limit(fields, "options/num_predict"),
        read.flag(fields, "stream", default=path.endswith(_GENERATING)),
    )


def _state(fields: Fields, _: bytes) -> Statement:
    model, done = fields.get("model"), fields.get("done")
    return Statement(
        model if isinstance(model, str) else None,
        pick_counts(fields, _USAGE),
        bool(fields.get("error")),
        done if isinstance(done, bool) else None,
    )


def _normalize(counts: Counts) -> Usage | None:
    return usage_of(
        {
            UsageClass.INPUT: first(counts, "prompt_eval_count"),
            UsageClass.CACHED_INPUT: first(counts, "prompt_eval_cached_count"),
            UsageClass.OUTPUT: first(counts, "eval_count"),
        }
    )


def _says_more(text: bytes) -> bool:
    return b'"done":false' not in text or _has_counts(text)


_has_counts = member_finder("error", *_COUNTS)

OLLAMA = Reader(
    "ollama",
    _read_request,
    ResponseFormat(_RESPONSE, _state, _normalize, _says_more, text_counter("content", "thinking", "response")),
)
