"""Anthropic Messages (docs.anthropic.com/en/api/messages, .../streaming).

Cache reads and writes stand outside `input_tokens`, and a stream reports running totals in `message_delta`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.guarantees.ai.table.row import Row, encoded, padded, split, varied
from tests.proxy.metering.bodies import BLOCK, STOP, message_delta, message_start
from tests.proxy.metering.cases import TRAP
from tests.proxy.metering.wire import SSE, body, events

MESSAGES = "/v1/messages"
REQUEST = {"model": "claude-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**REQUEST, "stream": True}
USAGE = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 80000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 700,
    "server_tool_use": {"web_search_requests": 1},
    "service_tier": "standard",
}
COUNTS = {"input": 80312, "cached_input": 80000, "cache_write": 300, "cache_write_1h": 200, "output": 700}
CHARGE = 12 * 10 + 80000 * 1 + 100 * 12 + 200 * 20 + 700 * 50
PING = ("ping", {"type": "ping"})
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def _message(usage: object) -> bytes:
    content = [{"type": "text", "text": TRAP}]
    return body({"type": "message", "model": "claude-5", "content": content, "stop_reason": "end_turn", "usage": usage})


def _documents() -> Iterator[Row]:
    plain = Row("message", MESSAGES, body(REQUEST), _message(USAGE), COUNTS, CHARGE)
    yield plain
    yield from encoded(plain)
    yield from split(plain, 1)
    nulls = {"input_tokens": 150000, "output_tokens": 20, "cache_read_input_tokens": None, "cache_creation": None}
    large = {"counts": {"input": 150000, "output": 20}, "charge": 1501000}
    yield varied(plain, name="message, large input, null classes", sent=_message(nulls), **large)
    thinking = {"input_tokens": 1, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 5}}
    counts = {"input": 1, "output": 9, "reasoning": 5}
    yield varied(plain, name="message, thinking", sent=_message(thinking), counts=counts, charge=10 + 450)
    lost = {"counts": {}, "charge": 0, "outcome": "upstream_error", "source": "missing"}
    yield varied(plain, name="message, error in a 200", sent=body(OVERLOADED), **lost)
    yield varied(plain, name="message, status 529", sent=body(OVERLOADED), status=529, **lost)
    counting = {"path": f"{MESSAGES}/count_tokens", "sent": body({"input_tokens": 2095}), "counts": {}, "charge": 0}
    yield varied(plain, name="count_tokens is free", source="none", **counting)


def _streams() -> Iterator[Row]:
    opening = message_start(**{**USAGE, "output_tokens": 1})
    for name, end in (("LF", "\n"), ("CRLF", "\r\n"), ("CR", "\r")):
        sent = events(opening, PING, BLOCK, BLOCK, message_delta(output_tokens=700), STOP, end=end)
        plain = Row(f"message stream, {name}", MESSAGES, body(STREAMED), sent, COUNTS, CHARGE, content_type=SSE)
        yield plain
        yield from split(plain, 1, 1000)
        if end == "\n":
            yield from encoded(plain)
            yield from _odd_streams(plain)


def _odd_streams(plain: Row) -> Iterator[Row]:
    first = message_start(input_tokens=0, output_tokens=0)
    sent = events(first, BLOCK, message_delta(**USAGE), STOP)
    yield varied(plain, name="message stream, zeros at first", sent=sent)
    zeros = message_delta(input_tokens=0, cache_read_input_tokens=0, output_tokens=700)
    sent = events(message_start(**{**USAGE, "output_tokens": 1}), BLOCK, zeros, STOP)
    yield varied(plain, name="message stream, zeros at last", sent=sent)
    twice = [message_delta(output_tokens=count) for count in (10, 300, 700)]
    sent = events(message_start(**{**USAGE, "output_tokens": 1}), BLOCK, *twice, STOP)
    yield varied(plain, name="message stream, totals in three events", sent=sent)
    opening = events(message_start(input_tokens=25, output_tokens=1), BLOCK)
    spent = {"counts": {"input": 25, "output": 1}, "charge": 25 * 10 + 50, "outcome": "upstream_error"}
    yield varied(plain, name="message stream, overloaded", sent=opening + events(("error", OVERLOADED)), **spent)
    broken = spent | {"charge": 0, "outcome": "upstream_invalid", "breaks": True}
    yield varied(plain, name="message stream, broken off", sent=opening, **broken)
    text = ("content_block_delta", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 80}})
    left = varied(
        plain,
        name="message stream, client left, provider silent since",
        request=padded(body(STREAMED), 400),
        sent=events(message_start(input_tokens=25, output_tokens=1), text),
        counts={"input": 25, "output": 20},
        charge=25 * 10 + 20 * 50,
        outcome="client_aborted",
        source="estimated",
        leaves=True,
        rest=None,
    )
    yield left
    told = {"counts": {"input": 25, "output": 90}, "charge": 25 * 10 + 90 * 50, "source": "reported"}
    rest = events(text, message_delta(output_tokens=90), STOP)
    yield varied(left, name="message stream, client left, told afterwards", rest=rest, **told)
    whole = events(message_start(**{**USAGE, "output_tokens": 1}), BLOCK, message_delta(output_tokens=700), STOP)
    yield varied(plain, name="message stream, client closed at message_stop", sent=whole, leaves=True, rest=None)


ROWS = [*_documents(), *_streams()]
