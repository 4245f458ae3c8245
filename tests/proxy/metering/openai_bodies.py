"""Responses as OpenAI and what speaks like it send them, each with what it reports."""

from __future__ import annotations

from policies.usage.counts import MissingReason
from tests.proxy.metering.cases import TRAP, Case, used
from tests.proxy.metering.wire import (
    JSON,
    SSE,
    body,
    events,
)


def chat(content: str | None = TRAP, **more: object) -> dict[str, object]:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-5.6", "choices": [choice], **more}


CHAT_USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 900, "cache_write_tokens": 50, "audio_tokens": 7, "image_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 150, "audio_tokens": 5, "accepted_prediction_tokens": 0},
}
SHORT = {"prompt_tokens": 18, "completion_tokens": 439, "total_tokens": 457, "cached_tokens": 7}
ENDED = {"index": 0, "delta": {}, "finish_reason": "stop"}
CHAT_USED = used(
    input=1000,
    cached_input=900,
    cache_write=50,
    input_audio=7,
    input_image=3,
    output=200,
    reasoning=150,
    output_audio=5,
)
RESPONSES_USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 900},
    "output_tokens": 200,
    "output_tokens_details": {"reasoning_tokens": 150},
    "total_tokens": 1200,
}
RESPONSES_USED = used(input=1000, cached_input=900, output=200, reasoning=150)


def response_events(kind: str, usage: object, **more: object) -> bytes:
    created = {"type": "response.created", "response": {"model": "gpt-5.6", "error": None, "usage": None}}
    delta = {"type": "response.output_text.delta", "delta": TRAP}
    done = {"type": "response.output_text.done", "text": TRAP}
    output = [{"type": "message", "content": [{"type": "output_text", "text": TRAP}]}]
    last = {"type": kind, "response": {"model": "gpt-5.6", "output": output, "usage": usage, "error": None, **more}}
    named = [(str(document["type"]), document) for document in (created, delta, done, last)]
    return events(*named)


