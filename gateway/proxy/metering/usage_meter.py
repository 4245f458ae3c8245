"""Measures what a response used while it passes: by a reader of its API, or by the pointers of a plain price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.proxy.metering.documents.selection import Leaf
from gateway.proxy.metering.framing import is_json
from gateway.proxy.metering.pointers import PointerReader
from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reading import ResponseReading
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import Usage, UsageClass

NOT_MEASURED = ResponseReading(missing=None)


class UsageMeter(Protocol):
    def feed(self, chunk: bytes) -> None:
        """Measures a piece of the response."""

    def reading(self) -> ResponseReading:
        """What has been measured so far; can be asked at any moment."""


def open_meter(
    price: Price | PriceList,
    content_type: bytes,
    content_encoding: bytes,
    token_counts: Mapping[str, int] | None = None,
) -> UsageMeter | None:
    """The meter of a response, None where its price needs nothing of it. `token_counts` stand in its head."""
    if isinstance(price, PriceList):
        reader = READERS[price.reader]
        meter = reader.open_response(content_type, content_encoding)
        if token_counts is None or not reader.counts_in_head or not is_json(content_type):
            return meter
        usage = reader.response.normalize(token_counts)
        return meter if usage is None else _MeterWithHead(meter, usage)
    if price.source is CountSource.RESPONSE or price.error_pointer is not None:
        return _PointerMeter(price, content_type, content_encoding)
    return None


class _MeterWithHead:
    """Completes by the head's usage what the body does not report."""

    def __init__(self, meter: UsageMeter, usage: Usage) -> None:
        self._meter = meter
        self._usage = usage
        self.feed = meter.feed

    def reading(self) -> ResponseReading:
        reading = self._meter.reading()
        told = reading.usage
        if told is not None and UsageClass.INPUT in told.counts and UsageClass.OUTPUT in told.counts:
            return reading
        usage = self._usage if told is None else self._usage.merged(told)
        # The head tells of the whole answer, so no text of it is left to be estimated.
        text_bytes = 0 if UsageClass.OUTPUT in usage.counts else reading.text_bytes
        return reading._replace(usage=usage, missing=None, text_bytes=text_bytes)


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
