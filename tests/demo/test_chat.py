from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.demo import chat
from gateway.demo.exchange import InvalidRequestError
from gateway.demo.model import Turn, generate, tokens_of

HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello there, gateway!"}]}


def events(body: dict[str, Any]) -> list[Any]:
    asked = chat.parse(body)
    written = b"".join(chat.as_events(asked, generate(asked.prompt), 1))
    lines = [block.removeprefix("data: ") for block in written.decode().split("\n\n") if block]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def completion(body: dict[str, Any]) -> dict[str, Any]:
    asked = chat.parse(body)
    return chat.as_json(asked, generate(asked.prompt), 1)


@settings(deadline=None)
@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


def test_words_and_marks_are_tokens() -> None:
    assert tokens_of("Hello there, you!") == ("Hello", " there", ",", " you", "!")


def test_answer_counts_prompt_and_completion() -> None:
    answer = completion(HELLO)

    text = answer["choices"][0]["message"]["content"]
    assert "“Hello there, gateway!”" in text
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == len(tokens_of(text))
    assert answer["usage"]["total_tokens"] == 5 + len(tokens_of(text))


def test_same_question_has_the_same_answer() -> None:
    first, second = (completion(HELLO) for _ in range(2))

    assert first == second
    assert first["id"] != completion({**HELLO, "model": "other"})["id"]


def test_token_limit_cuts_the_answer_and_is_the_finish_reason() -> None:
    answer = completion({**HELLO, "max_tokens": 3})

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


def test_streamed_tokens_joined_are_the_answer() -> None:
    *chunks, usage, done = events({**HELLO, "stream_options": {"include_usage": True}})

    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    answer = completion(HELLO)
    assert text == answer["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"], done) == ([], answer["usage"], "[DONE]")
    assert {chunk["object"] for chunk in [*chunks, usage]} == {"chat.completion.chunk"}


def test_stream_tells_usage_to_who_asks_for_it_and_null_before() -> None:
    *chunks, usage, _ = events({**HELLO, "stream_options": {"include_usage": True}})

    assert usage["usage"]["total_tokens"] > 0
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
def test_stream_tells_no_usage_to_who_does_not_ask(options: object) -> None:
    *chunks, done = events({**HELLO, "stream_options": options})

    assert done == "[DONE]"
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


def test_chat_without_a_question_is_answered_too() -> None:
    asked = chat.parse({"model": "m", "messages": [{"role": "system", "content": None}]})

    assert "not asked anything" in generate(asked.prompt).text


def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "x"}}, {"text": "two"}]
    asked = chat.parse({"model": "m", "messages": [{"role": "user", "content": parts}]})

    assert asked.prompt.turns == (Turn("user", "one two"),)


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
    with pytest.raises(InvalidRequestError) as caught:
        chat.parse({**HELLO, **change})

    assert caught.value.param == param
