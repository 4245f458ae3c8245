"""Gemini: the path names the model and whether its answer streams, as events or as an array; totals are running.

The shapes are those of https://ai.google.dev/api/generate-content.
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
    json_bytes,
    limit_of,
    list_of,
    object_of,
    text_of,
)
from gateway.demo.model import Answer, Prompt, Turn, generate

_STATUSES = {404: "NOT_FOUND"}


def parse(body: object, model: str) -> Prompt:
    """The prompt of a request. Raises InvalidRequestError naming the field that is wrong."""
    fields = object_of(body)
    options = fields.get("generationConfig") or {}
    if not isinstance(options, dict):
        raise InvalidRequestError("generationConfig must be an object.", "generationConfig")
    contents = list_of(fields, "contents")
    system = fields.get("systemInstruction")
    turns = [] if system is None else [Turn("system", _text(system, "systemInstruction"))]
    turns += [_turn(content, f"contents[{index}]") for index, content in enumerate(contents)]
    return Prompt(model, tuple(turns), limit_of(options, "maxOutputTokens"))


def reply(call: Call) -> Reply:
    prompt = parse(call.body, call.model)
    answer = generate(prompt)
    if not call.is_streamed:
        finish = "MAX_TOKENS" if answer.is_cut else "STOP"
        return Reply(_chunk(prompt, answer, answer.text, generated=len(answer.tokens), finish_reason=finish))
    chunks = as_chunks(prompt, answer)
    if call.wants_events:
        return Reply(pieces=map(event, chunks))
    return Reply(pieces=_array(chunks), media_type="application/json")


def as_chunks(prompt: Prompt, answer: Answer) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, one for each token; each has the counts so far."""
    last = len(answer.tokens)
    for number, token in enumerate(answer.tokens, 1):
        finish = ("MAX_TOKENS" if answer.is_cut else "STOP") if number == last else None
        yield _chunk(prompt, answer, token, generated=number, finish_reason=finish)


def error(status: int, message: str, _param: str | None) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": _STATUSES.get(status, "INVALID_ARGUMENT")}}


GEMINI = Api(reply, error)


def _array(chunks: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    opening = b"["
    for chunk in chunks:
        yield opening + json_bytes(chunk)
        opening = b"\n,\r\n"
    yield b"\n]\n"


def _turn(content: object, where: str) -> Turn:
    role = content.get("role", "user") if isinstance(content, dict) else None
    if role not in ("user", "model", "function"):
        raise InvalidRequestError("Please use a valid role: user, model.", f"{where}.role")
    return Turn(role, _text(content, where))


def _text(content: object, where: str) -> str:
    return text_of(content.get("parts") if isinstance(content, dict) else content, f"{where}.parts")


def _chunk(
    prompt: Prompt, answer: Answer, text: str, *, generated: int, finish_reason: str | None = None
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
    counts = {
        "promptTokenCount": answer.prompt_tokens,
        "candidatesTokenCount": generated,
        "totalTokenCount": answer.prompt_tokens + generated,
    }
    return {
        "candidates": [candidate],
        "usageMetadata": counts,
        "modelVersion": prompt.model,
        "responseId": prompt.digest,
    }
