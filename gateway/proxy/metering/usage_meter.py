"""Measures what a response used while it passes: by a reader of its API, or by the pointers of a plain price."""

from __future__ import annotations

from typing import Protocol

from gateway.proxy.metering.documents.selection import Leaf
from gateway.proxy.metering.pointers import PointerReader
from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reading import ResponseReading
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.units import CountSource, PriceUnit

NOT_MEASURED = ResponseReading(missing=None)


class UsageMeter(Protocol):
    def feed(self, chunk: bytes) -> None:
        """Measures a piece of the response."""

    def reading(self) -> ResponseReading:
        """What has been measured so far; can be asked at any moment."""


def open_meter(price: Price | PriceList, content_type: bytes, content_encoding: bytes) -> UsageMeter | None:
    """The meter of a response, None where its price needs nothing of it."""
    if isinstance(price, PriceList):
        return READERS[price.reader].open_response(content_type, content_encoding)
    if price.source is CountSource.RESPONSE or price.error_pointer is not None:
        return _PointerMeter(price, content_type, content_encoding)
    return None


class _PointerMeter:
    def __init__(self, price: Price, content_type: bytes, content_encoding: bytes) -> None:
        self._price = price
        self._units = self._error = None
        if price.source is CountSource.RESPONSE:
            leaf = Leaf.SIZE if price.unit is PriceUnit.CHARACTER else Leaf.COUNT
            self._units = PointerReader(price.pointers, content_type, content_encoding, leaf=leaf)
        if price.error_pointer is not None:
            pointers = (price.error_pointer,)
            self._error = PointerReader(pointers, content_type, content_encoding, leaf=Leaf.VALUE)

    def feed(self, chunk: bytes) -> None:
        if self._units is not None:
            self._units.feed(chunk)
        if self._error is not None:
            self._error.feed(chunk)

    def reading(self) -> ResponseReading:
        is_error = self._error is not None and bool(self._error.value())
        if self._units is None:
            return ResponseReading(missing=None, is_error=is_error)
        units = self._price.unit.counted(self._units.value())
        missing = None if units is not None else self._units.missing
        return ResponseReading(missing=missing, is_error=is_error, units=units)
