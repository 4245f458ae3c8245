"""Calls to AI APIs in their wire forms, each with what the provider reports."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

# A model can be made to write this; it counts nothing.
TEXT = 'It costs "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0} and no more. '
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class WireForm:
    """One call. `answer` is what the provider sends to a body; input counts all that was read, from caches too.

    `leaves`: the client closes once the response has begun. The provider goes on to the end, and bills it.
    """

    name: str
    api: str
    path: str
    body: Mapping[str, Any]
    answer: Callable[[bytes], bytes]
    input: int
    output: int
    content_type: str = "application/json"
    encoding: str = "identity"
    fields: Mapping[str, str] = field(default_factory=dict)
    leaves: bool = False


_CHAT_USAGE = {
    "prompt_tokens": 116000,
    "completion_tokens": 300,
    "total_tokens": 116300,
    "prompt_tokens_details": {"cached_tokens": 100000},
    "completion_tokens_details": {"reasoning_tokens": 200},
}
_RESPONSES_USAGE = {
    "input_tokens": 5000,
    "input_tokens_details": {"cached_tokens": 4000},
    "output_tokens": 700,
    "output_tokens_details": {"reasoning_tokens": 600},
    "total_tokens": 5700,
}
_MESSAGES_USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 30000,
    "cache_read_input_tokens": 119980,
    "output_tokens": 400,
}
_GEMINI_USAGE = {
    "promptTokenCount": 2000,
    "candidatesTokenCount": 100,
    "thoughtsTokenCount": 900,
    "totalTokenCount": 3000,
}


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _events(*documents: object, end: str = "\n", last: str = "") -> bytes:
    texts = [
        (f"event: {document['type']}{end}" if isinstance(document, dict) and "type" in document else "")
        + f"data: {_json(document).decode()}{end}{end}"
        for document in documents
    ]
    return "".join([*texts, f"data: {last}{end}{end}" if last else ""]).encode()


def _chunk(content: str) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": None}],
    }


def _completion(size: int = 1) -> Callable[[bytes], bytes]:
    message = {"role": "assistant", "content": TEXT * size}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    document = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}
    return lambda _: _json({**document, "usage": _CHAT_USAGE})


def _chat_stream(*, end: str = "\n", size: int = 1) -> Callable[[bytes], bytes]:
    """Tells its usage only where the request asks for it, as OpenAI does."""
    finish = {**_chunk(""), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {**_chunk(""), "choices": [], "usage": _CHAT_USAGE}

    def answer(body: bytes) -> bytes:
        is_asked = (json.loads(body).get("stream_options") or {}).get("include_usage")
        told = [usage] if is_asked else []
        return _events(_chunk(TEXT), _chunk(TEXT * size), finish, *told, end=end, last="[DONE]")

    return answer


def _broken_chat_stream(*, tells: bool) -> bytes:
    """An error within a stream that has begun with 200: before the usage, or behind it."""
    error = {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}
    usage = {**_chunk(""), "choices": [], "usage": _CHAT_USAGE}
    return _events(_chunk(TEXT), *([usage] if tells else []), error)


def _constant(answer: bytes) -> Callable[[bytes], bytes]:
    return lambda _: answer


def _response() -> dict[str, Any]:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    more = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "error": None, "created_at": 1}
    said = {"id": "r", "object": "response", "model": "gpt-4o", "status": "completed", "output": [item]}
    return {**said, **more, "usage": _RESPONSES_USAGE}


_RESPONSE_EVENTS = _events(
    {"type": "response.created", "sequence_number": 0, "response": {**_response(), "usage": None, "output": []}},
    {
        "type": "response.output_text.delta",
        "sequence_number": 1,
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "delta": TEXT,
        "logprobs": [],
    },
    {"type": "response.completed", "sequence_number": 2, "response": _response()},
)
_MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn"}
_MESSAGE_EVENTS = _events(
    {
        "type": "message_start",
        "message": {**_MESSAGE, "stop_reason": None, "content": [], "usage": {**_MESSAGES_USAGE, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 400}},
    {"type": "message_stop"},
)


_OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
_MESSAGE_BROKEN = _events(
    {
        "type": "message_start",
        "message": {**_MESSAGE, "stop_reason": None, "content": [], "usage": {**_MESSAGES_USAGE, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
    _OVERLOADED,
)


def _ended_response(kind: str, **more: Any) -> bytes:
    """The events of a response that ends as `kind`."""
    begun = {"type": "response.created", "sequence_number": 0, "response": {**_response(), "usage": None, "output": []}}
    ended = {"type": f"response.{kind}", "sequence_number": 1, "response": {**_response(), "status": kind, **more}}
    return _events(begun, ended)


def _gemini(**usage: int) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": TEXT}]}, "index": 0, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}


_GEMINI_PARTS = [_gemini(promptTokenCount=2000, totalTokenCount=2000), _gemini(**_GEMINI_USAGE)]
_OLLAMA_LINES = [
    {
        "model": "llama3",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": TEXT},
        **more,
    }
    for more in ({"done": False}, {"done": True, "prompt_eval_count": 26, "eval_count": 290})
]


def _frame(kind: str, document: object) -> bytes:
    names = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in names.items()
    )
    payload = _json(document)
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + crc32(prelude).to_bytes(4, "big") + headers + payload
    return message + crc32(message).to_bytes(4, "big")


_CONVERSE = (
    _frame("messageStart", {"role": "assistant"})
    + _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": TEXT}})
    + _frame("messageStop", {"stopReason": "end_turn"})
    + _frame("metadata", {"usage": {"inputTokens": 1500, "outputTokens": 80, "totalTokens": 1580}})
)
_MESSAGES = [{"role": "user", "content": "Hello"}]
_CONTENTS = [{"role": "user", "parts": [{"text": "Hello"}]}]
_CHAT, _RESPONSES, _ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SSE = "text/event-stream"


def _chat(
    name: str, answer: Callable[[bytes], bytes], encoding: str = "identity", *, leaves: bool = False, **more: Any
) -> WireForm:
    kind = SSE if more.get("stream") else "application/json"
    return WireForm(
        name,
        "openai",
        _CHAT,
        {"messages": _MESSAGES, **more},
        answer,
        116000,
        300,
        content_type=kind,
        encoding=encoding,
        leaves=leaves,
    )


_TELLS = {"include_usage": True}
_LARGE = 9 * MEBIBYTE // len(TEXT)
_CLAUDE = {"max_tokens": 1000, "messages": _MESSAGES}
WIRE_FORMS = (
    _chat("OpenAI chat, JSON", _completion()),
    _chat("the same, `Accept-Encoding: br`", _completion(), "br"),
    _chat("the same, 9 MiB", _completion(_LARGE)),
    _chat("OpenAI chat, stream, usage not asked for", _chat_stream(), stream=True),
    _chat("the same, usage asked for", _chat_stream(), stream=True, stream_options=_TELLS),
    _chat("the same, gzip", _chat_stream(), "gzip", stream=True, stream_options=_TELLS),
    _chat("the same, CRLF", _chat_stream(end="\r\n"), stream=True, stream_options=_TELLS),
    _chat("the same, one event of 2 MiB", _chat_stream(size=_LARGE // 4), stream=True, stream_options=_TELLS),
    WireForm(
        "OpenAI responses, JSON", "openai", _RESPONSES, {"input": "Hello"}, _constant(_json(_response())), 5000, 700,
    ),
    WireForm(
        "OpenAI responses, stream", "openai", _RESPONSES, {"input": "Hello", "stream": True},
        _constant(_RESPONSE_EVENTS), 5000, 700, SSE,
    ),
    WireForm(
        "OpenAI embeddings", "openai", "/v1/embeddings", {"input": "Hello"},
        _constant(
            _json(
                {
                    "object": "list",
                    "model": "text-embedding-3-small",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
                    "usage": {"prompt_tokens": 8, "total_tokens": 8},
                }
            )
        ), 8, 0,
    ),
    WireForm(
        "Anthropic messages, JSON, prompt cached", "anthropic", _ANTHROPIC, _CLAUDE,
        _constant(_json({**_MESSAGE, "content": [{"type": "text", "text": TEXT}], "usage": _MESSAGES_USAGE})),
        150000, 400,
    ),
    WireForm(
        "Anthropic messages, stream, prompt cached", "anthropic", _ANTHROPIC, {**_CLAUDE, "stream": True},
        _constant(_MESSAGE_EVENTS), 150000, 400, SSE,
    ),
    WireForm(
        "Gemini, JSON, with thoughts", "gemini", "/v1beta/models/MODEL:generateContent", {"contents": _CONTENTS},
        _constant(_json(_gemini(**_GEMINI_USAGE))), 2000, 1000,
    ),
    WireForm(
        "Gemini, stream, `alt=sse`", "gemini", "/v1beta/models/MODEL:streamGenerateContent?alt=sse",
        {"contents": _CONTENTS}, _constant(_events(*_GEMINI_PARTS, end="\r\n")), 2000, 1000, SSE,
    ),
    WireForm(
        "Gemini, stream, JSON array", "gemini", "/v1beta/models/MODEL:streamGenerateContent", {"contents": _CONTENTS},
        _constant(b"[" + b",\r\n".join(map(_json, _GEMINI_PARTS)) + b"]"), 2000, 1000,
    ),
    WireForm(
        "Ollama chat, NDJSON", "ollama", "/api/chat", {"messages": _MESSAGES},
        _constant(b"".join(_json(line) + b"\n" for line in _OLLAMA_LINES)), 26, 290, "application/x-ndjson",
    ),
    WireForm(
        "Bedrock converse, event stream", "bedrock", "/model/MODEL/converse-stream",
        {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]},
        _constant(_CONVERSE), 1500, 80, "application/vnd.amazon.eventstream",
    ),
    _chat("OpenAI chat, stream, the client leaves", _chat_stream(), stream=True, stream_options=_TELLS, leaves=True),
    WireForm(
        "OpenAI responses, stream, the client leaves", "openai", _RESPONSES, {"input": "Hello", "stream": True},
        _constant(_RESPONSE_EVENTS), 5000, 700, SSE, leaves=True,
    ),
    WireForm(
        "Anthropic messages, stream, the client leaves", "anthropic", _ANTHROPIC, {**_CLAUDE, "stream": True},
        _constant(_MESSAGE_EVENTS), 150000, 400, SSE, leaves=True,
    ),
    WireForm(
        "OpenAI chat, stream, an error before the usage", "openai", _CHAT,
        {"messages": _MESSAGES, "stream": True, "stream_options": _TELLS},
        _constant(_broken_chat_stream(tells=False)), 0, 0, SSE,
    ),
    WireForm(
        "OpenAI chat, stream, an error behind the usage", "openai", _CHAT,
        {"messages": _MESSAGES, "stream": True, "stream_options": _TELLS},
        _constant(_broken_chat_stream(tells=True)), 116000, 300, SSE,
    ),
    WireForm(
        "OpenAI responses, stream, `response.failed`", "openai", _RESPONSES, {"input": "Hello", "stream": True},
        _constant(_ended_response("failed", usage=None, error={"code": "server_error", "message": "x"})), 0, 0, SSE,
    ),
    WireForm(
        "OpenAI responses, stream, `response.incomplete`", "openai", _RESPONSES, {"input": "Hello", "stream": True},
        _constant(_ended_response("incomplete", incomplete_details={"reason": "max_output_tokens"})), 5000, 700, SSE,
    ),
    WireForm(
        "Anthropic messages, stream, overloaded after its begin", "anthropic", _ANTHROPIC,
        {**_CLAUDE, "stream": True}, _constant(_MESSAGE_BROKEN), 150000, 1, SSE,
    ),
    WireForm(
        "Gemini, stream, an error after work", "gemini", "/v1beta/models/MODEL:streamGenerateContent?alt=sse",
        {"contents": _CONTENTS},
        _constant(_events(_GEMINI_PARTS[1], {"error": {"code": 503, "status": "UNAVAILABLE"}}, end="\r\n")),
        2000, 1000, SSE,
    ),
    WireForm(
        "Ollama chat, NDJSON, an error line", "ollama", "/api/chat", {"messages": _MESSAGES},
        _constant(_json(_OLLAMA_LINES[0]) + b"\n" + _json({"error": "the runner has stopped"}) + b"\n"), 0, 0,
        "application/x-ndjson",
    ),
)  # fmt: skip
