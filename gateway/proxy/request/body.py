"""How a request body is read: whole where it is priced or compared, else as it streams; never more than may pass."""

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

# What is read whole is held in memory while the call runs; without a limit of the route's or plan's, this one holds.
MAX_WHOLE_BODY_BYTES = 20 * 1024 * 1024


class ClientGone(Exception):  # noqa: N818 - an event, not a fault
    """The client closed its connection before its request was complete."""


@dataclass(frozen=True, slots=True)
class WholeBody:
    """A body that was read before admission: its items are the price, or a repeat is known by it.

    `items` and `fields` are those of a priced one.
    """

    content: bytes
    items: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def text(self, name: str, max_length: int = 200) -> str | None:
        """A top-level member that goes into a record, if it is text."""
        value = self.fields.get(name)
        return value[:max_length] if isinstance(value, str) else None


def is_needed(route: Route, *, is_compared: bool) -> bool:
    """Whether a body is read before admission: its items are the price of the call, or it is compared with another."""
    return is_compared or route.price.is_counted_in_request


async def read(here: bytes | None, receive: Receive, route: Route, *, plan: Plan) -> WholeBody:
    """The whole body, and its items where they are the price; `here` if it has come already."""
    limit = authorization.max_body_bytes(route, plan)
    if limit is None:
        limit = MAX_WHOLE_BODY_BYTES
    if here is not None:
        authorization.check_size(len(here), limit)
    content = await _read_whole(receive, limit) if here is None else here
    return _counted(route.price, content) if route.price.is_counted_in_request else WholeBody(content)


async def _read_whole(receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    more = True
    while more:
        chunk, more = await _next(receive)
        size += len(chunk)
        authorization.check_size(size, limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _counted(price: Price, content: bytes) -> WholeBody:
    """Counts the items; raises Refused where the body is not the JSON it must be."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(Refusal.INVALID_BODY, "The body must be JSON.") from None
    items = prices.units_in_request(price, document)
    return WholeBody(content, items, document if isinstance(document, dict) else {})


class StreamedBody:
    """A body on its way to the upstream: counted, limited, and shown to an observer as it passes."""

    def __init__(self, receive: Receive, max_bytes: int | None, observer: FileObserver | None) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._observer = observer
        self._first = b""
        self.is_complete = False
        self.size_bytes = 0

    def whole(self, content: bytes) -> bytes:
        """The same body, where it has all come already."""
        self._pass(content, more=False)
        return content

    async def whole_if_small(self) -> bytes | None:
        """The body if it is all there already, so that it can be sent in one write and sent again; else None."""
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
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)
