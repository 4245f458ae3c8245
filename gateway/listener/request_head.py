"""Reads request heads, strictly by RFC 9112: a head has one reading or is refused.

A head comes whole, up to and with its empty line, so nothing depends on how the network cut it. What llhttp (uvicorn's
parser) lets pass is refused: no version, several Hosts, unknown codings before `chunked`, folded lines, Content-Length
beside Transfer-Encoding. `Upgrade` is ignored, as RFC 9110 section 7.8 lets a server do, and left to the application.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.http.fields import TOKEN, Header, list_members
from gateway.http.framing import is_chunked, is_content_length
from gateway.listener import request_fields
from gateway.listener.error_response import RequestError, bad_request
from gateway.listener.request_fields import RequestFields

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# RFC 9112 section 3 recommends to take at least 8000 octets; nginx gives a request line 8 KiB.
MAX_TARGET_BYTES = 8 * 1024
# Node and Envoy stop at 100 by default.
MAX_FIELDS = 100

# No route can have these; they get 405 with the methods of the path (RFC 9110 section 15.5.6) instead of 501.
UNROUTABLE_METHODS = ("TRACE", "QUERY")
_ANY_METHOD = "|".join((*METHODS, *UNROUTABLE_METHODS)).encode()
# One empty line before a request is ignored (RFC 9112 section 2.2). No "#": a target has no fragment.
_REQUEST_LINE = re.compile(rb'(?:\r\n)?(%b) ([!"$-~]++) HTTP/1\.([01])\r\n' % _ANY_METHOD)
_ANY_REQUEST_LINE = re.compile(rb"(?:\r\n)?(%b) ([^ \r\n]+) HTTP/([0-9])\.([0-9])\r\n" % TOKEN)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_TARGET_OCTETS = re.compile(rb"[!-~]+")
# A registered name, an IPv4 address or an IPv6 literal, with the zone that older Pythons send; RFC 3986's sub-delims
# are in no name of the DNS.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+(?:%(?:25)?[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?")
_IN_HEADS = bytes(byte for byte in range(256) if byte in b"\t\r\n" or 0x20 <= byte != 0x7F)
_CODINGS = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (TOKEN, TOKEN))


# A client repeats its fields with each request, so the bytes are compared with the last ones before they are read.
MAX_KNOWN_BYTES = 2 * 1024


class ApplicationSlot:
    """Where the application keeps what it derives from the fields of a head; valid while the client repeats them."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: object = None


class RequestHead(NamedTuple):
    """One request's head. `body_length` is in bytes, None for a chunked body; names in `headers` are lower-case.

    `raw` is the head as received, `request_line` its first line, and `block` its field lines; `raw` and `block` are
    empty where they must be read again even if the same bytes come again. `lines` are the field lines that `headers`
    were read of, one each. `varying_fields` and `key_fields` are those that may vary while the application slot stays;
    all three are empty where none may.
    """

    raw: bytes
    request_line: bytes
    method: str
    raw_path: bytes
    query: bytes
    is_http_1_0: bool
    headers: list[Header]
    body_length: int | None
    keeps_alive: bool
    expects_continue: bool
    block: bytes
    application_slot: ApplicationSlot
    lines: list[bytes]
    varying_fields: dict[bytes, bytes]
    key_fields: dict[bytes, bytes]


_RequestLine = tuple[bytes, str, bytes, bytes, bool]  # of a head, from `request_line` to `is_http_1_0`


def parse(head: bytes, last: RequestHead | None = None) -> RequestHead:
    """Reads a whole head; raises RequestError. `last` is the head before it on the same connection."""
    if last is None or not last.block:
        return _read(head, _read_request_line(head))
    if head == last.raw:
        return last
    line = last[1:6] if head.startswith(last.request_line) else _read_request_line(head)
    return _read_changed(head, line, last) or _read(head, line)


def _read_changed(head: bytes, line: _RequestLine, last: RequestHead) -> RequestHead | None:
    """The head with this request line and the fields of the last one, but for those that may vary; else None."""
    request_line, _, raw_path, _, is_http_1_0 = line
    if is_http_1_0 != last.is_http_1_0 or raw_path[:1] != b"/":
        return None
    headers, body_length, keeps_alive, expects_continue, last_block = last[6:11]
    slot, lines, varying, keys = last[11:]
    block = head[len(request_line) :]
    if block != last_block:
        last_lines, lines = lines, block[:-4].split(b"\r\n")
        found = request_fields.reread_changed_lines(lines, last_lines, headers, varying, keys)
        if found is None:
            return None
        headers, varying, keys = found
        if (length := varying.get(b"content-length")) is not None:
            if not is_content_length(length):
                return None
            body_length = int(length)
    raw = head if len(head) <= MAX_KNOWN_BYTES else b""
    block = block if len(block) <= MAX_KNOWN_BYTES else b""
    rest = headers, body_length, keeps_alive, expects_continue, block, slot, lines, varying, keys
    return RequestHead._make((raw, *line, *rest))


def _read(head: bytes, line: _RequestLine) -> RequestHead:
    request_line, method, raw_path, query, is_http_1_0 = line
    block, lines = head[len(request_line) :], request_fields.split(head, len(request_line))
    known_block = block if len(block) <= MAX_KNOWN_BYTES else b""
    found = request_fields.parse(lines, MAX_FIELDS)
    _check_host(found.single, is_http_1_0=is_http_1_0)
    if raw_path[:1] != b"/":
        raw_path = _origin_form(raw_path, found)
        known_block = b""  # its Host is not the one that counts
    varying = request_fields.find_varying(found.headers) if known_block and len(found.headers) == len(lines) else None
    return RequestHead(
        head if known_block and len(head) <= MAX_KNOWN_BYTES else b"",
        request_line,
        method,
        raw_path,
        query,
        is_http_1_0,
        found.headers,
        _body_length(found.single, is_http_1_0=is_http_1_0),
        not (is_http_1_0 or found.closes),
        _expects_continue(found.single, is_http_1_0=is_http_1_0),
        known_block,
        ApplicationSlot(),
        [] if varying is None else lines,
        *(varying or ({}, {})),
    )


