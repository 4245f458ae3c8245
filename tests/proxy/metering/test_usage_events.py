"""The hidden event: exactly it is taken out of a stream, and all else passes byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.metering.usage_events import MAX_HELD_BYTES, UsageEventRemover
from tests.proxy.metering.cases import TRAP
from tests.proxy.metering.openai_bodies import CHAT_USAGE, chat
from tests.proxy.metering.wire import compact, cut

HIDDEN = [
    f"data: {compact(chat(None, choices=[], usage=CHAT_USAGE))}\n\n",
    'data:{"usage" : {"total_tokens":5},"choices":[ ]}\n\n',
    'event: x\nid: 1\ndata: {"choices":[],\ndata: "usage":{}}\n: within\n\n',
    'data: {"choices":[],"\\u0075sage":{"total_tokens":5}}\n\n',
]
PASSED = [
    f"data: {compact(chat(usage=None))}\n\n",
    f"data: {compact(chat(usage=CHAT_USAGE))}\n\n",
    'data: {"choices":[],"usage":null}\n\n',
    'data: {"choices":[],"prompt_filter_results":[]}\n\n',
    'data: {"usage":{"total_tokens":5}}\n\n',
    'data: {"choices":[{"usage":{}}],"x":{"choices":[],"usage":{}}}\n\n',
    f"data: {compact({'choices': [{'text': TRAP}]})}\n\n",
    'data: {"choices":[],"usage":{}\n\n',
    "data: [DONE]\n\n",
    ": ping\n\n",
    ": comment\n",
    "\n",
    "event: y\n\n",
]
_parts = st.lists(st.one_of(st.sampled_from(HIDDEN), st.sampled_from(PASSED)), max_size=8)
_cuts = st.lists(st.integers(1, 900), max_size=30)


def remove(chunks: list[bytes]) -> bytes:
    remover = UsageEventRemover()
    return b"".join([*(remover.feed(chunk) for chunk in chunks), remover.finish()])


@settings(derandomize=True, max_examples=500)
@given(_parts, st.sampled_from(["\n", "\r\n", "\r"]), _cuts)
def test_hidden_event_alone_is_taken_out(parts: list[str], end: str, places: list[int]) -> None:
    stream = "".join(parts).replace("\n", end).encode()
    expected = "".join(part for part in parts if part not in HIDDEN).replace("\n", end).encode()
    assert remove(cut(stream, places)) == expected


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_event_is_taken_out_without_its_blank_line(hidden: str) -> None:
    assert remove([(PASSED[0] + hidden).rstrip("\n").encode()]) == PASSED[0].encode()


@pytest.mark.parametrize("passed", PASSED)
def test_whole_event_is_passed_on_at_once(passed: str) -> None:
    remover = UsageEventRemover()
    assert remover.feed(passed.encode()) == passed.encode()


def test_comment_is_passed_on_though_no_event_follows() -> None:
    remover = UsageEventRemover()
    assert remover.feed(b": keep-alive\n") == b": keep-alive\n"


def test_event_that_is_too_large_to_be_it_is_not_held_back() -> None:
    remover = UsageEventRemover()
    start = b"data: " + b"x" * MAX_HELD_BYTES
    assert remover.feed(start) == start
    assert remover.feed(b"y" * 10) == b"y" * 10
    assert remover.feed(b"\n") == b"\n"
    assert remover.feed(b"\n" + HIDDEN[0].encode()) == b"\n"


def test_stream_that_breaks_off_gives_what_was_held_back() -> None:
    remover = UsageEventRemover()
    assert remover.feed(b'data: {"choices":[]') == b""
    assert remover.finish() == b'data: {"choices":[]'
