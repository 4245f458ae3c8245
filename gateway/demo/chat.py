"""OpenAI chat completions: what of a chat is the prompt, and that a stream tells its usage only to who asks for it.

The shapes are those of https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway.demo.exchange import (
    Api,
    Call,
    InvalidRequestError,
    Reply,
    event,
    flag_of,
    limit_of,
    list_of,
    model_of,
    object_of,
    text_of,
)
from gateway.demo.model import Answer, Prompt, Turn, generate

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    prompt: Prompt
    is_streamed: bool = False
    wants_usage: bool = False


def parse(body: object) -> ChatRequest:
    """A request from its JSON. Raises InvalidRequestError naming the field that is wrong."""
    fields = object_of(body)
    model, messages = model_of(fields), list_of(fields, "messages")
    options = {} if fields.get("stream_options") is None else fields["stream_options"]
    if not isinstance(options, dict):
        raise InvalidRequestError("stream_options must be an object.", "stream_options")
    turns = tuple(_turn(entry, f"messages[{index}]") for index, entry in enumerate(messages))
    newer = "max_completion_tokens"
    limit = limit_of(fields, newer if fields.get(newer) is not None else "max_tokens")
    return ChatRequest(Prompt(model, turns, limit), flag_of(fields, "stream"), flag_of(options, "include_usage"))


def reply(call: Call) -> Reply:
    asked = parse(call.body)
    answer = generate(asked.prompt)
    if asked.is_streamed:
        return Reply(pieces=as_events(asked, answer, call.created))
    return Reply(as_json(asked, answer, call.created))


def as_json(asked: ChatRequest, answer: Answer, created: int) -> dict[str, Any]:
    """The answer in one piece."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    return {**_head(asked, "chat.completion", created), "choices": [choice], "usage": _usage(answer)}


def as_events(asked: ChatRequest, answer: Answer, created: int) -> Iterator[bytes]:
    """The answer as server-sent events, one for each token.

    A client that asked for the usage gets it in an event of its own before `[DONE]`, and null in all others.
    """
    head = _head(asked, "chat.completion.chunk", created)
    unknown: dict[str, Any] = {"usage": None} if asked.wants_usage else {}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **unknown})

    yield chunk({"role": "assistant", "content": ""})
    for token in answer.tokens:
        yield chunk({"content": token})
    yield chunk({}, _finish(answer))
    if asked.wants_usage:
        yield event({**head, "choices": [], "usage": _usage(answer)})
    yield _DONE


def error(_status: int, message: str, param: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


CHAT = Api(reply, error)


def _turn(entry: object, where: str) -> Turn:
    role = entry.get("role") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(f"{where}.role must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
    return Turn(role, text_of(entry.get("content"), f"{where}.content"))


def _finish(answer: Answer) -> str:
    return "length" if answer.is_cut else "stop"


def _head(asked: ChatRequest, kind: str, created: int) -> dict[str, Any]:
    model = asked.prompt.model
    return {"id": f"chatcmpl-{asked.prompt.digest}", "object": kind, "created": created, "model": model}


def _usage(answer: Answer) -> dict[str, int]:
    generated = len(answer.tokens)
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": answer.prompt_tokens + generated,
    }
