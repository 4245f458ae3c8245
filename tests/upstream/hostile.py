"""What upstreams have been seen to answer, each with the only reading that is safe; for bytes and for sockets."""

from __future__ import annotations

from dataclasses import dataclass

from policies.model import Outcome
from tests.upstream.scripted import Then

UNREACHABLE, TIMEOUT, INVALID = Outcome.UPSTREAM_UNREACHABLE, Outcome.UPSTREAM_TIMEOUT, Outcome.UPSTREAM_INVALID
KEEP, CLOSE, RESET = Then.KEEP, Then.CLOSE, Then.RESET

LINE = b"HTTP/1.1 200 OK\r\n"
LENGTH_2 = b"content-length: 2\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKED_HEAD = LINE + CHUNKED + b"\r\n"
GOOD = LINE + LENGTH_2 + b"\r\nok"


@dataclass(frozen=True, slots=True)
class Case:
    """`expected` is the answer that must come out, or the outcome of its failure, which never leaves a connection."""

    name: str
    data: bytes
    expected: tuple[int, bytes] | Outcome
    then: Then = KEEP
    method: bytes = b"GET"
    reused: bool = False


def answers(
    name: str, data: bytes, status: int, body: bytes = b"", *, then: Then = KEEP, method: bytes = b"GET"
) -> Case:
    """A good answer over a connection that may be used again."""
    return Case(name, data, (status, body), then, method, reused=then is KEEP)


def spends(
    name: str, data: bytes, status: int, body: bytes = b"", *, then: Then = KEEP, method: bytes = b"GET"
) -> Case:
    """A good answer, but over a connection that is not provably clean."""
    return Case(name, data, (status, body), then, method)


def invalid(name: str, data: bytes, *, then: Then = KEEP) -> Case:
    return Case(name, data, INVALID, then)


def head(*fields: bytes, line: bytes = LINE) -> bytes:
    return line + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


