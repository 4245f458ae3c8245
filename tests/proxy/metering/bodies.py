"""Responses as the APIs send them, each with what it reports."""

from __future__ import annotations

from policies.usage.counts import MissingReason, Usage
from tests.proxy.metering.cases import TRAP, Case, used
from tests.proxy.metering.openai_bodies import OPENAI
from tests.proxy.metering.wire import (
    FRAMES,
    JSON,
    NDJSON,
    SSE,
    array,
    body,
    chunk_frame,
    event_frame,
    events,
    frame,
    lines,
)


def message_start(**usage: object) -> tuple[str, object]:
    return "message_start", {"type": "message_start", "message": {"model": "claude-5", "content": [], "usage": usage}}


def message_delta(**usage: object) -> tuple[str, object]:
    return "message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


BLOCK = (
    "content_block_delta",
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TRAP}},
)
STOP = ("message_stop", {"type": "message_stop"})
ANTHROPIC_USAGE = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 80000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 700,
    "service_tier": "standard",
    "server_tool_use": {"web_search_requests": 1},
}
ANTHROPIC_USED = used(input=80312, cached_input=80000, cache_write=300, cache_write_1h=200, output=700)

ITERATIONS = [
    {"type": "compaction", "input_tokens": 180000, "output_tokens": 3500},
    {"type": "message", "input_tokens": 23000, "output_tokens": 1000},
    {"type": "advisor_message", "input_tokens": 800, "cache_read_input_tokens": 20, "output_tokens": 1600},
]
ITERATED = used(input=203820, cached_input=20, output=6100)

ANTHROPIC = [
    Case(
        "iterations",
        "anthropic",
        JSON,
        body({"usage": {"input_tokens": 23000, "output_tokens": 1000, "iterations": ITERATIONS}}),
        ITERATED,
    ),
    Case(
        "stream-iterations",
        "anthropic",
        SSE,
        events(
            message_start(input_tokens=23000, output_tokens=1),
            BLOCK,
            message_delta(input_tokens=23000, output_tokens=1000, iterations=ITERATIONS),
            STOP,
        ),
        ITERATED,
        "claude-5",
    ),
    Case(
        "message",
        "anthropic",
        JSON,
        body({"type": "message", "model": "claude-5", "content": [{"text": TRAP}], "usage": ANTHROPIC_USAGE}),
        ANTHROPIC_USED,
        "claude-5",
    ),
    Case(
        "message-thinking",
        "anthropic",
        JSON,
        body(
            {
                "model": "c",
                "usage": {"input_tokens": 1, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 5}},
            }
        ),
        used(input=1, output=9, reasoning=5),
        "c",
    ),
    Case(
        "stream",
        "anthropic",
        SSE,
        events(
            message_start(**{**ANTHROPIC_USAGE, "output_tokens": 1}),
            ("ping", {"type": "ping"}),
            BLOCK,
            message_delta(output_tokens=700),
            STOP,
        ),
        ANTHROPIC_USED,
        "claude-5",
    ),
    Case(
        "stream-zeros-first",
        "anthropic",
        SSE,
        events(message_start(input_tokens=0, output_tokens=0), BLOCK, message_delta(**ANTHROPIC_USAGE), STOP),
        ANTHROPIC_USED,
        "claude-5",
    ),
    Case(
        "stream-zeros-last",
        "anthropic",
        SSE,
        events(
            message_start(**ANTHROPIC_USAGE),
            BLOCK,
            message_delta(input_tokens=0, cache_read_input_tokens=0, output_tokens=700),
            STOP,
        ),
        ANTHROPIC_USED,
        "claude-5",
    ),
    Case(
        "stream-input-repeated-without-cache",
        "anthropic",
        SSE,
        events(message_start(**ANTHROPIC_USAGE), BLOCK, message_delta(input_tokens=12, output_tokens=700), STOP),
        ANTHROPIC_USED,
        "claude-5",
    ),
    Case(
        "stream-error",
        "anthropic",
        SSE,
        events(
            message_start(input_tokens=25, output_tokens=1),
            BLOCK,
            ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ),
        used(input=25, output=1),
        "claude-5",
        is_error=True,
        is_complete=False,
    ),
    Case(
        "stream-error-that-is-no-json",
        "anthropic",
        SSE,
        events(message_start(input_tokens=25, output_tokens=1)) + b"event: error\ndata: overloaded\n\n",
        used(input=25, output=1),
        "claude-5",
        is_error=True,
        is_complete=False,
    ),
    Case(
        "error-in-200",
        "anthropic",
        JSON,
        body({"type": "error", "error": {"type": "api_error", "message": "x"}}),
        None,
        missing=MissingReason.ABSENT,
        is_error=True,
    ),
    Case(
        "writes-by-ttl-alone",
        "anthropic",
        JSON,
        body({"usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 10}}}),
        used(input=11, cache_write=10, cache_write_1h=10, output=2),
    ),
]


def gemini(candidates: int, *, is_last: bool = False, **usage: object) -> dict[str, object]:
    counts = {"promptTokenCount": 20, "candidatesTokenCount": candidates, "totalTokenCount": 20 + candidates, **usage}
    candidate = {"content": {"parts": [{"text": TRAP}], "role": "model"}, "index": 0}
    if is_last:
        candidate["finishReason"] = "STOP"
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "gemini-3"}


