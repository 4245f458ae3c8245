"""Chat and legacy completions of OpenAI, and of what speaks like it (platform.openai.com/docs/api-reference/chat).

Usage of a stream comes only if the request asks for it, in an event of its own before `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.guarantees.ai.table.row import Row, encoded, padded, split, varied
from tests.proxy.metering.cases import TRAP
from tests.proxy.metering.openai_bodies import chat
from tests.proxy.metering.wire import SSE, body, events

CHAT = "/v1/chat/completions"
PLAIN = {"model": "gpt-5.6", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**PLAIN, "stream": True}
ASKING = {**STREAMED, "stream_options": {"include_usage": True}}
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 900, "audio_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 150, "audio_tokens": 20},
}
COUNTS = {
    "input": 1000,
    "cached_input": 900,
    "input_audio": 10,
    "output": 200,
    "reasoning": 150,
    "output_audio": 20,
}
CHARGE = 90 * 10 + 900 * 1 + 10 * 40 + 180 * 50 + 20 * 100
NOT_TOLD = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": None}
TEXT = "x" * 80  # 20 tokens by estimate
DONE = "[DONE]"


def document(**more: object) -> bytes:
    message = {"role": "assistant", "content": TRAP, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return body({"id": "c", "object": "chat.completion", "model": "gpt-5.6", "choices": [choice], **more})


def usage_event(usage: object = USAGE) -> dict[str, object]:
    return chat(None, choices=[], usage=usage)


def _documents() -> Iterator[Row]:
    plain = Row("chat", CHAT, body(PLAIN), document(usage=USAGE, service_tier="default"), COUNTS, CHARGE)
    yield plain
    yield from encoded(plain)
    yield from split(plain, 1)
    huge = document(usage=USAGE, padding="y" * (9 << 20))
    yield varied(plain, name="chat of 9 MiB, usage before the text", sent=huge)
    late = body({"model": "gpt-5.6", "padding": ["y" * (9 << 20)], "choices": [], "usage": USAGE})
    yield varied(plain, name="chat of 9 MiB, usage after the text", sent=late)
    yield from list(encoded(varied(plain, name="chat of 9 MiB", sent=late)))[:1]
    yield varied(plain, name="chat, null details", sent=document(usage=NOT_TOLD), counts=_SMALL, charge=3 * 10 + 4 * 50)
    nothing = varied(plain, request=padded(body(PLAIN), 400), source="estimated")
    estimate = {"input": 100, "output": 20}
    short = body({"model": "m", "choices": [{"message": {"content": TEXT}}], "usage": None})
    yield varied(nothing, name="chat, usage null", sent=short, counts=estimate, charge=100 * 10 + 20 * 50)
    yield varied(
        plain, name="chat, error in a 200", sent=_ERROR, counts={}, charge=0, outcome="upstream_error", source="missing"
    )
    for status in (400, 429, 500):
        yield varied(
            plain,
            name=f"chat, status {status}",
            sent=_ERROR,
            status=status,
            counts={},
            charge=0,
            outcome="upstream_error",
            source="missing",
        )
    reasoning = {"completion_tokens_details": {"reasoning_tokens": 100}, "total_tokens": 130}
    xai = document(usage={"prompt_tokens": 10, "completion_tokens": 20, **reasoning})
    counts = {"input": 10, "output": 120, "reasoning": 100}
    yield varied(plain, name="xAI, reasoning beside the completion", sent=xai, counts=counts, charge=10 * 10 + 120 * 50)
    router = document(usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.0123})
    yield varied(plain, name="OpenRouter by cost", path="/dollars" + CHAT, sent=router, counts=_SMALL, charge=1230)
    yield varied(plain, name="by pointer", path="/plain" + CHAT, counts={}, charge=12000)
    failed = {"counts": {}, "charge": 0, "outcome": "upstream_error", "source": "missing"}
    yield varied(plain, name="by pointer, error in a 200", path="/plain" + CHAT, sent=_ERROR, **failed)
    yield varied(
        plain,
        name="by pointer, no usage",
        path="/plain" + CHAT,
        sent=document(),
        counts={},
        charge=500,
        source="missing",
    )


_SMALL = {"input": 3, "output": 4}
_ERROR = body({"error": {"message": "The server is overloaded", "type": "server_error", "code": None}})


def _streams() -> Iterator[Row]:
    for name, end in (("LF", "\n"), ("CRLF", "\r\n"), ("CR", "\r")):
        told = events(chat(usage=None), chat(TRAP, usage=None), usage_event(), end=end, last=DONE)
        hidden = events(chat(usage=None), chat(TRAP, usage=None), end=end, last=DONE)
        asking = Row(f"stream, asked, {name}", CHAT, body(ASKING), told, COUNTS, CHARGE, content_type=SSE)
        yield asking
        yield from split(asking, 1, 1000)
        silent = varied(asking, name=f"stream, not asked, {name}", request=body(STREAMED), received=hidden)
        yield silent
        yield from split(silent, 1, 7, 1000)
        if end == "\n":
            yield from encoded(asking)
            yield from _not_asked(silent)
            declined = {**STREAMED, "stream_options": {"include_usage": False}}
            yield varied(silent, name="stream, declined", request=body(declined))


def _not_asked(silent: Row) -> Iterator[Row]:
    for options in ({}, None, {"include_obfuscation": False}, {"include_usage": None}):
        yield varied(silent, name=f"stream, options {options}", request=body({**STREAMED, "stream_options": options}))
    comment = b": ping\n\n:\n\n"
    first, last = events(chat()), events(usage_event())
    pings = varied(
        silent,
        name="stream, comments before and after the usage",
        sent=comment + first + comment + last + comment + b"data: [DONE]\n\n",
        received=comment + first + comment + comment + b"data: [DONE]\n\n",
    )
    yield pings
    yield from split(pings, 1)
    running = [chat(usage={"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n}) for n in range(1, 9)]
    final = usage_event({"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18})
    totals = varied(silent, counts={"input": 10, "output": 8}, charge=10 * 10 + 8 * 50)
    yield varied(
        totals,
        name="stream, usage in each event",
        sent=events(*running, final, last=DONE),
        received=events(*running, last=DONE),
    )
    zeroed = usage_event({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    yield varied(
        totals,
        name="stream, zeros at its end",
        sent=events(*running, zeroed, last=DONE),
        received=events(*running, last=DONE),
    )
    yield from _odd_forms(silent)


def _odd_forms(silent: Row) -> Iterator[Row]:
    large = chat("y" * (3 << 19))
    yield varied(
        silent,
        name="stream, an event of 1.5 MiB",
        sent=events(large, usage_event(), last=DONE),
        received=events(large, last=DONE),
    )
    azure = chat(None, choices=[], prompt_filter_results=[{"prompt_index": 0}])
    yield varied(
        silent,
        name="stream, Azure's filter event stays",
        sent=events(azure, chat(), usage_event(), last=DONE),
        received=events(azure, chat(), last=DONE),
    )
    yield varied(
        silent,
        name="stream, no [DONE]",
        sent=events(chat(), usage_event()),
        received=events(chat()),
    )
    whole = events(chat(), usage_event(), last=DONE)
    forced = varied(silent, name="stream, encoded though asked not to", sent=whole, received=None)
    yield from list(encoded(forced))[:1]
    yield varied(
        silent,
        name="a document in place of a stream",
        sent=document(usage=USAGE),
        received=None,
        content_type=b"application/json",
    )
    by_pointer: dict[str, object] = {
        "path": "/plain" + CHAT,
        "request": body(ASKING),
        "received": None,
        "counts": {},
        "charge": 12000,
    }
    yield varied(silent, name="stream by pointer", sent=whole, **by_pointer)


def _missing() -> Iterator[Row]:
    request = padded(body(STREAMED), 400)
    half = chat(TEXT[:40])
    told = Row(
        "stream, never told",
        CHAT,
        request,
        events(half, half, last=DONE),
        {"input": 100, "output": 20},
        100 * 10 + 20 * 50,
        source="estimated",
        content_type=SSE,
    )
    yield told
    yield varied(told, name="stream, may not be asked", path="/silent" + CHAT)
    overloaded = {"error": {"message": "overloaded", "type": "server_error"}}
    failed = varied(told, counts={}, charge=0, outcome="upstream_error", source="missing")
    yield varied(failed, name="stream, error at once", sent=events(overloaded))
    yield varied(failed, name="stream, error after text", sent=events(half, half, overloaded))
    yield varied(failed, name="stream, error as a named event", sent=events(half, ("error", overloaded)))
    spent = events(chat("a", usage={"prompt_tokens": 3, "completion_tokens": 4}), overloaded)
    yield varied(
        failed, name="stream, error after usage", sent=spent, counts=_SMALL, charge=3 * 10 + 4 * 50, source="reported"
    )
    broken = varied(failed, outcome="upstream_invalid", breaks=True)
    yield varied(broken, name="stream, broken off after text", sent=events(half))
    partial = chat("a", usage={"prompt_tokens": 3, "completion_tokens": 4})
    yield varied(broken, name="stream, broken off after usage", sent=events(partial), counts=_SMALL, source="reported")
    yield from _left(told)


def _left(told: Row) -> Iterator[Row]:
    half = events(chat(TEXT[:40]))
    rest = half + events(usage_event(), last=DONE)
    left = varied(told, sent=half * 2, leaves=True, outcome="client_aborted")
    yield varied(left, name="client left, provider silent since", rest=None)
    yield varied(left, name="client left, told afterwards", rest=rest, counts=COUNTS, charge=CHARGE, source="reported")
    running = chat(TEXT[:40], usage={"prompt_tokens": 100, "completion_tokens": 7})
    asking = padded(body(ASKING), 400)
    yield varied(
        left,
        name="client left, less reported than written",
        request=asking,
        sent=events(running, running),
        rest=None,
    )
    much = chat("a", usage={"prompt_tokens": 100, "completion_tokens": 700})
    yield varied(
        left,
        name="client left, more reported than written",
        request=asking,
        sent=events(much),
        rest=None,
        counts={"input": 100, "output": 700},
        charge=100 * 10 + 700 * 50,
        source="reported",
    )
    whole = events(chat(), usage_event(), last=DONE)
    closed = varied(left, counts=COUNTS, charge=CHARGE, outcome="succeeded", source="reported", rest=None)
    yield varied(closed, name="client closed at [DONE], asked", request=asking, sent=whole)
    yield varied(closed, name="client closed at [DONE], not asked", sent=whole, received=events(chat(), last=DONE))


def _legacy() -> Iterator[Row]:
    path, request = "/v1/completions", {"model": "instruct", "prompt": "hi"}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    text = {"object": "text_completion", "model": "instruct", "choices": [{"index": 0, "text": TRAP}]}
    told, counts, charge = {**text, "choices": [], "usage": usage}, {"input": 5, "output": 7}, 5 * 10 + 7 * 50
    yield Row("completion", path, body(request), body({**text, "usage": usage}), counts, charge)
    streamed = Row(
        "completion, not asked",
        path,
        body({**request, "stream": True}),
        events(text, told, last=DONE),
        counts,
        charge,
        content_type=SSE,
        received=events(text, last=DONE),
    )
    yield streamed
    yield from split(streamed, 1)


ROWS = [*_documents(), *_streams(), *_missing(), *_legacy()]
