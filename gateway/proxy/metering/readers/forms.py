"""Fields of multipart forms (RFC 7578), as audio and image APIs take them.

Parsers differ in which of two names or boundaries they take, and in what they decode. A form that they could read in
two ways is refused, as such JSON is.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.proxy.metering.documents.selection import Fields
from gateway.proxy.metering.strict_json import invalid_body
from policies.model import Refused

MAX_FIELD_BYTES = 4096  # of a value that is read
_SLICE_BYTES = 64 * 1024
_FLAGS = {"true": True, "false": False}
# Parameters wherever they begin, in the forms of RFC 2231 too; and file names that have one reading.
_PARAMETER = rb"(?<![A-Za-z0-9!#$%%&'+.^_`|~-])%b[ \t]*(?:\*[0-9*]*[ \t]*)?="
_NAME, _BOUNDARY = (re.compile(_PARAMETER % name, re.IGNORECASE) for name in (b"name", b"boundary"))
_FILE_NAME = re.compile(rb'filename="[^"\\]*"', re.IGNORECASE)
_PLAIN_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary"})
_PLAIN_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"windows-1252"})  # a name is ASCII in all
_DECODED = re.compile(r"[\s\"'\\]")  # what some parsers take away from a name


def form_fields(content_type: bytes, body: bytes, names: AbstractSet[str]) -> Fields:
    """The named fields of a form; raises Refused where it is none, or one of them stands twice or in other case."""
    _, options = parse_options_header(content_type)
    if len(_BOUNDARY.findall(content_type)) > 1:
        raise invalid_body("The form must have one boundary.")
    form = _Form(names)
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": form.begin_part,
                "on_header_field": form.add_to_header_name,
                "on_header_value": form.add_to_header_value,
                "on_header_end": form.end_header,
                "on_part_data": form.add_data,
                "on_part_end": form.end_part,
            },
        )
        for start in range(0, len(body), _SLICE_BYTES):
            parser.write(body[start : start + _SLICE_BYTES])
        parser.finalize()
    except FormParserError:
        raise invalid_body("The body must be the multipart form that its Content-Type says.") from None
    return form.fields


class _Form:
    """Gathers fields from the parts of a form."""

    def __init__(self, names: AbstractSet[str]) -> None:
        self.fields: Fields = {}
        self._names = names
        self._header_name = self._header_value = b""
        self._is_named, self._is_coded = False, False
        self._name: str | None = None  # of the open part, where its value is read
        self._value = b""

    def begin_part(self) -> None:
        self._name, self._value = None, b""
        self._is_named, self._is_coded = False, False
        self._header_name = self._header_value = b""

    def add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        name, value = self._header_name.lower(), self._header_value.lower()
        if name == b"content-transfer-encoding":
            self._is_coded |= value.strip() not in _PLAIN_ENCODINGS
        elif name == b"content-type":
            self._is_coded |= parse_options_header(value)[1].get(b"charset", b"utf-8") not in _PLAIN_CHARSETS
        elif name == b"content-disposition":
            if self._is_named:
                raise _badly_named()
            self._name, self._is_named = self._read_name(_only_name(self._header_value)), True
        self._header_name = self._header_value = b""

    def _read_name(self, name: str) -> str | None:
        if _DECODED.sub("", unquote(name)).casefold() not in self._names:
            return None
        if name not in self._names or name in self.fields:
            raise invalid_body(f"The form has {name!r} twice, or in other case.")
        return name

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise invalid_body(f"The form's {self._name!r} is too long.")

    def end_part(self) -> None:
        if self._name is None:
            return
        if self._is_coded:
            raise invalid_body(f"The form's {self._name!r} must be plain text in UTF-8.")
        try:
            value = self._value.decode()
        except UnicodeDecodeError:
            raise invalid_body(f"The form's {self._name!r} must be UTF-8.") from None
        self.fields[self._name] = _typed(self._name, value)


def _only_name(disposition: bytes) -> str:
    """The name of a part, empty where it has none; raises Refused where parsers could read another."""
    _, options = parse_options_header(disposition)
    name = options.get(b"name", b"").decode("utf-8", "replace")
    if len(_NAME.findall(_FILE_NAME.sub(b"", disposition))) != (b"name" in options) or "=?" in name:
        raise _badly_named()
    return name


def _badly_named() -> Refused:
    return invalid_body("Each part of the form must have one name, as in 'name=\"model\"'.")


def _typed(name: str, value: str) -> object:
    if name == "stream":
        return _FLAGS.get(value.strip().lower(), value)
    return int(value) if name == "n" and value.isascii() and value.isdigit() and len(value) < 10 else value