GEMINI_LAST = gemini(
    900,
    is_last=True,
    thoughtsTokenCount=100,
    toolUsePromptTokenCount=30,
    cachedContentTokenCount=15,
    totalTokenCount=1050,
    promptTokensDetails=[{"modality": "TEXT", "tokenCount": 12}, {"modality": "AUDIO", "tokenCount": 8}],
    candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 900}],
)
GEMINI_USED = used(input=50, cached_input=15, input_audio=8, output=1000, reasoning=100, output_image=900)

GEMINI = [
    Case(
        "modality-of-another-kind",
        "gemini",
        JSON,
        body(
            {
                "usageMetadata": {
                    "promptTokenCount": 1,
                    "totalTokenCount": 2,
                    "promptTokensDetails": [{"modality": {}, "tokenCount": 1}, {"modality": [1]}],
                }
            }
        ),
        used(input=1, output=1),
    ),
    Case("generate", "gemini", JSON, body(GEMINI_LAST), GEMINI_USED, "gemini-3"),
    Case("events", "gemini", SSE, events(gemini(1), gemini(50), GEMINI_LAST, end="\r\n"), GEMINI_USED, "gemini-3"),
    Case("array", "gemini", JSON, array(gemini(1), gemini(50), GEMINI_LAST), GEMINI_USED, "gemini-3"),
    Case(
        "thoughts-within-candidates",
        "gemini",
        JSON,
        body(gemini(923, thoughtsTokenCount=785, promptTokenCount=55021, totalTokenCount=55021 + 923)),
        used(input=55021, output=923, reasoning=785),
        "gemini-3",
    ),
    Case(
        "thoughts-and-tool-use-within-others",
        "gemini",
        JSON,
        body(gemini(923, thoughtsTokenCount=785, toolUsePromptTokenCount=5)),
        used(input=25, output=918, reasoning=785),
        "gemini-3",
    ),
    Case(
        "cached-content",
        "gemini",
        JSON,
        body({"name": "cachedContents/c", "model": "models/g", "usageMetadata": {"totalTokenCount": 7000}}),
        used(input=7000),
    ),
    Case(
        "last-without-total",
        "gemini",
        SSE,
        events(gemini(50), gemini(900, is_last=True, totalTokenCount=None)),
        used(input=20, output=900),
        "gemini-3",
    ),
    Case(
        "last-with-thoughts-and-without-total",
        "gemini",
        SSE,
        events(
            gemini(50, thoughtsTokenCount=100, totalTokenCount=170),
            gemini(140, is_last=True, thoughtsTokenCount=100, totalTokenCount=None),
        ),
        used(input=20, output=240, reasoning=100),
        "gemini-3",
    ),
    Case(
        "no-total",
        "gemini",
        JSON,
        body({"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 6, "thoughtsTokenCount": 7}}),
        used(input=5, output=13, reasoning=7),
    ),
    Case(
        "blocked",
        "gemini",
        SSE,
        events(
            {
                "promptFeedback": {"blockReason": "SAFETY"},
                "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
            }
        ),
        used(input=9, output=0),
    ),
    Case(
        "error-in-array",
        "gemini",
        JSON,
        array({"error": {"code": 503, "status": "UNAVAILABLE"}}),
        None,
        missing=MissingReason.ABSENT,
        is_error=True,
    ),
]

CONVERSE_USAGE = {
    "inputTokens": 10,
    "outputTokens": 70,
    "totalTokens": 1080,
    "cacheReadInputTokens": 800,
    "cacheWriteInputTokens": 200,
    "cacheDetails": [{"ttl": "1h", "inputTokens": 150}, {"ttl": "5m", "inputTokens": 50}],
}
CONVERSE_USED = used(input=1010, cached_input=800, cache_write=200, cache_write_1h=150, output=70)
METRICS = {
    "inputTokenCount": 10,
    "outputTokenCount": 70,
    "cacheReadInputTokenCount": 800,
    "cacheWriteInputTokenCount": 200,
    "invocationLatency": 5,
}
METRICS_USED = used(input=1010, cached_input=800, cache_write=200, output=70)
DELTA_FRAME = event_frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": TRAP}})
THROTTLED = frame(b'{"message":"slow down"}', _exception_type="throttlingException", _message_type="exception")

BEDROCK = [
    Case(
        "invoke-nova",
        "bedrock",
        JSON,
        body(
            {
                "usage": {
                    "inputTokens": 5,
                    "outputTokens": 28,
                    "cacheReadInputTokenCount": 1056,
                    "cacheWriteInputTokenCount": 0,
                }
            }
        ),
        used(input=1061, cached_input=1056, cache_write=0, output=28),
    ),
    Case(
        "invoke-titan-embedding",
        "bedrock",
        JSON,
        body({"embedding": [0.5], "inputTextTokenCount": 8}),
        used(input=8),
    ),
    Case(
        "converse",
        "bedrock",
        JSON,
        body({"output": {"message": {"content": [{"text": TRAP}]}}, "stopReason": "end_turn", "usage": CONVERSE_USAGE}),
        CONVERSE_USED,
    ),
    Case(
        "converse-stream",
        "bedrock",
        FRAMES,
        event_frame("messageStart", {"role": "assistant"})
        + DELTA_FRAME * 3
        + event_frame("messageStop", {"stopReason": "end_turn"})
        + event_frame("metadata", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 5}}),
        CONVERSE_USED,
    ),
    Case(
        "converse-stream-exception",
        "bedrock",
        FRAMES,
        DELTA_FRAME + THROTTLED,
        None,
        missing=MissingReason.ABSENT,
        is_error=True,
        is_complete=False,
    ),
    Case(
        "invoke-anthropic",
        "bedrock",
        JSON,
        body({"type": "message", "model": "claude-5", "usage": {"input_tokens": 10, "output_tokens": 7}}),
        used(input=10, output=7),
        "claude-5",
    ),
    Case(
        "invoke-llama",
        "bedrock",
        JSON,
        body({"generation": TRAP, "prompt_token_count": 25, "generation_token_count": 30}),
        used(input=25, output=30),
    ),
    Case(
        "invoke-stream",
        "bedrock",
        FRAMES,
        chunk_frame(
            {
                "type": "message_start",
                "message": {"model": "claude-5", "usage": {"input_tokens": 10, "output_tokens": 1}},
            }
        )
        + chunk_frame({"type": "content_block_delta", "delta": {"type": "text_delta", "text": TRAP}})
        + chunk_frame({"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}),
        METRICS_USED,
        "claude-5",
    ),
    Case(
        "invoke-stream-error",
        "bedrock",
        FRAMES,
        chunk_frame({"type": "content_block_delta", "delta": {"text": "x"}}) + THROTTLED,
        None,
        missing=MissingReason.ABSENT,
        is_error=True,
        is_complete=False,
    ),
    Case(
        "frame-with-wrong-checksum",
        "bedrock",
        FRAMES,
        DELTA_FRAME + event_frame("metadata", {"usage": CONVERSE_USAGE})[:-1] + b"\0",
        None,
        missing=MissingReason.SHAPE,
        is_complete=False,
    ),
]


def ollama(content: str = TRAP, **more: object) -> dict[str, object]:
    return {"model": "llama3", "message": {"role": "assistant", "content": content}, "done": False, **more}


OLLAMA_LAST = ollama("", done=True, done_reason="stop", prompt_eval_count=26, eval_count=290)

OLLAMA = [
    Case("chat", "ollama", JSON, body(OLLAMA_LAST), used(input=26, output=290), "llama3"),
    Case("lines", "ollama", NDJSON, lines(ollama(), ollama(), OLLAMA_LAST), used(input=26, output=290), "llama3"),
    Case(
        "lines-after-byte-order-mark",
        "ollama",
        NDJSON,
        b"\xef\xbb\xbf" + lines(OLLAMA_LAST),
        used(input=26, output=290),
        "llama3",
    ),
    Case(
        "lines-called-json",
        "ollama",
        JSON,
        lines(ollama(), ollama(), OLLAMA_LAST),
        used(input=26, output=290),
        "llama3",
    ),
    Case(
        "lines-without-last-end",
        "ollama",
        NDJSON,
        lines(ollama(), OLLAMA_LAST)[:-1],
        used(input=26, output=290),
        "llama3",
    ),
    Case(
        "prompt-cached-and-not-told",
        "ollama",
        NDJSON,
        lines(ollama(), ollama("", done=True, eval_count=290)),
        used(output=290),
        "llama3",
    ),
    Case(
        "embed", "ollama", JSON, body({"model": "e", "embeddings": [[0.5]], "prompt_eval_count": 8}), used(input=8), "e"
    ),
    Case(
        "error-in-stream",
        "ollama",
        NDJSON,
        lines(ollama(), {"error": "an error was encountered while running the model"}),
        None,
        "llama3",
        MissingReason.ABSENT,
        is_error=True,
        is_complete=False,
    ),
]

RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": TRAP}], "isError": False}}
NOTICE = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"error": 1}}
FAILED = {"jsonrpc": "2.0", "id": 1, "result": {"content": [], "isError": True}}
REFUSED = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "Unknown tool"}}

MCP = [
    Case("result", "mcp", JSON, body(RESULT), Usage()),
    Case("result-events", "mcp", SSE, events(("message", NOTICE), ("message", RESULT)), Usage()),
    Case("tool-failed", "mcp", JSON, body(FAILED), Usage(), is_error=True),
    Case("tool-failed-events", "mcp", SSE, events(NOTICE, FAILED), Usage(), is_error=True),
    Case("rpc-error", "mcp", JSON, body(REFUSED), Usage(), is_error=True),
    Case("only-notices", "mcp", SSE, events(NOTICE), Usage(), is_complete=False),
]

CASES = [*OPENAI, *ANTHROPIC, *GEMINI, *BEDROCK, *OLLAMA, *MCP]