GOOD_ANSWERS = [
    answers("content-length", GOOD, 200, b"ok"),
    answers("empty body", head(b"content-length: 0"), 200),
    answers("no reason phrase", b"HTTP/1.1 200\r\n" + LENGTH_2 + b"\r\nok", 200, b"ok"),
    answers("empty reason phrase", b"HTTP/1.1 200 \r\n" + LENGTH_2 + b"\r\nok", 200, b"ok"),
    answers("length with spaces around", head(b"content-length:   2  ") + b"ok", 200, b"ok"),
    answers("204", head(line=b"HTTP/1.1 204 No Content\r\n"), 204),
    answers("304 with a length", head(b"content-length: 99", line=b"HTTP/1.1 304 Not Modified\r\n"), 304),
    answers("HEAD with a length", head(b"content-length: 99"), 200, method=b"HEAD"),
    answers("HEAD with chunked", CHUNKED_HEAD, 200, method=b"HEAD"),
    answers("HEAD with neither", head(), 200, method=b"HEAD"),
    answers("chunked", CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
    answers("chunked, empty", CHUNKED_HEAD + b"0\r\n\r\n", 200),
    answers("many chunks", CHUNKED_HEAD + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n", 200, b"x" * 2000),
    answers("leading zeros in a chunk size", CHUNKED_HEAD + b"0002\r\nok\r\n0\r\n\r\n", 200, b"ok"),
    answers("upper-case hex", CHUNKED_HEAD + b"A\r\n0123456789\r\n0\r\n\r\n", 200, b"0123456789"),
    answers("a short chunk extension", CHUNKED_HEAD + b"2;a=b\r\nok\r\n0\r\n\r\n", 200, b"ok"),
    answers("Chunked in other case", head(b"Transfer-Encoding: Chunked") + b"0\r\n\r\n", 200),
    answers("trailers", CHUNKED_HEAD + b"2\r\nok\r\n0\r\nx-api-key: evil\r\n\r\n", 200, b"ok"),
    answers("100 first", b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, 200, b"ok"),
    answers("103 first", head(b"link: </a>", line=b"HTTP/1.1 103 Early Hints\r\n") + GOOD, 200, b"ok"),
    answers("103 that closes", head(b"connection: close", line=b"HTTP/1.1 103 X\r\n") + GOOD, 200, b"ok"),
    answers("100 of HTTP/1.0", b"HTTP/1.0 100 Continue\r\n\r\n" + GOOD, 200, b"ok"),
    answers("102 with a length", head(b"content-length: 3", line=b"HTTP/1.1 102 X\r\n") + GOOD, 200, b"ok"),
    answers("8 interim responses", b"HTTP/1.1 103 X\r\n\r\n" * 8 + GOOD, 200, b"ok"),
    answers("obs-text in a value", head(b"x: caf\xe9", b"content-length: 2") + b"ok", 200, b"ok"),
    answers("256 fields", head(*[b"x: y"] * 255, b"content-length: 2") + b"ok", 200, b"ok"),
    answers("a big field", head(b"x: " + b"y" * 60_000, b"content-length: 2") + b"ok", 200, b"ok"),
    answers("HTTP/1.0 kept", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + LENGTH_2 + b"\r\nok", 200, b"ok"),
    answers("upgrade offered", head(b"upgrade: h2c", b"connection: upgrade", b"content-length: 2") + b"ok", 200, b"ok"),
    answers("599", b"HTTP/1.1 599 X\r\n" + LENGTH_2 + b"\r\nok", 599, b"ok"),
    answers("404", b"HTTP/1.1 404 X\r\n" + LENGTH_2 + b"\r\nno", 404, b"no"),
]

SPENT_CONNECTIONS = [
    spends("connection: close", head(b"connection: close", b"content-length: 2") + b"ok", 200, b"ok"),
    spends("Connection: Close among others", head(b"connection: x, Close", b"content-length: 2") + b"ok", 200, b"ok"),
    spends("close in a second field", head(b"connection: x", b"connection: close", b"content-length: 0"), 200),
    spends("keep-alive and close", head(b"connection: keep-alive, close", b"content-length: 0"), 200),
    spends("HTTP/1.0", b"HTTP/1.0 200 OK\r\n" + LENGTH_2 + b"\r\nok", 200, b"ok"),
    spends("HTTP/1.0 until close", b"HTTP/1.0 200 OK\r\n\r\nok", 200, b"ok", then=CLOSE),
    spends("until close", head() + b"ok", 200, b"ok", then=CLOSE),
    spends("until close, empty", head(), 200, then=CLOSE),
    spends("until close, keep-alive claimed", head(b"connection: keep-alive") + b"ok", 200, b"ok", then=CLOSE),
    spends("closed after the end", GOOD, 200, b"ok", then=CLOSE),
    spends("extra bytes", GOOD + b"X", 200, b"ok"),
    spends("an extra line end", GOOD + b"\r\n", 200, b"ok"),
    spends("an extra LF", GOOD + b"\n", 200, b"ok"),
    spends("a second response", GOOD + GOOD, 200, b"ok"),
    spends("length exceeded, then closed", GOOD + b"more", 200, b"ok", then=CLOSE),
    spends("bytes after an empty body", head(b"content-length: 0") + b"X", 200),
    spends("204 with a body", head(b"content-length: 2", line=b"HTTP/1.1 204 X\r\n") + b"ok", 204),
    spends("204 with chunks", CHUNKED_HEAD.replace(b"200", b"204") + b"0\r\n\r\n", 204),
    spends("304 with a body", head(b"content-length: 2", line=b"HTTP/1.1 304 X\r\n") + b"ok", 304),
    spends("HEAD with a body", GOOD, 200, method=b"HEAD"),
    spends("HEAD with a chunked body", CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n", 200, method=b"HEAD"),
    spends("bytes after the last chunk", CHUNKED_HEAD + b"0\r\n\r\nX", 200),
    spends("a line end after the last chunk", CHUNKED_HEAD + b"0\r\n\r\n\r\n", 200),
    spends("an LF after the last chunk", CHUNKED_HEAD + b"0\r\n\r\n\n", 200),
    spends("two line ends after the last chunk", CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n\r\n\r\n", 200, b"ok"),
    spends("a line end after trailers", CHUNKED_HEAD + b"0\r\na: b\r\n\r\n\r\n", 200),
    spends("a response after the last chunk", CHUNKED_HEAD + b"0\r\n\r\n" + GOOD, 200),
    spends("a chunked one after the last chunk", (CHUNKED_HEAD + b"1\r\na\r\n0\r\n\r\n") * 2, 200, b"a"),
    spends("bytes after connection: close", head(b"connection: close", b"content-length: 2") + b"okX", 200, b"ok"),
    spends("reset after the end", GOOD, 200, b"ok", then=RESET),
]

NOT_HTTP = [
    invalid("garbage", b"\x00\x01\x02\x03garbage\r\n\r\n"),
    invalid("an SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n"),
    invalid("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x28"),
    invalid("HTTP/2 settings", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    invalid("a request", b"GET / HTTP/1.1\r\n\r\n"),
    invalid("HTML at once", b"<html>hello</html>"),
    invalid("a leading line end", b"\r\n" + GOOD),
    invalid("a leading space", b" " + GOOD),
    invalid("ICY", b"ICY 200 OK\r\n\r\n"),
    invalid("RTSP", b"RTSP/1.0 200 OK\r\n\r\n"),
    invalid("lower-case http", b"http/1.1 200 OK\r\n\r\n"),
    invalid("HTTP/0.9 line", b"HTTP/0.9 200 OK\r\n\r\n"),
    invalid("HTTP/1.2", b"HTTP/1.2 200 OK\r\n\r\n"),
    invalid("HTTP/2.0", b"HTTP/2.0 200 OK\r\n\r\n"),
    invalid("HTTP/1", b"HTTP/1 200 OK\r\n\r\n"),
    invalid("HTTP/11.1", b"HTTP/11.1 200 OK\r\n\r\n"),
    invalid("status 099", head(line=b"HTTP/1.1 099 X\r\n")),
    invalid("status 000", head(line=b"HTTP/1.1 000 X\r\n")),
    invalid("status 20", head(line=b"HTTP/1.1 20 X\r\n")),
    invalid("status 600", head(line=b"HTTP/1.1 600 X\r\n")),
    invalid("status 999", head(line=b"HTTP/1.1 999 X\r\n")),
    invalid("status 1000", head(line=b"HTTP/1.1 1000 X\r\n")),
    invalid("status -200", head(line=b"HTTP/1.1 -200 X\r\n")),
    invalid("status abc", head(line=b"HTTP/1.1 abc X\r\n")),
    invalid("no status", b"HTTP/1.1\r\n\r\n"),
    invalid("two spaces before the status", b"HTTP/1.1  200 OK\r\n\r\n"),
    invalid("a tab before the status", b"HTTP/1.1\t200 OK\r\n\r\n"),
    invalid("101 unasked", head(b"upgrade: websocket", b"connection: upgrade", line=b"HTTP/1.1 101 X\r\n")),
    invalid("a bare 101", head(line=b"HTTP/1.1 101 X\r\n") + GOOD),
    invalid("9 interim responses", b"HTTP/1.1 103 X\r\n\r\n" * 9 + GOOD),
    invalid("interim without end", b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
]

BAD_HEADS = [
    invalid("bare LF everywhere", b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    invalid("bare LF after the status line", b"HTTP/1.1 200 OK\n" + LENGTH_2 + b"\r\nok"),
    invalid("bare LF after a field", b"HTTP/1.1 200 OK\r\nx: y\n" + LENGTH_2 + b"\r\nok"),
    invalid("bare LF before the body", LINE + LENGTH_2 + b"\nok\r\n\r\n"),
    invalid("bare CR after a field", LINE + b"x: y\r" + LENGTH_2 + b"\r\nok"),
    invalid("CR in a value", head(b"x: a\rb")),
    invalid("CR CR LF", LINE + b"x: y\r\r\n" + LENGTH_2 + b"\r\nok"),
    invalid("NUL in a value", head(b"x: a\0b")),
    invalid("NUL in a name", head(b"x\0: a")),
    invalid("NUL in the reason", head(b"content-length: 0", line=b"HTTP/1.1 200 O\0K\r\n")),
    invalid("a vertical tab in a value", head(b"x: a\x0bb")),
    invalid("an escape in a value", head(b"x: \x1b[31m")),
    invalid("DEL in a value", head(b"x: a\x7fb")),
    invalid("an escape in the reason", head(b"content-length: 0", line=b"HTTP/1.1 200 \x1b[31m\r\n")),
    invalid("obs-fold", head(b"x: a", b" b")),
    invalid("obs-fold by tab", head(b"x: a", b"\tb")),
    invalid("a folded length", head(b"content-length:", b" 2") + b"ok"),
    invalid("a space before the first field", head(b" x: a")),
    invalid("a space before the colon", head(b"x : a")),
    invalid("a tab before the colon", head(b"content-length\t: 2") + b"ok"),
    invalid("no colon", head(b"x")),
    invalid("an empty name", head(b": a")),
    invalid("a space in a name", head(b"x y: a")),
    invalid("a bracket in a name", head(b"x[1]: a")),
    invalid("UTF-8 in a name", head(b"caf\xc3\xa9: a")),
    invalid("257 fields", head(*[b"x: y"] * 256, b"content-length: 2") + b"ok"),
    invalid("a head of 64 KiB and more", head(b"x: " + b"y" * 65_536)),
    invalid("a head of 1 MiB in fields", head(*[b"x: " + b"y" * 1000] * 1000)),
    invalid("one endless line", LINE + b"x: " + b"y" * 200_000),
    invalid("an endless reason", b"HTTP/1.1 200 " + b"O" * 200_000),
    invalid("an endless name", LINE + b"y" * 200_000),
    invalid("heads of 64 KiB together", head(b"x: " + b"y" * 33_000, line=b"HTTP/1.1 103 X\r\n") * 2 + GOOD),
]

BAD_FRAMING = [
    invalid("length and chunked", head(b"content-length: 2", b"transfer-encoding: chunked") + b"0\r\n\r\n"),
    invalid("chunked and length", head(b"transfer-encoding: chunked", b"content-length: 2") + b"0\r\n\r\n"),
    invalid("two equal lengths", head(b"content-length: 2", b"content-length: 2") + b"ok"),
    invalid("two lengths", head(b"content-length: 2", b"content-length: 1") + b"ok"),
    invalid("a list of lengths", head(b"content-length: 2, 2") + b"ok"),
    invalid("an empty length", head(b"content-length: ") + b"ok"),
    invalid("a signed length", head(b"content-length: +2") + b"ok"),
    invalid("a negative length", head(b"content-length: -2") + b"ok"),
    invalid("a hexadecimal length", head(b"content-length: 0x2") + b"ok"),
    invalid("a decimal point", head(b"content-length: 2.0") + b"ok"),
    invalid("a space within", head(b"content-length: 1 1") + b"ok"),
    invalid("length over 64 bits", head(b"content-length: 18446744073709551618") + b"ok"),
    invalid("length over 63 bits", head(b"content-length: 9223372036854775809") + b"ok"),
    invalid("cow, chunked", head(b"transfer-encoding: cow, chunked") + b"0\r\n\r\n"),
    invalid("chunked, cow", head(b"transfer-encoding: chunked, cow") + b"0\r\n\r\n"),
    invalid("gzip, chunked", head(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n"),
    invalid("gzip", head(b"transfer-encoding: gzip") + b"ok", then=CLOSE),
    invalid("identity", head(b"transfer-encoding: identity") + b"ok", then=CLOSE),
    invalid("an empty coding", head(b"transfer-encoding: ") + b"ok", then=CLOSE),
    invalid("chunked twice", head(b"transfer-encoding: chunked", b"transfer-encoding: chunked") + b"0\r\n\r\n"),
    invalid("chunked, chunked", head(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n"),
    invalid("chunked quoted", head(b'transfer-encoding: "chunked"') + b"0\r\n\r\n"),
    invalid("chunked with a parameter", head(b"transfer-encoding: chunked;q=1") + b"0\r\n\r\n"),
    invalid("xchunked", head(b"transfer-encoding: xchunked") + b"0\r\n\r\n"),
    invalid("chunked in HTTP/1.0", b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
]

BAD_BODIES = [
    invalid("chunk size 0x2", CHUNKED_HEAD + b"0x2\r\nok\r\n0\r\n\r\n"),
    invalid("a signed chunk size", CHUNKED_HEAD + b"+2\r\nok\r\n0\r\n\r\n"),
    invalid("a negative chunk size", CHUNKED_HEAD + b"-2\r\nok\r\n0\r\n\r\n"),
    invalid("an empty chunk size", CHUNKED_HEAD + b"\r\nok\r\n0\r\n\r\n"),
    invalid("a space before a chunk size", CHUNKED_HEAD + b" 2\r\nok\r\n0\r\n\r\n"),
    invalid("a space after a chunk size", CHUNKED_HEAD + b"2 \r\nok\r\n0\r\n\r\n"),
    invalid("a chunk size over 64 bits", CHUNKED_HEAD + b"10000000000000002\r\nok\r\n0\r\n\r\n"),
    invalid("an underscore in a chunk size", CHUNKED_HEAD + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    invalid("a chunk longer than it says", CHUNKED_HEAD + b"2\r\nokX\r\n0\r\n\r\n"),
    invalid("a chunk shorter than it says", CHUNKED_HEAD + b"3\r\nok\r\n0\r\n\r\n"),
    invalid("a bad chunk terminator", CHUNKED_HEAD + b"2\r\nokXX0\r\n\r\n"),
    invalid("bare LF after a chunk size", CHUNKED_HEAD + b"2\nok\r\n0\r\n\r\n"),
    invalid("bare LF after a chunk", CHUNKED_HEAD + b"2\r\nok\n0\r\n\r\n"),
    invalid("bare LF at the last chunk", CHUNKED_HEAD + b"2\r\nok\r\n0\n\n"),
    invalid("NUL in a chunk extension", CHUNKED_HEAD + b"2;a=\0\r\nok\r\n0\r\n\r\n"),
    invalid("LF in a chunk extension", CHUNKED_HEAD + b"2;a\nb\r\nok\r\n0\r\n\r\n"),
    invalid("a chunk extension of 64 KiB", CHUNKED_HEAD + b"2;" + b"a" * 65_536 + b"\r\nok\r\n0\r\n\r\n"),
    invalid("an endless chunk extension", CHUNKED_HEAD + b"2;" + b"a" * 300_000),
    invalid("long extensions on tiny chunks", CHUNKED_HEAD + (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 500 + b"0\r\n\r\n"),
    invalid("an endless chunk size", CHUNKED_HEAD + b"0" * 300_000),
    invalid("endless trailers", CHUNKED_HEAD + b"0\r\n" + b"a: b\r\n" * 50_000),
    invalid("a malformed trailer", CHUNKED_HEAD + b"0\r\nx\r\n\r\n"),
    invalid("a length in the trailers", CHUNKED_HEAD + b"0\r\ncontent-length: 5\r\n\r\n"),
    invalid("HTML instead of chunks", CHUNKED_HEAD + b"<html></html>"),
]

BROKEN_OFF = [
    Case("closed at once", b"", UNREACHABLE, CLOSE),
    Case("reset at once", b"", UNREACHABLE, RESET),
    Case("silence", b"", TIMEOUT),
    Case("half a status line, then silence", b"HTTP/1.1 2", TIMEOUT),
    Case("half a head, then silence", LINE + b"x: y\r\n", TIMEOUT),
    Case("half a body, then silence", LINE + LENGTH_2 + b"\r\no", TIMEOUT),
    Case("half a chunk, then silence", CHUNKED_HEAD + b"5\r\nok", TIMEOUT),
    Case("no last chunk, then silence", CHUNKED_HEAD + b"2\r\nok\r\n", TIMEOUT),
    Case("until close, then silence", head() + b"ok", TIMEOUT),
    Case("100, then silence", b"HTTP/1.1 100 Continue\r\n\r\n", TIMEOUT),
    invalid("half a status line, then closed", b"HTTP/1.1 2", then=CLOSE),
    invalid("half a head, then closed", LINE + b"x: y\r\n", then=CLOSE),
    invalid("half a head, then reset", LINE + b"x: y\r\n", then=RESET),
    invalid("100, then closed", b"HTTP/1.1 100 Continue\r\n\r\n", then=CLOSE),
    invalid("no byte of the body", LINE + LENGTH_2 + b"\r\n", then=CLOSE),
    invalid("one byte short", LINE + LENGTH_2 + b"\r\no", then=CLOSE),
    invalid("one byte short, then reset", LINE + LENGTH_2 + b"\r\no", then=RESET),
    invalid("half a chunk size", CHUNKED_HEAD + b"1", then=CLOSE),
    invalid("half a chunk", CHUNKED_HEAD + b"5\r\nok", then=CLOSE),
    invalid("no last chunk", CHUNKED_HEAD + b"2\r\nok\r\n", then=CLOSE),
    invalid("half a last chunk", CHUNKED_HEAD + b"2\r\nok\r\n0\r\n", then=CLOSE),
    invalid("half the trailers", CHUNKED_HEAD + b"2\r\nok\r\n0\r\na: b\r\n", then=CLOSE),
    invalid("until close, but reset", head() + b"ok", then=RESET),
]

CASES = [*GOOD_ANSWERS, *SPENT_CONNECTIONS, *NOT_HTTP, *BAD_HEADS, *BAD_FRAMING, *BAD_BODIES, *BROKEN_OFF]
