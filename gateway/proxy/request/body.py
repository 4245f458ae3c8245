"""Request bodies: read whole where they are priced or compared, else streamed; never beyond their limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from gateway.proxy.metering.documents.values import MAX_PARSED_BYTES
from gateway.proxy.metering.priced_body import NOTHING_ASKED, Asked, read_asked
from gateway.proxy.metering.readers import READERS
from gateway.proxy.request import forms
from gateway.proxy.request.api_keys import KeyForm
from gateway.proxy.request.forms import FormScan
from gateway.proxy.request.held_bodies import HeldBody
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.request.uploads import FileObserver
from gateway.proxy.router import RouteMatch
from policies.access.authorization import check_size
from policies.pricing.price_list import PriceList

Receive = Callable[[], Awaitable[Any]]

# A whole body stays in memory while the call runs; this limit applies where neither route nor plan sets one.
MAX_WHOLE_BODY_BYTES = 20 * 1024 * 1024


class ClientDisconnected(Exception):  # noqa: N818 - an event, not a fault
    """The client closed its connection before its request was complete."""


class WholeBody(NamedTuple):
    """A body that was read before admission, and what it asks for where the price needs to know."""

    content: bytes
    asked: Asked = NOTHING_ASKED


def is_needed(match: RouteMatch, inbound: Inbound, *, is_compared: bool) -> bool:
    """Whether a body is read before admission: to price the call, to compare it, or to look for keys in a form."""
    return is_compared or match.quote is None or (inbound.is_form and _is_small(inbound.content_length))


def has_unknown_size(inbound: Inbound) -> bool:
    """Whether only reading a body tells if it is too large."""
    return inbound.content_length is None or b"content-encoding" in inbound.fields


def is_awaited(inbound: Inbound, arrived: bytes | None) -> bool:
    """Whether reading the body costs time and memory, or a `100 Continue`, which a call over its limits must not."""
    if arrived is not None:
        return len(arrived) > MAX_PARSED_BYTES
    return b"expect" in inbound.fields or inbound.content_length is None or inbound.content_length > MAX_PARSED_BYTES


def _is_small(content_length: int | None) -> bool:
    return content_length is not None and 0 < content_length <= forms.MAX_FORM_READ_BYTES


async def receive_whole(receive: Receive, *, max_bytes: int | None, held: HeldBody) -> bytes:
    """A body that has not arrived yet. The caller releases `held`, which it takes its bytes of."""
    limit = MAX_WHOLE_BODY_BYTES if max_bytes is None else max_bytes
    chunks, size = [], 0
    more = True
    while more:
        chunk, more = await _next(receive)
        size += len(chunk)
        check_size(size, limit)
        held.grow(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def read_whole(content: bytes, match: RouteMatch, inbound: Inbound, *, max_bytes: int | None) -> WholeBody:
    """A body with what it asks for, where that is the price."""
    limit = MAX_WHOLE_BODY_BYTES if max_bytes is None else max_bytes
    check_size(len(content), limit)
    if inbound.is_form:
        FormScan(inbound.fields[b"content-type"], inbound.key_form).check(content)
    if match.quote is not None:
        return WholeBody(content)
    fields, price, path = inbound.fields, match.route.price, match.path
    content_type, content_encoding = fields.get(b"content-type", b""), fields.get(b"content-encoding", b"")
    if len(content) <= MAX_PARSED_BYTES and not content_encoding:  # a coded body may be any size inside
        asked = read_asked(price, content, path=path, content_type=content_type, limit=limit)
    else:
        asked = await asyncio.to_thread(
            read_asked,
            price,
            content,
            path=path,
            content_type=content_type,
            content_encoding=content_encoding,
            limit=limit,
        )
    request, form = asked.model_request, inbound.key_form
    if isinstance(price, PriceList) and not request.is_free:
        READERS[price.reader].check_parameters(inbound.query, inbound.end_to_end)
    is_plain = not asked.texts and not request.alternatives
    is_plain = is_plain and (request.model is None or form.redacted(request.model) is request.model)
    return WholeBody(content, asked if is_plain else _redacted(asked, form))


def form_scan(inbound: Inbound) -> FormScan | None:
    """The scan for keys that the body of this request needs; None where it is no form."""
    return FormScan(inbound.fields[b"content-type"], inbound.key_form) if inbound.is_form else None


def _redacted(asked: Asked, form: KeyForm) -> Asked:
    """What a body asks for is recorded and quoted, so it must hold no key."""
    request, texts = asked.model_request, asked.texts
    model = None if request.model is None else form.redacted(request.model)
    alternatives = tuple(map(form.redacted, request.alternatives))
    asked = asked._replace(model_request=request._replace(model=model, alternatives=alternatives))
    if texts:
        asked = asked._replace(texts={name: form.redacted(text) for name, text in texts.items()})
    return asked


class StreamedBody:
    """A body on its way to the upstream: counted, limited, and fed to an observer. `scan` looks for keys in a form."""

    def __init__(
        self, receive: Receive, max_bytes: int | None, observer: FileObserver | None, *, scan: FormScan | None = None
    ) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._observer = observer
        self._scan = scan
        self._first = b""
        self.is_complete = False
        self.size_bytes = 0

    def pass_whole(self, content: bytes) -> None:
        """Counts a body that has arrived as a whole."""
        self._pass(content, more=False)
        if self._scan is not None:
            self._scan.check(content)

    async def read_if_small(self, max_bytes: int) -> bytes | None:
        """The body if it ends within so many bytes, so that it can be sent in one write and retried; else None."""
        chunks, size = [], 0
        while size <= max_bytes:
            chunk, more = await self._take()
            chunks.append(chunk)
            size += len(chunk)
            if not more:
                return b"".join(chunks)
        self._first = b"".join(chunks)
        return None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunk, self._first = self._first, b""
        if chunk:
            yield chunk
        while not self.is_complete:
            chunk = b""  # which would stay in memory for as long as the next one does not come
            chunk, _ = await self._take()
            if chunk:
                yield chunk

    async def _take(self) -> tuple[bytes, bool]:
        chunk, more = await _next(self._receive)
        self._pass(chunk, more=more)
        return chunk if self._scan is None else self._scan.pass_on(chunk, more=more), more

    def _pass(self, chunk: bytes, *, more: bool) -> None:
        self.size_bytes += len(chunk)
        check_size(self.size_bytes, self._max_bytes)
        self.is_complete = not more
        if self._observer is not None:
            self._observer.feed(chunk)


async def _next(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message.get("body", b""), message.get("more_body", False)