def _read_request_line(head: bytes) -> _RequestLine:
    line = _REQUEST_LINE.match(head)
    if line is None or line.end(2) - line.start(2) > MAX_TARGET_BYTES:
        raise _request_line_error(head)
    method, target, minor = line.groups()
    raw_path, _, query = target.partition(b"?")
    return line[0], method.decode(), raw_path, query, minor == b"0"


def check_unfinished(head: bytes, start: int, max_bytes: int) -> None:
    """Raises RequestError at once for what cannot become a head. Earlier calls have read up to `start`."""
    if _is_impossible(head[max(0, start - 1) :], is_first=not start):
        raise bad_request("The request head holds a control character or a line that does not end in CRLF.")
    line_end = head.find(b"\r\n", 2)
    if line_end < 0:
        if len(head) > MAX_TARGET_BYTES + 64:
            raise _too_long()
    elif start < line_end + 2:
        line = _REQUEST_LINE.match(head)
        if line is None or line.end(2) - line.start(2) > MAX_TARGET_BYTES:
            raise _request_line_error(head)
    if len(head) > max_bytes:
        raise RequestError("headers_too_large", f"The request line and its fields are larger than {max_bytes} bytes.")


def _is_impossible(part: bytes, *, is_first: bool) -> bool:
    """Whether a part of a head holds what none can: control characters, LF without CR, CR without LF.

    A pattern for it takes ten times as long.
    """
    open_ends = (part[:1] == b"\n" and not is_first) + (part[-1:] == b"\r")  # their other halves are beside this part
    alone = part.count(b"\n") + part.count(b"\r") - 2 * part.count(b"\r\n")
    return alone != open_ends or bool(part.translate(None, _IN_HEADS))


def _request_line_error(head: bytes) -> RequestError:
    """Why a request line is not one that is served, the most basic reason first."""
    line = _ANY_REQUEST_LINE.match(head)
    if line is None:
        return bad_request("The request line must be 'METHOD target HTTP/1.1', with single spaces and a CRLF.")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        return RequestError("version_not_supported", "Speak HTTP/1.1 or HTTP/1.0.")
    if len(target) > MAX_TARGET_BYTES:
        return _too_long()
    if not _TARGET_OCTETS.fullmatch(target) or b"#" in target:
        return bad_request("The request target holds an octet that must be percent-encoded, or a fragment.")
    if method.upper() != method:
        return bad_request("Methods are case-sensitive and written in capitals.")
    return RequestError("not_implemented", f"The method {method.decode()[:32]} is not implemented.")


def _too_long() -> RequestError:
    return RequestError("uri_too_long", f"The request target is longer than {MAX_TARGET_BYTES} bytes.")


def _origin_form(target: bytes, found: RequestFields) -> bytes:
    """The path of an absolute target without its query, whose authority replaces Host (RFC 9112 section 3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise bad_request("The request target must be a path, or a URI with http or https.")
    authority, path = absolute.groups()
    if not _AUTHORITY.fullmatch(authority):
        raise bad_request("The request target names no valid host.")
    found.headers[:] = [(b"host", authority), *(field for field in found.headers if field[0] != b"host")]
    return path if path[:1] == b"/" else b"/" + path


def _check_host(single: dict[bytes, bytes], *, is_http_1_0: bool) -> None:
    host = single.get(b"host")
    if host is None:
        if not is_http_1_0:
            raise bad_request("An HTTP/1.1 request has a Host.")
    elif not _AUTHORITY.fullmatch(host):
        raise bad_request("Host is not a name or an address with an optional port.")


def _body_length(single: dict[bytes, bytes], *, is_http_1_0: bool) -> int | None:
    """RFC 9112 section 6.3, with every ambiguity refused."""
    length, codings = single.get(b"content-length"), single.get(b"transfer-encoding")
    if codings is not None:
        if length is not None:
            raise bad_request("Content-Length and Transfer-Encoding are both given; send one.")
        if is_http_1_0:
            raise bad_request("HTTP/1.0 has no Transfer-Encoding.")
        _check_codings(codings)
        return None
    if length is None:
        return 0
    if not is_content_length(length):
        raise bad_request("Content-Length is not a number of bytes.")
    return int(length)


def _check_codings(codings: bytes) -> None:
    if is_chunked(codings):
        return
    if not _CODINGS.fullmatch(codings):
        raise bad_request("Transfer-Encoding is not a list of codings.")
    if b"chunked" in list_members(codings)[:-1]:
        raise bad_request("Of transfer codings, chunked comes once and last.")
    raise RequestError("not_implemented", "The only transfer coding implemented is chunked.")


def _expects_continue(single: dict[bytes, bytes], *, is_http_1_0: bool) -> bool:
    expected = single.get(b"expect")
    if expected is None:
        return False
    if expected.lower() != b"100-continue":
        raise RequestError("expectation_failed", "The only expectation that can be met is 100-continue.")
    return not is_http_1_0  # RFC 9110 section 10.1.1: to be ignored in an HTTP/1.0 request
