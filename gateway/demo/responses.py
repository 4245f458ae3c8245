"""OpenAI Responses: what of an input is the prompt, and the typed events in which an answer is built up.

The shapes are those of https://platform.openai.com/docs/api-reference/responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.demo.chat import error
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

_PLACE = {"output_index": 0, "content_index": 0}


def parse(body: object) -> Prompt:
    """The prompt of a request. Raises InvalidRequestError naming the field that is wrong."""
    fields = object_of(body)
    model = model_of(fields)
    instructions = fields.get("instructions")
    turns = [] if instructions is None else [Turn("system", text_of(instructions, "instructions"))]
    if isinstance(fields.get("input"), str):
        turns.append(Turn("user", fields["input"]))
    else:
        turns += [_turn(item, f"input[{index}]") for index, item in enumerate(list_of(fields, "input"))]
    return Prompt(model, tuple(turns), limit_of(fields, "max_output_tokens"))


def reply(call: Call) -> Reply:
    prompt = parse(call.body)
    answer = generate(prompt)
    if flag_of(object_of(call.body), "stream"):
        return Reply(pieces=_numbered(as_events(prompt, answer, call.created)))
    return Reply(_finished(prompt, answer, call.created))


def as_events(prompt: Prompt, answer: Answer, created: int) -> Iterator[dict[str, Any]]:
    """The events of a stream in their order, without their numbers."""
    begun, finished = _begun(prompt, created), _finished(prompt, answer, created)
    (message,), item = finished["output"], {"item_id": f"msg_{prompt.digest}", **_PLACE}
    part = message["content"][0]
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    empty = {**message, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": empty}
    yield {"type": "response.content_part.added", **item, "part": {**part, "text": ""}}
    for token in answer.tokens:
        yield {"type": "response.output_text.delta", **item, "delta": token, "logprobs": []}
    yield {"type": "response.output_text.done", **item, "text": answer.text, "logprobs": []}
    yield {"type": "response.content_part.done", **item, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": message}
    yield {"type": f"response.{finished['status']}", "response": finished}


RESPONSES = Api(reply, error)


def _numbered(events: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for number, each in enumerate(events):
        yield event({"sequence_number": number, **each}, each["type"])


def _turn(item: object, where: str) -> Turn:
    if not isinstance(item, dict):
        raise InvalidRequestError(f"{where} must be an object.", where)
    role = item.get("role", "tool")
    if not isinstance(role, str):
        raise InvalidRequestError(f"{where}.role must be text.", f"{where}.role")
    return Turn(role, text_of(item.get("content"), f"{where}.content"))


def _begun(prompt: Prompt, created: int) -> dict[str, Any]:
    return {
        "id": f"resp_{prompt.digest}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": prompt.max_tokens,
        "metadata": {},
        "model": prompt.model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _finished(prompt: Prompt, answer: Answer, created: int) -> dict[str, Any]:
    status = "incomplete" if answer.is_cut else "completed"
    part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    message = {"id": f"msg_{prompt.digest}", "type": "message", "role": "assistant", "status": status}
    return {
        **_begun(prompt, created),
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.is_cut else None,
        "output": [{**message, "content": [part]}],
        "usage": {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": len(answer.tokens),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + len(answer.tokens),
        },
    }
