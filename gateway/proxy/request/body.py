"""Request bodies: read whole where they are priced or compared, else streamed; never beyond their limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from gateway.proxy.metering.observers import FileObserver
from gateway.proxy.metering.priced_body import NOTHING_ASKED, Asked, read_asked
from gateway.proxy.metering.strict_json import SMALL_BYTES
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.router import RouteMatch
from policies.access import authorization
from policies.model import Plan

Receive = Callable[[], Awaitable[Any]]

# A whole body stays in memory while the call runs; this limit applies where neither route nor plan sets one.
MAX_WHOLE_BODY_BYTES = 20 * 1024 * 1024


class ClientDisconnected(Exception):  # noqa: N818 - an event, not a fault
    """The client closed its connection before its request was complete."""


class WholeBody(NamedTuple):
    """A body that was read before admission, and what it asks for where the price needs to know."""

    content: bytes
    asked: Asked = NOTHING_ASKED


def is_needed(match: RouteMatch, *, is_compared: bool) -> bool:
    """Whether a body is read before admission: to price the call, or to compare it with that of an earlier call."""
    return is_compared or match.quote is None


async def read_whole(
    arrived: bytes | None, receive: Receive, match: RouteMatch, inbound: Inbound, *, plan: Plan
) -> WholeBody:
    """The whole body, and what it asks for where that is the price. `arrived` is the body if all of it has arrived."""
    limit = authorization.max_body_bytes(match.route, plan)
    if limit is None:
        limit = MAX_WHOLE_BODY_BYTES
    if arrived is not None:
        authorization.check_size(len(arrived), limit)
    content = await _receive_all(receive, limit) if arrived is None else arrived
    if match.quote is not None:
        return WholeBody(content)
    content_encoding = inbound.fields.get(b"content-encoding", b"")
    read = partial(
        read_asked,
        match.route.price,
        content,
        path=match.path,
        content_type=inbound.fields.get(b"content-type", b""),
        content_encoding=content_encoding,
        limit=limit,
    )
    is_small = len(content) <= SMALL_BYTES and not content_encoding  # a coded body may be any size inside
    return WholeBody(content, read() if is_small else await asyncio.to_thread(read))


async def _receive_all(receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    more = True
    while more:
        chunk, more = await _next(receive)
        size += len(chunk)
        authorization.check_size(size, limit)
        chunks.append(chunk)
    return b"".join(chunks)


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