OPENAI = [
    Case(
        "chat",
        "openai",
        JSON,
        body({"model": "gpt-5.6", "choices": [{"message": {"content": TRAP}}], "usage": CHAT_USAGE}),
        CHAT_USED,
        "gpt-5.6",
    ),
    Case(
        "chat-after-byte-order-mark",
        "openai",
        JSON,
        b"\xef\xbb\xbf" + body(chat(TRAP, usage=CHAT_USAGE)),
        CHAT_USED,
        "gpt-5.6",
    ),
    Case(
        "chat-usage-first",
        "openai",
        JSON,
        body({"usage": CHAT_USAGE, "choices": [{"message": {"content": TRAP}}], "model": "gpt-5.6"}),
        CHAT_USED,
        "gpt-5.6",
    ),
    Case(
        "chat-nested-usage-elsewhere",
        "openai",
        JSON,
        body({"model": "m", "x": {"usage": CHAT_USAGE}, "choices": [{"usage": CHAT_USAGE}]}),
        None,
        "m",
        MissingReason.ABSENT,
    ),
    Case(
        "chat-stream",
        "openai",
        SSE,
        events(chat(usage=None), chat(usage=None), chat(None, choices=[], usage=CHAT_USAGE), last="[DONE]"),
        CHAT_USED,
        "gpt-5.6",
    ),
    Case(
        "chat-stream-azure-filter-event-first",
        "openai",
        SSE,
        events(chat(None, choices=[], model=""), chat(), chat(None, choices=[], usage=CHAT_USAGE), last="[DONE]"),
        CHAT_USED,
        "gpt-5.6",
    ),
    Case(
        "chat-stream-without-usage",
        "openai",
        SSE,
        events(chat(), chat(), last="[DONE]"),
        None,
        "gpt-5.6",
        MissingReason.ABSENT,
    ),
    Case(
        "chat-stream-groq-unasked",
        "openai",
        SSE,
        events(chat(x_groq={"id": "req_1"}), chat(), chat(None, x_groq={"id": "req_1", "usage": SHORT}), last="[DONE]"),
        used(input=18, cached_input=7, output=439),
        "gpt-5.6",
    ),
    Case(
        "chat-stream-moonshot-unasked",
        "openai",
        SSE,
        events(chat(), chat(None, choices=[ENDED | {"usage": SHORT}]), last="[DONE]"),
        used(input=18, cached_input=7, output=439),
        "gpt-5.6",
    ),
    Case(
        "chat-stream-moonshot-asked",
        "openai",
        SSE,
        events(
            chat(),
            chat(None, choices=[ENDED | {"usage": SHORT}]),
            chat(None, choices=[], usage=SHORT | {"completion_tokens": 440}),
            last="[DONE]",
        ),
        used(input=18, cached_input=7, output=440),
        "gpt-5.6",
    ),
    Case(
        "chat-stream-nested-usage-elsewhere",
        "openai",
        SSE,
        events(chat(), chat(None, x={"usage": CHAT_USAGE}, usage=SHORT), chat(None, choices=[], x=[{"usage": SHORT}])),
        used(input=18, cached_input=7, output=439),
        "gpt-5.6",
        is_complete=False,
    ),
    Case(
        "chat-stream-running-totals",
        "openai",
        SSE,
        events(
            *(chat(usage={"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n}) for n in range(1, 9)),
            last="[DONE]",
        ),
        used(input=10, output=8),
        "gpt-5.6",
    ),
    Case(
        "chat-stream-error",
        "openai",
        SSE,
        events(chat(), {"error": {"message": "overloaded", "type": "server_error", "code": 529}}),
        None,
        "gpt-5.6",
        MissingReason.ABSENT,
        is_error=True,
        is_complete=False,
    ),
    Case(
        "error-in-200",
        "openai",
        JSON,
        body({"error": {"message": "rate limited"}}),
        None,
        missing=MissingReason.ABSENT,
        is_error=True,
    ),
    Case(
        "openrouter-cost",
        "openai",
        JSON,
        body(
            {
                "model": "openrouter/x",
                "choices": [],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.00012345},
            }
        ),
        used(input=3, output=4, cost_usd="0.00012345"),
        "openrouter/x",
    ),
    Case(
        "xai-reasoning-beside-completion",
        "openai",
        JSON,
        body(
            {
                "model": "grok-5",
                "usage": {
                    "prompt_tokens": 10,
                    "completion_tokens": 20,
                    "total_tokens": 130,
                    "completion_tokens_details": {"reasoning_tokens": 100},
                },
            }
        ),
        used(input=10, output=120, reasoning=100),
        "grok-5",
    ),
    Case(
        "completions",
        "openai",
        JSON,
        body({"model": "i", "choices": [{"text": TRAP}], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}),
        used(input=5, output=7),
        "i",
    ),
    Case(
        "responses",
        "openai",
        JSON,
        body(
            {
                "object": "response",
                "model": "g",
                "error": None,
                "status": "completed",
                "output": [{"content": [{"text": TRAP}]}],
                "usage": RESPONSES_USAGE,
            }
        ),
        RESPONSES_USED,
        "g",
    ),
    Case(
        "responses-failed",
        "openai",
        JSON,
        body(
            {"object": "response", "model": "g", "status": "failed", "error": {"code": "server_error"}, "usage": None}
        ),
        None,
        "g",
        MissingReason.ABSENT,
        is_error=True,
    ),
    Case(
        "responses-stream-completed",
        "openai",
        SSE,
        response_events("response.completed", RESPONSES_USAGE),
        RESPONSES_USED,
        "gpt-5.6",
    ),
    Case(
        "responses-stream-incomplete",
        "openai",
        SSE,
        response_events("response.incomplete", RESPONSES_USAGE),
        RESPONSES_USED,
        "gpt-5.6",
    ),
    Case(
        "responses-stream-failed-with-usage",
        "openai",
        SSE,
        response_events("response.failed", RESPONSES_USAGE, status="failed"),
        RESPONSES_USED,
        "gpt-5.6",
        is_error=True,
    ),
    Case(
        "responses-stream-failed-early",
        "openai",
        SSE,
        response_events("response.failed", None, status="failed"),
        None,
        "gpt-5.6",
        MissingReason.ABSENT,
        is_error=True,
    ),
    Case(
        "embeddings",
        "openai",
        JSON,
        body(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1e-05, 3]}],
                "model": "text-embedding-3-small",
                "usage": {"prompt_tokens": 8, "total_tokens": 8},
            }
        ),
        used(input=8),
        "text-embedding-3-small",
    ),
    *(
        Case(name, "openai", JSON, body({"object": "list", "data": [], "usage": usage}), expected)
        for name, usage, expected in (
            ("total-of-embeddings", {"total_tokens": 8}, used(input=8)),
            ("total-and-input", {"prompt_tokens": 8, "total_tokens": 30}, used(input=8, output=22)),
            ("total-and-output", {"output_tokens": 8, "total_tokens": 30}, used(input=22, output=8)),
            ("total-below-input", {"prompt_tokens": 8, "total_tokens": 0.5}, used(input=8)),
        )
    ),
    Case(
        "total-of-chat",
        "openai",
        JSON,
        body({"choices": [], "usage": {"total_tokens": 8}}),
        None,
        None,
        MissingReason.ABSENT,
    ),
    Case(
        "images",
        "openai",
        JSON,
        body(
            {
                "created": 1,
                "data": [{"b64_json": "iVBORw0KGgo" * 50}],
                "usage": {
                    "input_tokens": 50,
                    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                    "output_tokens": 4000,
                    "output_tokens_details": {"image_tokens": 4000, "text_tokens": 0},
                    "total_tokens": 4050,
                },
            }
        ),
        used(input=50, input_image=40, output=4000, output_image=4000),
    ),
    Case(
        "images-stream",
        "openai",
        SSE,
        events(
            ("image_generation.partial_image", {"type": "image_generation.partial_image", "b64_json": "QUJD"}),
            (
                "image_generation.completed",
                {
                    "type": "image_generation.completed",
                    "b64_json": "QUJD" * 40,
                    "usage": {"input_tokens": 5, "output_tokens": 1000, "total_tokens": 1005},
                },
            ),
        ),
        used(input=5, output=1000),
    ),
    Case(
        "images-dall-e", "openai", JSON, body({"created": 1, "data": [{"url": "u"}]}), None, None, MissingReason.ABSENT
    ),
    Case(
        "transcription-tokens",
        "openai",
        JSON,
        body(
            {
                "text": TRAP,
                "usage": {
                    "type": "tokens",
                    "input_tokens": 14,
                    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
                    "output_tokens": 45,
                    "total_tokens": 59,
                },
            }
        ),
        used(input=14, input_audio=10, output=45),
    ),
    Case(
        "transcription-duration",
        "openai",
        JSON,
        body({"text": "hi", "usage": {"type": "duration", "seconds": 12.4}}),
        used(seconds="12.4"),
    ),
    Case(
        "transcription-stream",
        "openai",
        SSE,
        events(
            {"type": "transcript.text.delta", "delta": TRAP},
            {
                "type": "transcript.text.done",
                "text": TRAP,
                "usage": {"type": "tokens", "input_tokens": 3, "output_tokens": 9},
            },
        ),
        used(input=3, output=9),
    ),
    Case(
        "transcription-srt",
        "openai",
        b"text/plain",
        b"1\n00:00:00,000 --> 00:00:01,000\nhi\n",
        None,
        None,
        MissingReason.SHAPE,
        is_complete=False,
    ),
    Case(
        "speech-stream",
        "openai",
        SSE,
        events(
            {"type": "speech.audio.delta", "audio": "QUJD"},
            {"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}},
        ),
        used(input=14, output=101),
    ),
    Case("html-in-200", "openai", b"text/html", b"<html></html>", None, None, MissingReason.SHAPE, is_complete=False),
    Case("broken-json", "openai", JSON, b'{"usage": oops}', None, None, MissingReason.SHAPE, is_complete=False),
    Case(
        "not-a-number", "openai", JSON, b'{"usage":{"seconds":NaN}}', None, None, MissingReason.SHAPE, is_complete=False
    ),
    Case("no-body", "openai", JSON, b"", None, None, MissingReason.ABSENT, is_complete=False),
    Case(
        "escaped-names",
        "openai",
        SSE,
        b'data: {"model":"m","choices":[]}\n\ndata: {"\\u0075sage":{"prompt_\\u0074okens":5,"completion_tokens":6}}\n\n'
        b"data: [DONE]\n\n",
        used(input=5, output=6),
        "m",
    ),
    Case(
        "duplicate-usage-merges",
        "openai",
        JSON,
        b'{"usage":{"prompt_tokens":5,"completion_tokens":6},"usage":null,"usage":{"prompt_tokens":0,"completion_tokens":7}}',
        used(input=5, output=7),
    ),
    Case(
        "counts-that-no-bill-is-made-of",
        "openai",
        JSON,
        b'{"usage":{"prompt_tokens":-5,"completion_tokens":1e999,"total_tokens":true,"seconds":-0.5,"cost":"1"}}',
        None,
        None,
        MissingReason.ABSENT,
    ),
    Case(
        "explicit-zero",
        "openai",
        JSON,
        body({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
        used(input=0, output=0),
    ),
    Case(
        "zeros-under-the-other-names",
        "openai",
        JSON,
        body(
            {
                "usage": {
                    "prompt_tokens": 0,
                    "completion_tokens": 0,
                    "total_tokens": 120,
                    "input_tokens": 100,
                    "output_tokens": 20,
                    "prompt_tokens_details": {"cached_tokens": 0},
                    "prompt_cache_hit_tokens": 90,
                }
            }
        ),
        used(input=100, cached_input=90, output=20),
    ),
    Case(
        "cached-beside-the-prompt",
        "openai",
        JSON,
        body({"usage": {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005, "cached_tokens": 900}}),
        used(input=1000, cached_input=900, output=5),
    ),
]
