from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.demo import chat

HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello there, gateway!"}]}


def events(body: dict[str, Any]) -> list[Any]:
    written = b"".join(chat.as_events(chat.answer(chat.parse(body), created=1)))
    lines = [block.removeprefix("data: ") for block in written.decode().split("\n\n") if block]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@settings(deadline=None)
@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(chat.tokens_of(text)) == text


def test_words_and_marks_are_tokens() -> None:
    assert chat.tokens_of("Hello there, you!") == ("Hello", " there", ",", " you", "!")


def test_answer_counts_prompt_and_completion() -> None:
    answer = chat.as_json(chat.answer(chat.parse(HELLO), created=1))

    text = answer["choices"][0]["message"]["content"]
    assert "“Hello there, gateway!”" in text
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == len(chat.tokens_of(text))
    assert answer["usage"]["total_tokens"] == 5 + len(chat.tokens_of(text))


def test_same_question_has_the_same_answer() -> None:
    first, second = (chat.answer(chat.parse(HELLO), created=1) for _ in range(2))

    assert first == second
    assert first.id != chat.answer(chat.parse({**HELLO, "model": "other"}), created=1).id


def test_token_limit_cuts_the_answer_and_is_the_finish_reason() -> None:
    answer = chat.as_json(chat.answer(chat.parse({**HELLO, "max_tokens": 3}), created=1))

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


def test_streamed_tokens_joined_are_the_answer() -> None:
    *chunks, usage, done = events(HELLO)

    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    answer = chat.as_json(chat.answer(chat.parse(HELLO), created=1))
    assert text == answer["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"], done) == ([], answer["usage"], "[DONE]")
    assert {chunk["object"] for chunk in [*chunks, usage]} == {"chat.completion.chunk"}


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_stream_ends_with_usage_and_has_null_before_on_request_only(is_asked_for: bool) -> None:
    *chunks, usage, _ = events({**HELLO, "stream_options": {"include_usage": is_asked_for}})

    assert usage["usage"]["total_tokens"] > 0
    assert all(("usage" in chunk) == is_asked_for for chunk in chunks)
    assert not any(chunk.get("usage") for chunk in chunks)


def test_chat_without_a_question_is_answered_too() -> None:
    asked = chat.parse({"model": "m", "messages": [{"role": "system", "content": None}]})

    assert "not asked anything" in "".join(chat.answer(asked, created=1).tokens)


def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "x"}}, {"text": "two"}]
    asked = chat.parse({"model": "m", "messages": [{"role": "user", "content": parts}]})

    assert asked.messages == (chat.Message("user", "one two"),)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": [1]}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ],
)
def test_wrong_field_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(chat.InvalidChatError) as caught:
        chat.parse({**HELLO, **change})

    assert caught.value.param == param
