"""The file in a request body: its name, size and digest, read while the body passes.

An observer sees each chunk once and keeps little. What it cannot read stays unknown; it never fails a call.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from hashlib import sha256
from typing import Protocol
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.proxy.request.inbound import Inbound

# What is read of a form before the observer stops: many of them at once would hold up the loop with a millisecond each.
MAX_PARTS = 128
MAX_PART_HEADERS = 4 * MAX_PARTS
MAX_HEADER_BYTES = 16 * 1024  # of one part
MAX_NAME_LENGTH = 255  # NAME_MAX of the common file systems
# RFC 8187 section 3.2.
_EXTENDED_NAME = re.compile(rb";[ \t]*filename\*[ \t]*=[ \t]*([A-Za-z0-9_-]{1,40})'[^']*'([^;\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """The columns of analysis_history that describe an upload."""

    name: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None


class FileObserver(Protocol):
    def feed(self, chunk: bytes) -> None: ...

    def file(self) -> UploadedFile: ...


def observe_upload(inbound: Inbound) -> FileObserver:
    """The observer of a request body on a route whose uploads are recorded in analysis_history."""
    fields = inbound.fields
    return file_observer(
        fields.get(b"content-type", b""), fields.get(b"content-disposition", b""), fields.get(b"x-file-name", b"")
    )


def file_observer(content_type: bytes, disposition: bytes, file_name: bytes) -> FileObserver:
    """Observes the first file of a multipart form, else the body itself."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind == b"multipart/form-data" and boundary:
        with suppress(FormParserError):  # a boundary longer than any that RFC 2046 allows
            return MultipartFile(boundary)
    name = _given_name(disposition) or file_name.decode("utf-8", "replace")
    return WholeBodyFile(_name(name), content_type.decode("latin-1") or None)


class WholeBodyFile:
    """Size and digest of a body that is itself the file."""

    def __init__(self, name: str | None, content_type: str | None) -> None:
        self._name = name
        self._content_type = content_type
        self._size_bytes = 0
        self._hash = sha256()

    def feed(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        self._hash.update(chunk)

    def file(self) -> UploadedFile:
        return UploadedFile(self._name, self._size_bytes, self._hash.hexdigest(), self._content_type)


class MultipartFile:
    """Name, size and digest of the first part that has a file name (RFC 7578 §4.2)."""

    def __init__(self, boundary: bytes) -> None:
        self._parser: MultipartParser | None = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._value,
                "on_header_end": self._header,
                "on_headers_finished": self._headers,
                "on_part_data": self._data,
                "on_part_end": self._end,
            },
        )
        self._header_name, self._header_value = b"", b""
        self._headers_read: dict[bytes, bytes] = {}
        self._parts_left, self._headers_left, self._header_bytes_left = MAX_PARTS, MAX_PART_HEADERS, 0
        self._current: WholeBodyFile | None = None
        self._file = UploadedFile()

    def feed(self, chunk: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.write(chunk)
        except FormParserError:
            self._parser = None  # no valid form, or too much of one; the upstream may still accept it
            self._current = None

    def file(self) -> UploadedFile:
        return self._file

    def _begin(self) -> None:
        self._headers_read = {}
        self._parts_left -= 1
        self._header_bytes_left = MAX_HEADER_BYTES
        if self._parts_left < 0 or self._file.sha256 is not None:
            raise FormParserError("no more parts are read")

    def _spend(self, size_bytes: int) -> None:
        self._header_bytes_left -= size_bytes
        if self._header_bytes_left < 0:
            raise FormParserError("the header of a part is too long")

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._spend(end - start)
        self._header_name += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._spend(end - start)
        self._header_value += data[start:end]

    def _header(self) -> None:
        self._headers_left -= 1
        if self._headers_left < 0:
            raise FormParserError("too many headers")
        self._headers_read[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _headers(self) -> None:
        disposition = self._headers_read.get(b"content-disposition", b"")
        name = _given_name(disposition) if b"filename" in disposition.lower() else None
        if name:  # browsers send an empty one where no file was chosen
            content_type = self._headers_read.get(b"content-type")
            self._current = WholeBodyFile(_name(name), content_type.decode("latin-1") if content_type else None)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._current is not None:
            self._current.feed(data[start:end])

    def _end(self) -> None:
        if self._current is not None:
            self._file = self._current.file()
            self._current = None


def _given_name(disposition: bytes) -> str | None:
    """The file name of a Content-Disposition: `filename*`, else `filename`, which may be raw bytes or encoded words."""
    _, options = parse_options_header(disposition)
    extended = _EXTENDED_NAME.search(disposition[:MAX_HEADER_BYTES])
    if extended is not None:
        with suppress(LookupError, UnicodeError):  # a charset that is unknown, or that replaces nothing
            return unquote_to_bytes(extended[2]).decode(extended[1].decode(), "replace")
    raw = options.get(b"filename")
    if raw is None:
        return None
    name = raw.decode("utf-8", "replace")
    if "=?" in name and "?=" in name:  # RFC 2047, which Java's mail and old browsers write here
        with suppress(LookupError, ValueError, MessageError):
            return str(make_header(decode_header(name[:1024])))
    return name


def _name(given: str) -> str | None:
    """The last component of a file name as sent: browsers of old sent paths, attackers send `../`."""
    name = given.replace("\\", "/").rpartition("/")[2]
    return name[:MAX_NAME_LENGTH] or None
