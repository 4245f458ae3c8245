"""What a call to an AI API is and what comes back: the parts of requests that all APIs share, and replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class InvalidRequestError(Exception):
    """The request is not one of its API; `param` is where."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Call(NamedTuple):
    """A request: its body, what its path and query say, and the second in which it came."""

    body: object
    created: int
    model: str = ""
    is_streamed: bool = False
    wants_events: bool = False


class Reply(NamedTuple):
    """A document, or pieces of a stream that are sent one by one."""

    document: Mapping[str, Any] | None = None
    pieces: Iterable[bytes] = ()
    media_type: str = "text/event-stream"


class Api(NamedTuple):
    """An API as the demo speaks it. `error` takes a status, a message and the field that is wrong."""

    reply: Callable[[Call], Reply]
    error: Callable[[int, str, str | None], Mapping[str, Any]]


def json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def event(value: object, name: str | None = None) -> bytes:
    """A server-sent event; one with a name says it first."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json_bytes(value) + b"\n\n"


def object_of(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return body


def model_of(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequestError("model must be the name of a model.", "model")
    return model


def list_of(body: Mapping[str, Any], name: str) -> list[Any]:
    found = body.get(name)
    if not isinstance(found, list) or not found:
        raise InvalidRequestError(f"{name} must be a list of at least one entry.", name)
    return found


def limit_of(body: Mapping[str, Any], name: str) -> int | None:
    """A limit of tokens; null is none."""
    limit = body.get(name)
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidRequestError(f"{name} must be a whole number of at least 1.", name)
    return limit


def flag_of(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be true or false.", name)
    return bool(value)


def text_of(content: object, where: str) -> str:
    """The text of content, which is text itself or a list of parts of which some have text."""
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    texts = [part.get("text", "") if isinstance(part, dict) else None for part in parts]
    readable = [text for text in texts if isinstance(text, str)]
    if len(readable) != len(texts):
        raise InvalidRequestError(f"{where} must be text or a list of parts.", where)
    return " ".join(filter(None, readable))
