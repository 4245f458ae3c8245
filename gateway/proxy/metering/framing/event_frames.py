"""Frames of `application/vnd.amazon.eventstream`, whose payloads are JSON texts.

A frame is its length, the length of its headers, a checksum of both, headers, payload, and a checksum of all
(docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html has the layout).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from zlib import crc32

from gateway.proxy.metering.documents.reader import DocumentReader

MAX_HEADERS_BYTES = 128 * 1024  # as the AWS SDKs have it
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_STRING_TYPES = (6, 7)  # bytes and text: two bytes of length, then the value
_VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class EventFrames:
    """Gives each payload as a text once its checksum holds; reads no further than the first that does not.

    `event_name` is the `:event-type`, or `error` for exceptions and errors.
    """

    is_stream = True
    is_readable_open = False

    def __init__(self, documents: DocumentReader) -> None:
        self.event_name = b""
        self.is_broken = False
        self._documents = documents
        documents.is_checked_at_end = True
        self._buffer = b""
        self._step: Callable[[], bool] = self._read_prelude
        self._checksum = 0
        self._headers_bytes = 0
        self._payload_bytes = 0  # that are still to come

    def feed(self, chunk: bytes) -> None:
        if self.is_broken:
            return
        self._buffer += chunk
        while self._step():
            pass

    def _take(self, size: int) -> bytes | None:
        """The next bytes of a frame; None until they are all there."""
        if len(self._buffer) < size:
            return None
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _read_prelude(self) -> bool:
        prelude = self._take(_PRELUDE.size)
        if prelude is None:
            return False
        total, headers, checksum = _PRELUDE.unpack(prelude)
        self._headers_bytes = headers
        self._payload_bytes = total - headers - _PRELUDE.size - _CHECKSUM.size
        is_sound = headers <= MAX_HEADERS_BYTES and 0 <= self._payload_bytes <= MAX_PAYLOAD_BYTES
        if not is_sound or crc32(prelude[:8]) != checksum:
            return self._break_off()
        self._checksum = crc32(prelude)
        self._step = self._read_headers
        return True

    def _read_headers(self) -> bool:
        headers = self._take(self._headers_bytes)
        if headers is None:
            return False
        self._checksum = crc32(headers, self._checksum)
        try:
            self.event_name = _event_name(dict(_headers(headers)))
        except (IndexError, KeyError, struct.error):
            return self._break_off()
        self._step = self._read_payload
        return True

    def _read_payload(self) -> bool:
        piece, self._buffer = self._buffer[: self._payload_bytes], self._buffer[self._payload_bytes :]
        self._checksum = crc32(piece, self._checksum)
        self._payload_bytes -= len(piece)
        self._documents.write(piece)
        if self._payload_bytes:
            return False
        self._step = self._read_checksum
        return True

    def _read_checksum(self) -> bool:
        checksum = self._take(_CHECKSUM.size)
        if checksum is None:
            return False
        if _CHECKSUM.unpack(checksum)[0] != self._checksum:
            return self._break_off()
        if self._documents.size:
            self._documents.close()
        self._step = self._read_prelude
        return True

    def _break_off(self) -> bool:
        self._documents.abandon()
        self._buffer = b""
        self.is_broken = True
        return False


def _event_name(headers: dict[bytes, bytes]) -> bytes:
    if headers.get(b":message-type", b"event") != b"event":
        return b"error"
    return headers.get(b":event-type", b"")


def _headers(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of each header that is text. Raises IndexError, KeyError or struct.error where one is broken."""
    position = 0
    while position < len(data):
        start = position + 1
        position = start + data[position]
        name, kind = data[start:position], data[position]
        position += 1
        if kind in _STRING_TYPES:
            (size,) = struct.unpack_from(">H", data, position)
            yield name, data[position + 2 : position + 2 + size]
            position += 2 + size
        else:
            position += _VALUE_BYTES[kind]
