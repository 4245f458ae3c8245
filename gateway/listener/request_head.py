"""Request heads, strictly by RFC 9112: one reading or none.

A head comes whole, as bytes up to and with its empty line, so nothing here depends on how it was cut on the wire. What
llhttp (uvicorn's parser) lets pass is refused: no version, several Hosts, unknown codings before `chunked`, folded
lines, CL beside TE. `Upgrade` is ignored, as RFC 9110 section 7.8 lets a server do, and left to the application.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.listener import fields
from gateway.listener.fields import Fields
from gateway.listener.refusals import Unacceptable, bad

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# RFC 9112 section 3 recommends to take at least 8000 octets; nginx gives a request line 8 KiB.
MAX_TARGET_BYTES = 8 * 1024
# Node and Envoy stop at 100 by default.
MAX_FIELDS = 100

# Known, and so refused with the path's methods (RFC 9110 section 15.6.2); no route can have them.
KNOWN = ("TRACE", "QUERY")
# One empty line before a request is ignored (RFC 9112 section 2.2). No "#": a target has no fragment.
_REQUEST_LINE = re.compile(
    rb'(?:\r\n)?(%b) ([!"$-~]++) HTTP/1\.([01])\r\n' % b"|".join(method.encode() for method in (*METHODS, *KNOWN))
)
_ANY_REQUEST_LINE = re.compile(rb"(?:\r\n)?([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^ \r\n]+) HTTP/([0-9])\.([0-9])\r\n")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_TARGET_OCTETS = re.compile(rb"[!-~]+")
# A registered name, an IPv4 address or an IPv6 literal; RFC 3986's sub-delims are in no name of the DNS.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
# Eighteen digits fit 64 bits and are an exabyte; what overflows is an error (RFC 9112 section 6.3).
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CODINGS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*")
# What no head can hold wherever it goes on: control characters, LF without CR, CR without LF.
_IMPOSSIBLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")


# A client repeats its fields with each request, so the next ones are compared with the last before they are read.
MAX_KNOWN_BYTES = 2 * 1024


class Note:
    """A place for what the application makes of the fields of a head, and need not make again when they come again."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: object = None


class Head(NamedTuple):
    """One request's head. `body_length` is in bytes, None for a chunked body; names in `headers` are lower-case.

    `raw` is all of it as it came, and `block` its field lines; both are empty where they must be read anew even if they
    come again.
    """

    raw: bytes
    method: str
    raw_path: bytes
    query: bytes
    is_http_1_0: bool
    headers: list[tuple[bytes, bytes]]
    body_length: int | None
    keeps_alive: bool
    expects_continue: bool
    block: bytes
    note: Note


def parse(head: bytes, last: Head | None = None) -> Head:
    """Reads a whole head; raises Unacceptable. `last` is the one before on the same connection."""
    if last is not None and head == last.raw:
        return last
    line = _REQUEST_LINE.match(head)
    if line is None or line.end(2) - line.start(2) > MAX_TARGET_BYTES:
        raise _request_line_error(head)
    method, target, minor = line.groups()
    is_http_1_0 = minor == b"0"
    raw_path, _, query = target.partition(b"?")
    block = head[line.end() :]
    if last is not None and block == last.block and is_http_1_0 == last.is_http_1_0 and target[0] == 0x2F:
        return Head(_if_short(head), method.decode(), raw_path, query, *last[4:])
    found = fields.parse(head, line.end(), MAX_FIELDS)
    _check_host(found.single, is_http_1_0=is_http_1_0)
    if target[0] != 0x2F:
        raw_path, _, query = _origin_form(target, found).partition(b"?")
        block = b""  # its Host is not the one that counts
    block = _if_short(block)
    return Head(
        _if_short(head) if block else b"",
        method.decode(),
        raw_path,
        query,
        is_http_1_0,
        found.headers,
        _body_length(found.single, is_http_1_0=is_http_1_0),
        not (is_http_1_0 or found.closes),
        _expects_continue(found.single, is_http_1_0=is_http_1_0),
        block,
        Note(),
    )


