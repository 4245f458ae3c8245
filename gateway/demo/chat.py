"""A minimal chat model: it fills a template, counts tokens, and speaks the format of OpenAI.

The shapes are those of https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# A token is a word or a mark, with the blanks before it: joined again, the tokens are the text.
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+\Z")
_QUOTED_WORDS = 24
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_DONE = b"data: [DONE]\n\n"


class InvalidChatError(Exception):
    """The request is no chat; `param` is where."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    is_streamed: bool = False
    wants_usage: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A complete response. `created` is in Unix seconds."""

    id: str
    created: int
    model: str
    tokens: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    wants_usage: bool = field(default=False)


def tokens_of(text: str) -> tuple[str, ...]:
    """The tokens of a text; joined, they are the text."""
    return tuple(_TOKEN.findall(text))


def parse(body: object) -> ChatRequest:
    """A request from its JSON. Raises InvalidChatError naming the field that is wrong."""
    if not isinstance(body, dict):
        raise InvalidChatError("The body must be a JSON object.")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise InvalidChatError("model must be the name of a model.", "model")
    if not isinstance(messages, list) or not messages:
        raise InvalidChatError("messages must be a list of at least one message.", "messages")
    options = {} if body.get("stream_options") is None else body["stream_options"]
    if not isinstance(options, dict):
        raise InvalidChatError("stream_options must be an object.", "stream_options")
    return ChatRequest(
        model=model,
        messages=tuple(_message(entry, f"messages[{index}]") for index, entry in enumerate(messages)),
        max_tokens=_max_tokens(body),
        is_streamed=_flag(body, "stream"),
        wants_usage=_flag(options, "include_usage"),
    )


def answer(request: ChatRequest, created: int) -> Completion:
    """The response to a request, deterministic but for `created`."""
    tokens = tokens_of(_reply(request.messages))
    is_cut = request.max_tokens is not None and len(tokens) > request.max_tokens
    return Completion(
        id=f"chatcmpl-{hashlib.sha256(repr(request).encode()).hexdigest()[:24]}",
        created=created,
        model=request.model,
        tokens=tokens[: request.max_tokens],
        finish_reason="length" if is_cut else "stop",
        prompt_tokens=sum(len(tokens_of(message.text)) for message in request.messages),
        wants_usage=request.wants_usage,
    )


def as_json(completion: Completion) -> dict[str, Any]:
    """The answer in one piece."""
    message = {"role": "assistant", "content": "".join(completion.tokens), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
    return {**_head(completion, "chat.completion"), "choices": [choice], "usage": _usage(completion)}


def as_events(completion: Completion) -> Iterator[bytes]:
    """The response as server-sent events, one for each token; the usage is the last before `[DONE]`, always."""
    yield _event(completion, _delta({"role": "assistant", "content": ""}, None))
    for token in completion.tokens:
        yield _event(completion, _delta({"content": token}, None))
    yield _event(completion, _delta({}, completion.finish_reason))
    yield _event(completion, [], usage=_usage(completion))
    yield _DONE


def _message(entry: object, where: str) -> Message:
    role = entry.get("role") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(role, str) or role not in _ROLES:
        raise InvalidChatError(f"{where}.role must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
    content = entry.get("content")
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    texts = [part.get("text", "") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidChatError(f"{where}.content must be text or a list of parts.", f"{where}.content")
    return Message(role, " ".join(text for text in texts if text))


def _max_tokens(body: dict[str, Any]) -> int | None:
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    limit = body.get(name)
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidChatError(f"{name} must be a whole number of at least 1.", name)
    return limit


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidChatError(f"{name} must be true or false.", name)
    return bool(value)


def _reply(messages: Sequence[Message]) -> str:
    asked = next((message.text for message in reversed(messages) if message.role == "user"), "")
    words = asked.split()
    if not words:
        return "You have not asked anything yet. Send a message with the role user, and I will answer it."
    quoted = " ".join(words[:_QUOTED_WORDS]) + ("…" if len(words) > _QUOTED_WORDS else "")
    return (
        f"You wrote {len(words)} word{'s' * (len(words) != 1)}: “{quoted}” "
        "I am the demo upstream: I answer from a template, count my words, and let the gateway charge for them."
    )


def _head(completion: Completion, kind: str) -> dict[str, Any]:
    return {"id": completion.id, "object": kind, "created": completion.created, "model": completion.model}


def _usage(completion: Completion) -> dict[str, int]:
    generated = len(completion.tokens)
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": completion.prompt_tokens + generated,
    }


def _delta(delta: dict[str, str], finish_reason: str | None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]


def _event(completion: Completion, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = {**_head(completion, "chat.completion.chunk"), "choices": choices}
    # A client that asked for the usage gets the member on every event, null until the last.
    if usage is not None or completion.wants_usage:
        chunk["usage"] = usage
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
