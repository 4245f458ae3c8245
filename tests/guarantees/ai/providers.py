"""Providers as their official clients expect them: each answers in the form that the request asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.proxy.metering.bodies import STOP, gemini, message_delta, message_start, ollama
from tests.proxy.metering.openai_bodies import chat
from tests.proxy.metering.wire import array, body, compact, events, lines
from tests.proxy.upstream import Exchange

JSON, SSE, NDJSON = "application/json", "text/event-stream", "application/x-ndjson"
TEXT = 'Hello "usage": {"total_tokens": 0} é'
CHAT_USAGE = {"prompt_tokens": 116, "completion_tokens": 20, "total_tokens": 136}
RESPONSE_USAGE = {
    "input_tokens": 200,
    "input_tokens_details": {"cached_tokens": 150, "cache_write_tokens": 0},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 25},
    "total_tokens": 230,
}
CLAUDE_USAGE = {
    "input_tokens": 50,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 0,
    "output_tokens": 9,
}
IMAGE_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
    "output_tokens": 100,
    "total_tokens": 110,
}
HEARD_USAGE = {"type": "tokens", "input_tokens": 40, "output_tokens": 5, "total_tokens": 45}
SOUND = bytes(range(256)) * 8
Answer = tuple[str, bytes]


async def answer(exchange: Exchange) -> None:
    """Answers by the path, and by what the body asks for."""
    content = await exchange.read()
    path = exchange.target.partition("?")[0]
    asked = json.loads(content) if content[:1] == b"{" else {}
    ending = next(ending for ending in _ANSWERS if path.endswith(ending))
    content_type, answered = _ANSWERS[ending](asked, exchange)
    if content_type:
        await exchange.reply(200, answered, content_type=content_type)
    else:
        await exchange.reply(202, b"", content_type="")


def _chat(asked: Mapping[str, Any], _: Exchange) -> Answer:
    """Tells the usage of a stream only if it is asked to, as OpenAI does."""
    if not asked.get("stream"):
        message = {"role": "assistant", "content": TEXT}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        fields = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-5.6", "choices": [choice]}
        return JSON, body({**fields, "usage": CHAT_USAGE})
    is_asked = (asked.get("stream_options") or {}).get("include_usage")
    usage = {"usage": None} if is_asked else {}
    first = chat(None, **usage)
    first["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    last = chat(None, **usage)
    last["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    told = [chat(None, choices=[], usage=CHAT_USAGE)] if is_asked else []
    texts = [chat(TEXT[at : at + 5], **usage) for at in range(0, len(TEXT), 5)]
    return SSE, events(*[{**each, "created": 1} for each in (first, *texts, last, *told)], last="[DONE]")


def _response(asked: Mapping[str, Any], _: Exchange) -> Answer:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    fields = {"id": "r1", "object": "response", "created_at": 1, "model": "gpt-5.6", "tools": [], "tool_choice": "auto"}
    fields |= {"parallel_tool_calls": True, "error": None}
    whole = {**fields, "status": "completed", "output": [item], "usage": RESPONSE_USAGE}
    if not asked.get("stream"):
        return JSON, body(whole)
    begun = {**fields, "status": "in_progress", "output": [], "usage": None}
    at = {"item_id": "m1", "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": empty},
        {"type": "response.output_text.delta", **at, "delta": TEXT, "logprobs": []},
        {"type": "response.output_text.done", **at, "text": TEXT, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return SSE, events(*[(each["type"], {**each, "sequence_number": n}) for n, each in enumerate(said)])


def _embeddings(_: Mapping[str, Any], __: Exchange) -> Answer:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    usage = {"prompt_tokens": 60, "total_tokens": 60}
    return JSON, body({"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage})


def _images(_: Mapping[str, Any], __: Exchange) -> Answer:
    return JSON, body({"created": 1, "data": [{"b64_json": "A" * 4096}], "usage": IMAGE_USAGE})


def _transcription(_: Mapping[str, Any], __: Exchange) -> Answer:
    return JSON, body({"text": TEXT, "usage": HEARD_USAGE})


def _speech(_: Mapping[str, Any], __: Exchange) -> Answer:
    return "audio/mpeg", SOUND


def _messages(asked: Mapping[str, Any], _: Exchange) -> Answer:
    content = [{"type": "text", "text": TEXT}]
    fields = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-5", "stop_sequence": None}
    if not asked.get("stream"):
        return JSON, body({**fields, "content": content, "stop_reason": "end_turn", "usage": CLAUDE_USAGE})
    name, start = message_start(**{**CLAUDE_USAGE, "output_tokens": 1})
    opening = {**start, "message": {**fields, "content": [], "stop_reason": None, **start["message"]}}  # type: ignore[dict-item, index]
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
    closed = {"type": "content_block_stop", "index": 0}
    named = [(str(each["type"]), each) for each in (block, {"type": "ping"}, delta, closed)]
    return SSE, events((name, opening), *named, message_delta(output_tokens=9), STOP)


def _gemini(_: Mapping[str, Any], __: Exchange) -> Answer:
    return JSON, body(_candidate(TEXT, 30, is_last=True))


def _gemini_stream(_: Mapping[str, Any], exchange: Exchange) -> Answer:
    parts = [_candidate(TEXT[:5], 3, is_last=False), _candidate(TEXT[5:], 30, is_last=True)]
    return (SSE, events(*parts, end="\r\n")) if "alt=sse" in exchange.target else (JSON, array(*parts))


def _candidate(text: str, count: int, *, is_last: bool) -> dict[str, Any]:
    """`count` candidates' tokens, and 10 of thoughts at the end."""
    thoughts = {"thoughtsTokenCount": 10, "totalTokenCount": 30 + count} if is_last else {}
    found: dict[str, Any] = gemini(count, is_last=is_last, **thoughts)
    found["candidates"][0]["content"]["parts"] = [{"text": text}]
    return found


def _ollama_chat(asked: Mapping[str, Any], _: Exchange) -> Answer:
    said = ollama(TEXT, created_at="2026-01-01T00:00:00Z")
    counts = {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 29}
    if not asked.get("stream"):
        return JSON, body({**said, **counts})
    return NDJSON, lines(said, {**said, "message": {"role": "assistant", "content": ""}, **counts})


def _mcp(asked: Mapping[str, Any], _: Exchange) -> Answer:
    if "id" not in asked:
        return "", b""
    method = asked.get("method")
    if method == "initialize":
        server = {"name": "weather", "version": "1"}
        version = asked["params"]["protocolVersion"]
        result: dict[str, Any] = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
    elif method == "tools/list":
        result = {"tools": [{"name": "weather", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": TEXT}], "isError": asked["params"]["name"] == "search_web"}
    else:
        unknown = {"code": -32601, "message": "Method not found"}
        return JSON, body({"jsonrpc": "2.0", "id": asked["id"], "error": unknown})
    reply = {"jsonrpc": "2.0", "id": asked["id"], "result": result}
    return (SSE, events(("message", reply))) if method == "tools/call" else (JSON, compact(reply).encode())


_ANSWERS: Mapping[str, Callable[[Mapping[str, Any], Exchange], Answer]] = {
    "/chat/completions": _chat,
    "/responses": _response,
    "/embeddings": _embeddings,
    "/images/generations": _images,
    "/audio/transcriptions": _transcription,
    "/audio/speech": _speech,
    "/v1/messages": _messages,
    ":generateContent": _gemini,
    ":streamGenerateContent": _gemini_stream,
    "/api/chat": _ollama_chat,
    "/mcp": _mcp,
}
