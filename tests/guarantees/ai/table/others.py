"""Bedrock (docs.aws.amazon.com/bedrock/latest/APIReference), Ollama (docs/api.md), MCP (modelcontextprotocol.io)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.guarantees.ai.table.row import Row, encoded, padded, split, varied
from tests.proxy.metering.bodies import CONVERSE_USAGE, DELTA_FRAME, METRICS, THROTTLED, ollama
from tests.proxy.metering.cases import TRAP
from tests.proxy.metering.wire import FRAMES, NDJSON, SSE, body, chunk_frame, event_frame, events, lines

MODEL = "/model/anthropic.claude-5-v1:0"
LOST = {"counts": {}, "charge": 0, "outcome": "upstream_error", "source": "missing"}


def _converse() -> Iterator[Row]:
    """CONVERSE_USAGE: 10 input, 70 output, 800 read from the cache, 200 written to it, 150 of them for an hour."""
    counts = {"input": 1010, "cached_input": 800, "cache_write": 200, "cache_write_1h": 150, "output": 70}
    charge = 10 * 10 + 800 * 1 + 50 * 12 + 150 * 20 + 70 * 50
    asked = body({"messages": [{"role": "user", "content": [{"text": "hi"}]}]})
    message = {"output": {"message": {"content": [{"text": TRAP}]}}, "stopReason": "end_turn", "usage": CONVERSE_USAGE}
    plain = Row("converse", f"{MODEL}/converse", asked, body(message), counts, charge)
    yield plain
    yield from list(encoded(plain))[:2]
    sent = event_frame("messageStart", {"role": "assistant"}) + DELTA_FRAME * 3
    sent += event_frame("messageStop", {"stopReason": "end_turn"})
    sent += event_frame("metadata", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 5}})
    streamed = varied(plain, name="converse frames", path=f"{MODEL}/converse-stream", sent=sent, content_type=FRAMES)
    yield streamed
    yield from split(streamed, 1, 100)
    yield varied(streamed, name="converse frames, throttled", sent=DELTA_FRAME + THROTTLED, **LOST)
    yield varied(streamed, name="converse frames, client closed at the last", leaves=True, rest=None)


def _invoke() -> Iterator[Row]:
    """METRICS: 10 input, 70 output, 800 read from the cache, 200 written to it."""
    counts = {"input": 1010, "cached_input": 800, "cache_write": 200, "output": 70}
    charge = 10 * 10 + 800 * 1 + 200 * 12 + 70 * 50
    asked = body({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": []})
    usage = {"input_tokens": 10, "output_tokens": 1}
    sent = chunk_frame({"type": "message_start", "message": {"model": "claude-5", "usage": usage}})
    sent += chunk_frame({"type": "content_block_delta", "delta": {"type": "text_delta", "text": TRAP}})
    sent += chunk_frame({"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS})
    path = f"{MODEL}/invoke-with-response-stream"
    streamed = Row("invoke frames", path, asked, sent, counts, charge, content_type=FRAMES)
    yield streamed
    yield from split(streamed, 1)
    llama = body({"generation": TRAP, "prompt_token_count": 25, "generation_token_count": 30})
    yield Row("invoke, Llama", "/model/meta.llama4/invoke", asked, llama, {"input": 25, "output": 30}, 250 + 1500)
    wrong = DELTA_FRAME + event_frame("metadata", {"usage": CONVERSE_USAGE})[:-1] + b"\0"
    text = -(-len(_escaped(TRAP)) // 4)
    estimate = {"counts": {"input": 100, "output": text}, "charge": 1000 + text * 50, "source": "estimated"}
    row = varied(streamed, request=padded(asked, 400), path=f"{MODEL}/converse-stream", sent=wrong)
    yield varied(row, name="converse frames, wrong checksum", **estimate)


def _escaped(text: str) -> bytes:
    return body(text)[1:-1]


def _ollama() -> Iterator[Row]:
    asked = body({"model": "llama3", "messages": [{"role": "user", "content": "hi"}]})
    last = ollama("", done=True, done_reason="stop", prompt_eval_count=26, eval_count=290)
    counts, charge = {"input": 26, "output": 290}, 260 + 14500
    streamed = Row("ollama", "/api/chat", asked, lines(ollama(), ollama(), last), counts, charge, content_type=NDJSON)
    yield streamed
    yield from split(streamed, 1, 100)
    yield from encoded(streamed)
    whole = body({"model": "llama3", "stream": False, "messages": []})
    yield Row("ollama document", "/api/chat", whole, body(last), counts, charge)
    yield Row(
        "ollama embeddings",
        "/api/embed",
        asked,
        body({"embeddings": [[0.5]], "prompt_eval_count": 8}),
        {"input": 8, "output": 0},
        80,
    )
    failed = lines(ollama(), {"error": "an error was encountered while running the model"})
    yield varied(streamed, name="ollama, error line", sent=failed, **LOST)
    cached = lines(ollama(), ollama("", done=True, eval_count=290))
    estimate = {"counts": {"input": 100, "output": 290}, "charge": 1000 + 14500, "source": "estimated"}
    yield varied(streamed, name="ollama, prompt not told", request=padded(asked, 400), sent=cached, **estimate)
    left = {"outcome": "client_aborted", "leaves": True, "rest": lines(last)}
    yield varied(streamed, name="ollama, client left", sent=lines(ollama(), ollama()), **left)


def _mcp() -> Iterator[Row]:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "weather", "arguments": {}}}
    result = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": TRAP}], "isError": False}}
    plain = Row("tool", "/mcp", body(call), body(result), {}, 7, source="none")
    yield plain
    streamed = varied(plain, name="tool, events", sent=events(("message", result)), content_type=SSE)
    yield streamed
    yield from split(streamed, 1)
    search = {**call, "params": {"name": "search_web", "arguments": {}}}
    yield varied(plain, name="tool by pattern", request=body(search), charge=30)
    failed = {"charge": 0, "outcome": "upstream_error"}
    tool_error = {"jsonrpc": "2.0", "id": 1, "result": {"content": [], "isError": True}}
    yield varied(plain, name="tool failed", sent=body(tool_error), **failed)
    refused = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "Unknown tool"}}
    yield varied(plain, name="tool unknown", sent=body(refused), **failed)
    for method in ("initialize", "tools/list", "ping"):
        protocol = {"jsonrpc": "2.0", "id": 1, "method": method}
        yield varied(
            plain, name=f"{method} is free", request=body(protocol), sent=body({**result, "result": {}}), charge=0
        )
    notice = body({"jsonrpc": "2.0", "method": "notifications/initialized"})
    yield varied(plain, name="notification is free", request=notice, sent=b"", status=202, charge=0)


ROWS = [*_converse(), *_invoke(), *_ollama(), *_mcp()]
