"""Measures what a response used while it passes: by a reader of its API, or by the pointers of a plain price."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gateway.proxy.metering.documents.selection import Leaf
from gateway.proxy.metering.framing import media_type
from gateway.proxy.metering.pointers import open_pointer_response
from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reading import ResponseReading
from gateway.proxy.metering.usage_events import UsageEventRemover
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.units import Count, CountSource, PriceUnit
from policies.usage.counts import MissingReason


class Measured(NamedTuple):
    """What a response has reported so far: the units of a plain price, or the reading of a reader."""

    units: Count | None = None
    reading: ResponseReading = ResponseReading()
    missing: MissingReason | None = None
    is_error: bool = False


NOT_MEASURED = Measured()


class UsageMeter(Protocol):
    def pass_on(self, chunk: bytes) -> bytes:
        """Measures a piece of the response; gives what of it the client gets."""

    def pass_rest(self) -> bytes:
        """What was held back, once the response is complete."""

    def measured(self) -> Measured:
        """What has been measured so far; can be asked at any moment."""


def open_meter(
    price: Price | PriceList, content_type: bytes, content_encoding: bytes, *, hides_usage: bool
) -> UsageMeter | None:
    """The meter of a response, None where its price needs nothing of it.

    `hides_usage`: the gateway asked for the usage, and the client did not.
    """
    if isinstance(price, PriceList):
        return _ReaderMeter(price, content_type, content_encoding, hides_usage=hides_usage)
    if price.source is CountSource.RESPONSE or price.error_pointer is not None:
        return _PointerMeter(price, content_type, content_encoding)
    return None


class _PointerMeter:
    def __init__(self, price: Price, content_type: bytes, content_encoding: bytes) -> None:
        self._price = price
        self._units = self._error = None
        if price.source is CountSource.RESPONSE:
            leaf = Leaf.SIZE if price.unit is PriceUnit.CHARACTER else Leaf.COUNT
            self._units = open_pointer_response(price.pointers, content_type, content_encoding, leaf=leaf)
        if price.error_pointer is not None:
            pointers = (price.error_pointer,)
            self._error = open_pointer_response(pointers, content_type, content_encoding, leaf=Leaf.VALUE)

    def pass_on(self, chunk: bytes) -> bytes:
        if self._units is not None:
            self._units.feed(chunk)
        if self._error is not None:
            self._error.feed(chunk)
        return chunk

    def pass_rest(self) -> bytes:
        return b""

    def measured(self) -> Measured:
        is_error = self._error is not None and self._error.value() is not None
        if self._units is None:
            return Measured(is_error=is_error)
        units = self._price.unit.counted(self._units.value())
        return Measured(units, missing=None if units is not None else self._units.missing, is_error=is_error)


class _ReaderMeter:
    def __init__(self, price: PriceList, content_type: bytes, content_encoding: bytes, *, hides_usage: bool) -> None:
        self._reader = READERS[price.reader].open_response(content_type, content_encoding)
        is_hidden = (
            hides_usage and content_encoding in (b"", b"identity") and media_type(content_type) == b"text/event-stream"
        )
        self._remover = UsageEventRemover() if is_hidden else None

    def pass_on(self, chunk: bytes) -> bytes:
        self._reader.feed(chunk)
        return chunk if self._remover is None else self._remover.feed(chunk)

    def pass_rest(self) -> bytes:
        return b"" if self._remover is None else self._remover.finish()

    def measured(self) -> Measured:
        reading = self._reader.reading()
        return Measured(None, reading, reading.missing, reading.is_error)
