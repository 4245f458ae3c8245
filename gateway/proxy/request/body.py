"""Request bodies: read whole where they are priced or compared, else streamed; never beyond their limit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.proxy.metering.observers import FileObserver
from policies.access import authorization
from policies.model import Plan, Refusal, Refused, Route
from policies.pricing import prices
from policies.pricing.price import Price

Receive = Callable[[], Awaitable[Any]]

# A whole body stays in memory while the call runs; this limit applies where neither route nor plan sets one.
MAX_WHOLE_BODY_BYTES = 20 * 1024 * 1024


class ClientDisconnected(Exception):  # noqa: N818 - an event, not a fault
    """The client closed its connection before its request was complete."""


@dataclass(frozen=True, slots=True)
class WholeBody:
    """A body that was read before admission. `items` and `fields` are set where its items are the price."""

    content: bytes
    items: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def text(self, name: str, max_length: int = 200) -> str | None:
        """A top-level member for the record, shortened; None if it is no text."""
        value = self.fields.get(name)
        return value[:max_length] if isinstance(value, str) else None


def is_needed(route: Route, *, is_compared: bool) -> bool:
    """Whether a body is read before admission: to count its items, or to compare it with that of an earlier call."""
    return is_compared or route.price.is_counted_in_request


async def read_whole(arrived: bytes | None, receive: Receive, route: Route, *, plan: Plan) -> WholeBody:
    """The whole body, and its items where they are the price. `arrived` is the body if all of it has arrived."""
    limit = authorization.max_body_bytes(route, plan)
    if limit is None:
        limit = MAX_WHOLE_BODY_BYTES
    if arrived is not None:
        authorization.check_size(len(arrived), limit)
    content = await _receive_all(receive, limit) if arrived is None else arrived
    return _count_items(route.price, content) if route.price.is_counted_in_request else WholeBody(content)


async def _receive_all(receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    more = True
    while more:
        chunk, more = await _next(receive)
        size += len(chunk)
        authorization.check_size(size, limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _count_items(price: Price, content: bytes) -> WholeBody:
    """Raises Refused for a body that is not the JSON it must be."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(Refusal.INVALID_BODY, "The body must be JSON.") from None
    items = prices.units_in_request(price, document)
    return WholeBody(content, items, document if isinstance(document, dict) else {})


class StreamedBody:
    """A body on its way to the upstream: counted, limited, and fed to an observer."""

    def __init__(self, receive: Receive, max_bytes: int | None, observer: FileObserver | None) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._observer = observer
        self._first = b""
        self.is_complete = False
        self.size_bytes = 0

    def pass_whole(self, content: bytes) -> None:
        """Counts a body that has arrived as a whole."""
        self._pass(content, more=False)

    async def read_if_small(self) -> bytes | None:
        """The body if it comes in one message, so that it can be sent in one write and retried; else None."""
        chunk, more = await self._take()
        if not more:
            return chunk
        self._first = chunk
        return None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        first, self._first = self._first, b""
        if first:
            yield first
        while not self.is_complete:
            chunk, _ = await self._take()
            if chunk:
                yield chunk

    async def _take(self) -> tuple[bytes, bool]:
        chunk, more = await _next(self._receive)
        self._pass(chunk, more=more)
        return chunk, more

    def _pass(self, chunk: bytes, *, more: bool) -> None:
        self.size_bytes += len(chunk)
        authorization.check_size(self.size_bytes, self._max_bytes)
        self.is_complete = not more
        if self._observer is not None:
            self._observer.feed(chunk)


async def _next(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message.get("body", b""), message.get("more_body", False)