def _if_short(read: bytes) -> bytes:
    return read if len(read) <= MAX_KNOWN_BYTES else b""


def check_unfinished(head: bytes, start: int) -> None:
    """Refuses at once what can no longer become a head. `start`: how much of it an earlier call has seen."""
    if _IMPOSSIBLE.search(head, max(0, start - 1)):
        raise bad("The request head holds a control character or a line that does not end in CRLF.")
    line_end = head.find(b"\r\n", 2)
    if line_end < 0:
        if len(head) > MAX_TARGET_BYTES + 64:
            raise _too_long()
    elif start < line_end + 2:
        line = _REQUEST_LINE.match(head)
        if line is None or line.end(2) - line.start(2) > MAX_TARGET_BYTES:
            raise _request_line_error(head)


def _request_line_error(head: bytes) -> Unacceptable:
    """Why a request line is not one that is served, the most basic reason first."""
    line = _ANY_REQUEST_LINE.match(head)
    if line is None:
        return bad("The request line must be 'METHOD target HTTP/1.1', with single spaces and a CRLF.")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        return Unacceptable("version_not_supported", "Speak HTTP/1.1 or HTTP/1.0.")
    if len(target) > MAX_TARGET_BYTES:
        return _too_long()
    if not _TARGET_OCTETS.fullmatch(target) or b"#" in target:
        return bad("The request target holds an octet that must be percent-encoded, or a fragment.")
    if method.upper() != method:
        return bad("Methods are case-sensitive and written in capitals.")
    return Unacceptable("not_implemented", f"The method {method.decode()[:32]} is not implemented.")


def _too_long() -> Unacceptable:
    return Unacceptable("uri_too_long", f"The request target is longer than {MAX_TARGET_BYTES} bytes.")


def _origin_form(target: bytes, found: Fields) -> bytes:
    """The path and query of an absolute target, whose authority replaces Host (RFC 9112 section 3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise bad("The request target must be a path, or a URI with http or https.")
    authority, path = absolute.groups()
    if not _AUTHORITY.fullmatch(authority):
        raise bad("The request target names no valid host.")
    found.headers[:] = [(b"host", authority), *(field for field in found.headers if field[0] != b"host")]
    return path if path[:1] == b"/" else b"/" + path


def _check_host(single: dict[bytes, bytes], *, is_http_1_0: bool) -> None:
    host = single.get(b"host")
    if host is None:
        if not is_http_1_0:
            raise bad("An HTTP/1.1 request has a Host.")
    elif not _AUTHORITY.fullmatch(host):
        raise bad("Host is not a name or an address with an optional port.")


def _body_length(single: dict[bytes, bytes], *, is_http_1_0: bool) -> int | None:
    """RFC 9112 section 6.3, with every ambiguity refused."""
    length, codings = single.get(b"content-length"), single.get(b"transfer-encoding")
    if codings is not None:
        if length is not None:
            raise bad("Content-Length and Transfer-Encoding are both given; send one.")
        if is_http_1_0:
            raise bad("HTTP/1.0 has no Transfer-Encoding.")
        _check_codings(codings.lower())
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise bad("Content-Length is not a number of bytes.")
    return int(length)


def _check_codings(codings: bytes) -> None:
    if codings == b"chunked":
        return
    if not _CODINGS.fullmatch(codings):
        raise bad("Transfer-Encoding is not a list of codings.")
    if b"chunked" in [coding.strip(b" \t") for coding in codings.split(b",")[:-1]]:
        raise bad("Of transfer codings, chunked comes once and last.")
    raise Unacceptable("not_implemented", "The only transfer coding implemented is chunked.")


def _expects_continue(single: dict[bytes, bytes], *, is_http_1_0: bool) -> bool:
    expected = single.get(b"expect")
    if expected is None:
        return False
    if expected.lower() != b"100-continue":
        raise Unacceptable("expectation_failed", "The only expectation that can be met is 100-continue.")
    return not is_http_1_0  # RFC 9110 section 10.1.1: to be ignored in an HTTP/1.0 request
