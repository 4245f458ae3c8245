"""Anthropic Messages: a limit is required, the input is told at the begin of a stream, the output at its end.

The shapes are those of https://platform.claude.com/docs/en/api/messages.
"""

from __future__ import annotations

from collections.abc import Iterator
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

_ROLES = frozenset({"user", "assistant"})
_ERROR_TYPES = {404: "not_found_error", 413: "request_too_large"}


def parse(body: object) -> Prompt:
    """The prompt of a request. Raises InvalidRequestError naming the field that is wrong."""
    fields = object_of(body)
    model, messages, limit = model_of(fields), list_of(fields, "messages"), limit_of(fields, "max_tokens")
    if limit is None:
        raise InvalidRequestError("max_tokens: Field required", "max_tokens")
    system = fields.get("system")
    turns = [] if system is None else [Turn("system", text_of(system, "system"))]
    turns += [_turn(message, f"messages.{index}") for index, message in enumerate(messages)]
    return Prompt(model, tuple(turns), limit)


def reply(call: Call) -> Reply:
    prompt = parse(call.body)
    answer = generate(prompt)
    if flag_of(object_of(call.body), "stream"):
        return Reply(pieces=(event(each, each["type"]) for each in as_events(prompt, answer)))
    return Reply(as_json(prompt, answer))


def as_json(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    """The answer in one piece."""
    return {
        **_head(prompt, answer, output_tokens=len(answer.tokens)),
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": _stop_reason(answer),
    }


def as_events(prompt: Prompt, answer: Answer) -> Iterator[dict[str, Any]]:
    """The events of a stream in their order, one for each token."""
    yield {"type": "message_start", "message": _head(prompt, answer, output_tokens=1)}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for token in answer.tokens:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(answer), "stop_sequence": None},
        "usage": {"output_tokens": len(answer.tokens)},
    }
    yield {"type": "message_stop"}


def error(status: int, message: str, _param: str | None) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


MESSAGES = Api(reply, error)


def _turn(message: object, where: str) -> Turn:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(f"{where}.role: Input should be 'user' or 'assistant'", f"{where}.role")
    return Turn(role, text_of(message.get("content"), f"{where}.content"))


def _head(prompt: Prompt, answer: Answer, *, output_tokens: int) -> dict[str, Any]:
    usage = {
        "input_tokens": answer.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }
    return {
        "id": f"msg_{prompt.digest}",
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _stop_reason(answer: Answer) -> str:
    return "max_tokens" if answer.is_cut else "end_turn"
