"""Gemini (ai.google.dev/api/generate-content): a document, `alt=sse`, or an array whose elements come one by one.

Totals run: the last ones hold. Thoughts and the prompts of tools stand outside candidates and prompt.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.guarantees.ai.table.row import Row, encoded, padded, split, varied
from tests.proxy.metering.bodies import gemini
from tests.proxy.metering.wire import SSE, array, body, events

GENERATE = "/v1beta/models/gemini-3:generateContent"
STREAM = "/v1beta/models/gemini-3:streamGenerateContent"
REQUEST = body({"contents": [{"parts": [{"text": "hi"}]}]})
LAST = gemini(
    900,
    is_last=True,
    thoughtsTokenCount=100,
    toolUsePromptTokenCount=30,
    cachedContentTokenCount=15,
    totalTokenCount=1050,
    trafficType="ON_DEMAND",
)
COUNTS = {"input": 50, "cached_input": 15, "output": 1000, "reasoning": 100}
CHARGE = 35 * 10 + 15 * 1 + 1000 * 50
FAULT = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
LOST = {"counts": {}, "charge": 0, "outcome": "upstream_error", "source": "missing"}


def _documents() -> Iterator[Row]:
    plain = Row("gemini", GENERATE, REQUEST, body(LAST), COUNTS, CHARGE)
    yield plain
    yield from encoded(plain)
    picture = gemini(900, is_last=True, candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 900}])
    picture["candidates"] = [
        {"content": {"parts": [{"inlineData": {"data": "A" * (9 << 20)}}]}, "finishReason": "STOP"}
    ]
    counts = {"input": 20, "output": 900, "output_image": 900}
    yield varied(plain, name="gemini, picture of 9 MiB", sent=body(picture), counts=counts, charge=200 + 900 * 60)
    yield varied(plain, name="gemini, error in a 200", sent=body(FAULT), **LOST)
    counting = {"path": "/v1beta/models/gemini-3:countTokens", "sent": body({"totalTokens": 9}), "source": "none"}
    yield varied(plain, name="gemini, countTokens is free", counts={}, charge=0, **counting)
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    }
    yield varied(plain, name="gemini, blocked", sent=body(blocked), counts={"input": 9, "output": 0}, charge=90)


def _streams() -> Iterator[Row]:
    for name, end in (("LF", "\n"), ("CRLF", "\r\n")):
        sent = events(gemini(1), gemini(50), LAST, end=end)
        told = Row(f"gemini events, {name}", f"{STREAM}?alt=sse", REQUEST, sent, COUNTS, CHARGE, content_type=SSE)
        yield told
        yield from split(told, 1)
    yield from encoded(told)
    listed = Row("gemini array", STREAM, REQUEST, array(gemini(1), gemini(50), LAST), COUNTS, CHARGE)
    yield listed
    yield from split(listed, 1, 100)
    yield from encoded(listed)
    yield varied(listed, name="gemini array, error", sent=array(FAULT), **LOST)
    spent = {"counts": {"input": 20, "output": 50}, "charge": 200 + 2500}
    yield varied(
        listed, name="gemini array, error after work", sent=array(gemini(50), FAULT), outcome="upstream_error", **spent
    )
    yield varied(told, name="gemini events, broken off", sent=events(gemini(50)), breaks=True, **(spent | _BROKEN))
    left = varied(
        told,
        name="gemini events, client left",
        sent=events(gemini(50)),
        request=padded(REQUEST, 400),
        outcome="client_aborted",
        leaves=True,
        rest=events(LAST),
    )
    yield left
    yield varied(left, name="gemini events, client left, provider silent since", rest=None, **spent)
    yield varied(told, name="gemini events, client closed at the last", leaves=True, rest=None)


_BROKEN = {"charge": 0, "outcome": "upstream_invalid"}
ROWS = [*_documents(), *_streams()]
