"""Malformed, ambiguous and hostile requests by rule, each with its exact response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.listener.listening import Seen

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
SINGLETONS = (
    b"authorization content-disposition content-encoding content-range content-type date from idempotency-key "
    b"if-modified-since if-range if-unmodified-since max-forwards origin proxy-authorization range referer traceparent "
    b"user-agent x-api-key x-batch-id x-category x-file-name x-language-code x-request-id"
).split()
CONTROLS = [*range(0x09), *range(0x0A, 0x20), 0x7F]
NOT_IN_TOKENS = [*range(0x21), *b'"(),/;<=>?@[\\]{}', 0x7F, 0x80, 0xFF]


@dataclass(frozen=True)
class Case:
    """The expected `statuses` in order. With a `code` the last is a problem; without, the connection stays open."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    code: str | None
    stays_open: bool
    seen: tuple[Seen, ...]


_STATUS = {
    "bad_request": 400,
    "uri_too_long": 414,
    "expectation_failed": 417,
    "headers_too_large": 431,
    "not_implemented": 501,
    "version_not_supported": 505,
}


def refused(name: str, data: bytes, code: str = "bad_request", *seen: Seen) -> Case:
    return Case(name, data, (*(200 for _ in seen), _STATUS[code]), code, False, seen)


def expect_served(name: str, data: bytes, *seen: Seen, stays_open: bool = True) -> Case:
    return Case(name, data, tuple(200 for _ in seen), None, stays_open, seen)


def request(
    line: bytes = b"GET /a HTTP/1.1", *fields: bytes, host: bytes | None = b"Host: example.org", body: bytes = b""
) -> bytes:
    return b"\r\n".join((line, *(() if host is None else (host,)), *fields, b"", body))


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return request(b"POST /p HTTP/1.1", *fields, body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


A = Seen("GET", b"/a")
P = Seen("POST", b"/p")
HELLO = Seen("POST", b"/p", body=b"hello")


def cases() -> list[Case]:
    groups = (
        request_lines,
        versions,
        methods,
        target_octets,
        target_forms,
        target_lengths,
        names,
        values,
        singletons,
        hosts,
        lengths,
        codings,
        broken_chunks,
        chunks,
        expectations,
        upgrades,
        sizes,
        pipelines,
    )
    found = [case for group in groups for case in group()]
    assert len({case.name for case in found}) == len(found)
    return found


def request_lines() -> Iterator[Case]:
    lines = (
        b"GET /a",
        b"GET",
        b"GET /a ",
        b"GET  /a HTTP/1.1",
        b"GET /a  HTTP/1.1",
        b"GET\t/a\tHTTP/1.1",
        b" GET /a HTTP/1.1",
        b"GET /a HTTP/1.1 ",
        b"GET /a HTTP/1.1 x",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b"/a HTTP/1.1",
        b" /a HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /a http/1.1",
        b"GET /a HTTP/1.10",
        b"GET /a HTTP/01.1",
        b"GET /a HTTP/1.",
        b"GET /a HTTP/.1",
        b"GET /a HTTP/1",
        b"GET /a HTTP/11",
        b"GET /a HTTP 1.1",
        b"GET /a HTTPS/1.1",
        b"GET /a HTTP/1,1",
        b"GET /a HTTP/-1.1",
        b"GET /a ICE/1.0",
        b"SSH-2.0-OpenSSH_9.2",
        b"HTTP/1.1 200 OK",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xef\xbb\xbfGET /a HTTP/1.1",
    )
    for line in lines:
        yield refused(f"request line {line!r}", request(line))
    yield refused("versionless with a body", b"POST /a\nHost: x\nContent-Length: 5\n\nhello")
    yield refused("versionless with CRLF and a body", b"POST /a\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    yield refused("HTTP/0.9", b"GET /a\r\n")
    yield refused("two empty lines first", b"\r\n\r\n" + request())
    yield refused("an empty line with LF first", b"\n" + request())
    yield refused("bare LF", request().replace(b"\r\n", b"\n"))
    yield refused("bare LF after the request line", request().replace(b"\r\n", b"\n", 1))
    yield refused("bare LF at the end", request()[:-2] + b"\n")
    yield refused("bare CR", request().replace(b"\r\n", b"\r", 1))
    yield refused("CR CR LF", request().replace(b"\r\n", b"\r\r\n", 1))
    yield expect_served("one empty line first", b"\r\n" + request(), A)


def versions() -> Iterator[Case]:
    for version in (b"0.9", b"0.0", b"1.2", b"1.9", b"2.0", b"2.1", b"3.0", b"9.9"):
        yield refused(f"version {version!r}", request(b"GET /a HTTP/" + version), "version_not_supported")
    yield refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version_not_supported")
    yield expect_served("HTTP/1.0", request(b"GET /a HTTP/1.0"), A, stays_open=False)
    ten = request(b"GET /a HTTP/1.0", b"Connection: keep-alive")
    yield expect_served("HTTP/1.0 is never kept alive", ten + ten, A, stays_open=False)
    yield expect_served("HTTP/1.0 without Host", request(b"GET /a HTTP/1.0", host=None), A, stays_open=False)


def methods() -> Iterator[Case]:
    for method in METHODS:
        if method != b"HEAD":
            yield expect_served(f"method {method!r}", request(method + b" /a HTTP/1.1"), Seen(method.decode(), b"/a"))
        for wrong in (method.lower(), method.title(), method[:-1] + method[-1:].lower()):
            yield refused(f"method {wrong!r}", request(wrong + b" /a HTTP/1.1"))
    unknown = b"CONNECT TRACK PROPFIND FOO M-SEARCH GETX XGET PURGE LINK BREW G1T GE_T G!T GETGETGET".split()
    for method in unknown:
        yield refused(f"method {method!r}", request(method + b" /a HTTP/1.1"), "not_implemented")
    yield refused("CONNECT to an authority", request(b"CONNECT a:443 HTTP/1.1"), "not_implemented")
    yield refused("an endless method", request(b"G" * 9000 + b" /a HTTP/1.1"), "not_implemented")
    for octet in b'@(),/:;<=>?[\\]{}"\x7f\x80':
        method = b"G%cT" % octet
        yield refused(f"method {method!r}", request(method + b" /a HTTP/1.1"))


def target_octets() -> Iterator[Case]:
    for octet in [*range(0x21), 0x23, 0x7F, 0x80, 0xA0, 0xFF]:
        yield refused(f"octet {octet:#04x} in the path", request(b"GET /a%cb HTTP/1.1" % octet))
        yield refused(f"octet {octet:#04x} in the query", request(b"GET /a?b%cc HTTP/1.1" % octet))


def target_forms() -> Iterator[Case]:
    wrong = (
        b"a * a/b ?a #a @evil.test/x .evil.test/x a:80 example.org:80 http: http:/a http:// http:///a https:///a "
        b"ftp://h/a file:///a ws://h/a http://h#a http://u@h/a http://u:p@h/a http://h:x/a http://h:123456/a "
        b"http://[::1/a http://h,i/a "
        b"javascript:a httpx://h/a //http://h %2fa \\a"
    ).split()
    for target in wrong:
        if target[:1] != b"/":
            yield refused(f"target {target!r}", request(b"GET " + target + b" HTTP/1.1"))
    yield refused("OPTIONS *", request(b"OPTIONS * HTTP/1.1"))
    for path in (
        b"/ /a/../b //x /a//b /%2e%2e /a%2fb /a;b /a%zz /a%00 /a\\b /{a} /a'b /a|b /a\"b /a^b "
        b"/a@b:c /a=b&c /~a /a,b!$ /a*"
    ).split():
        yield expect_served(f"raw path {path!r}", request(b"GET " + path + b" HTTP/1.1"), Seen("GET", path))
    for path, query in ((b"/a", b""), (b"/a", b"b"), (b"/a", b"b?c"), (b"/", b"a=b&c=%20"), (b"/a", b'\\|{}"<>')):
        target = path + b"?" + query
        yield expect_served(f"target {target!r}", request(b"GET " + target + b" HTTP/1.1"), Seen("GET", path, query))
    for uri, path, query in (
        (b"http://h", b"/", b""),
        (b"http://h/", b"/", b""),
        (b"http://h/a", b"/a", b""),
        (b"HTTP://h/a", b"/a", b""),
        (b"https://h:8443/a?b", b"/a", b"b"),
        (b"http://h?b", b"/", b"b"),
        (b"http://[::1]:80/a", b"/a", b""),
        (b"http://h//a", b"//a", b""),
        (b"http://h/http://i/", b"/http://i/", b""),
    ):
        yield expect_served(f"target {uri!r}", request(b"GET " + uri + b" HTTP/1.1"), Seen("GET", path, query))
    yield refused("absolute without Host", request(b"GET http://h/a HTTP/1.1", host=None))


def target_lengths() -> Iterator[Case]:
    longest = b"/" + b"a" * 8191
    yield expect_served("8 KiB of target", request(b"GET " + longest + b" HTTP/1.1"), Seen("GET", longest))
    for excess in (1, 100, 10_000, 100_000):
        line = b"GET " + longest + b"a" * excess + b" HTTP/1.1"
        yield refused(f"8 KiB and {excess} bytes of target", request(line), "uri_too_long")
    yield refused("an endless target", b"GET " + longest * 3, "uri_too_long")


def names() -> Iterator[Case]:
    for octet in NOT_IN_TOKENS:
        yield refused(f"octet {octet:#04x} in a name", request(b"GET /a HTTP/1.1", b"x%cy: 1" % octet))
    for line in (b": 1", b"x", b"x : 1", b"x\t: 1", b" x: 1", b"\tx: 1", b" ", b"x 1", b"=x", b"Host : b"):
        yield refused(f"field {line!r}", request(b"GET /a HTTP/1.1", line))
        yield refused(f"first field {line!r}", request(b"GET /a HTTP/1.1", line, host=b"x-first: 1\r\nHost: a"))
    yield refused("obs-fold with a space", request(b"GET /a HTTP/1.1", b"x: 1", b" 2"))
    yield refused("obs-fold with a tab", request(b"GET /a HTTP/1.1", b"x: 1", b"\t2"))
    yield refused("folded coding", post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"))
    yield expect_served("every octet of a token", request(b"GET /a HTTP/1.1", b"!#$%&'*+-.^`|~09azAZ: 1"), A)


def values() -> Iterator[Case]:
    for octet in CONTROLS:
        yield refused(f"octet {octet:#04x} in a value", request(b"GET /a HTTP/1.1", b"x: 1%c2" % octet))
    yield refused("NUL in Host", request(host=b"Host: a\x00b"))
    yield refused("vertical tab before a coding", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"))
    for value in (b"", b" ", b"\t", b" 1 ", b"\t1\t", b"1\t2", b"1:2", b"\x80\xff", b"1" * 8000):
        yield expect_served(f"value {value[:9]!r}", request(b"GET /a HTTP/1.1", b"x:" + value), A)


def singletons() -> Iterator[Case]:
    for name in SINGLETONS:
        yield refused(f"two of {name!r}", request(b"GET /a HTTP/1.1", name + b": 1", name.title() + b": 2"))
    yield refused("two equal keys", request(b"GET /a HTTP/1.1", b"x-api-key: 1", b"x-api-key: 1"))
    for name in (b"accept", b"cookie", b"x-forwarded-for", b"connection", b"te", b"via"):
        yield expect_served(f"two of {name!r}", request(b"GET /a HTTP/1.1", name + b": 1", name + b": 2"), A)


def hosts() -> Iterator[Case]:
    yield refused("no Host", request(host=None))
    yield refused("two Hosts", request(b"GET /a HTTP/1.1", b"Host: example.org"))
    yield refused("two different Hosts", request(b"GET /a HTTP/1.1", b"host: evil.test"))
    yield refused("two Hosts on HTTP/1.0", request(b"GET /a HTTP/1.0", b"Host: evil.test"))
    yield refused("Host in a trailer only", request(host=None, body=b"Host: a\r\n\r\n"))
    invalid = (
        b"a/b a/public#@b a@b a#b a?b a,b [::1 ::1 a:b a:123456 a:-1 a:1:2 :80 [] a%20b a\\b a;b \xc3\xa9 http://a [g]"
    ).split()
    zones = b"[fe80::1%] [fe80::1%x/y] [%x] [fe80::1%a%b] fe80::1%x a%x".split()
    for host in (b"", b" ", b"a b", *invalid, *zones):
        yield refused(f"Host {host!r}", request(host=b"Host: " + host))
        yield refused(f"Host {host!r} on HTTP/1.0", request(b"GET /a HTTP/1.0", host=b"Host: " + host))
    served = b"a a:80 a: 127.0.0.1 127.0.0.1:8080 [::1] [::1]:80 A.b-c_d~e xn--e1afmkfd.example".split()
    for host in (*served, b"[fe80::1%lo]", b"[fe80::1%25eth0]:80", b"gw.test.", b"gw.test.:80"):
        yield expect_served(f"Host {host!r}", request(host=b"Host: " + host), A)


def lengths() -> Iterator[Case]:
    wrong = (
        b"+5 -5 0x5 5,5 5.0 5; 5_0 5e0 \xd9\xa5 five 5h #5 "
        b"9999999999999999999 18446744073709551617 99999999999999999999999"
    ).split()
    for value in (b"", b" ", b"5 5", b"5, 5", b"5,", b",5", *wrong):
        yield refused(f"Content-Length {value!r}", post(b"Content-Length: " + value, body=b"hello"))
    for second in (b"Content-Length: 5", b"Content-Length: 6", b"content-length: 0", b"CONTENT-LENGTH: 5, 5"):
        yield refused(f"Content-Length and {second!r}", post(b"Content-Length: 5", second, body=b"hello"))
    yield refused("Content-Length with a space before the colon", post(b"Content-Length : 5", body=b"hello"))
    for value in (b"5", b" 5 ", b"\t5", b"005", b"000000000000000005"):
        yield expect_served(f"Content-Length {value!r}", post(b"Content-Length:" + value, body=b"hello"), HELLO)
    yield expect_served("Content-Length 0", post(b"Content-Length: 0"), P)
    yield expect_served("no framing, no body", post(), P)
    with_body = request(b"GET /a HTTP/1.1", b"Content-Length: 5", body=b"hello")
    yield expect_served("GET with a body", with_body, Seen("GET", b"/a", body=b"hello"))
    yield expect_served("underscored length is none", post(b"Content_Length: 5"), P)
    yield refused(
        "bytes after the body are a request",
        post(b"Content-Length: 4", body=b"hello\r\n\r\n"),
        "bad_request",
        Seen("POST", b"/p", body=b"hell"),
    )


def codings() -> Iterator[Case]:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    for both in (
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    ):
        yield refused(f"both: {both[0]!r} first", post(*both, body=body))
    yield refused("Content-Length 0 and chunked", post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=body))
    for coding in (
        b"cow, chunked|gzip, chunked|gzip,chunked|gzip|identity|identity, chunked|xchunked|chunkedx|"
        b"chunked-x|x|gzip, deflate"
    ).split(b"|"):
        yield refused(f"coding {coding!r}", post(b"Transfer-Encoding: " + coding, body=body), "not_implemented")
    for coding in (
        b'chunked, cow|chunked,chunked|chunked, gzip, chunked|,|chunked,|,chunked|"chunked"|chunked;q=1|chu nked|'
        b"chunked\xff|[]|=|chunked, \xa0"
    ).split(b"|"):
        yield refused(f"coding {coding!r}", post(b"Transfer-Encoding: " + coding, body=body))
    yield refused("an empty coding", post(b"Transfer-Encoding:", body=body))
    for line in (b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked"):
        yield refused(f"coding line {line!r}", post(line, body=body))
    twice = (b"Transfer-Encoding: chunked", b"Transfer-encoding: chunked")
    yield refused("two codings", post(*twice, body=body))
    yield refused("two codings, one unknown", post(b"Transfer-Encoding: cow", b"Transfer-Encoding: chunked", body=body))
    ten = request(b"POST /p HTTP/1.0", b"Transfer-Encoding: chunked", body=body)
    yield refused("a coding on HTTP/1.0", ten)
    for line in (b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked", b"TRANSFER-ENCODING: \t CHUNKED \t "):
        yield expect_served(f"coding line {line!r}", post(line, body=body), HELLO)
    yield refused("an underscored coding is none", post(b"Transfer_Encoding: chunked", body=body), "bad_request", P)
    yield expect_served("TE does not frame", post(b"TE: trailers, chunked"), P)


def broken_chunks() -> Iterator[Case]:
    wrong_sizes = (
        b"0x5 5_0 +5 -5 g 5g ;a 5,5 #5 0000000000000005 FFFFFFFFFFFFFFFF 10000000000000000 \xd9\xa5 5h".split()
    )
    for size in (b"", b" 5", b"5 ", b"5\t", b"5 a", b"5\r", b"\x005", *wrong_sizes):
        yield refused(f"chunk size {size!r}", chunked(size + b"\r\nhello\r\n0\r\n\r\n"))
    for body in (
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\rX0\r\n\r\n",
        b"g",
        b"5 5",
        b"0\r\nx y",
        b"5;" + b"a" * 2000,
        b"0\r\nx: " + b"1" * 2000,
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
    ):
        yield refused(f"chunks {body[:20]!r}", chunked(body))
    for extension in (b";\x00", b";a\rb", b";a\nb", b";" + b"a" * 1100, b";" + b"a" * 100_000):
        yield refused(
            f"extension {extension[:4]!r} of {len(extension)}", chunked(b"5%b\r\nhello\r\n0\r\n\r\n" % extension)
        )
    yield refused(
        "a flood of extensions", chunked(b"".join(b"1;%b\r\nx\r\n" % (b"e" * 900) for _ in range(30)) + b"0\r\n\r\n")
    )
    yield refused("a flood of trailers", chunked(b"0\r\n" + b"x: 1\r\n" * 5000 + b"\r\n"))
    for trailer in (
        b"x",
        b"x y: 1",
        b": 1",
        b" x: 1",
        b"x: 1\n",
        b"x: \x00",
        b"x : 1",
        b"GET /a HTTP/1.1",
        b"x:" + b"1" * 2000,
    ):
        yield refused(f"trailer {trailer[:9]!r}", chunked(b"0\r\n" + trailer + b"\r\n\r\n"))


def chunks() -> Iterator[Case]:
    for body in (
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"005\r\nhello\r\n000\r\n\r\n",
        b"5;a\r\nhello\r\n0;b=c\r\n\r\n",
        b'5 ; a="b;c"\r\nhello\r\n0\r\n\r\n',
        b"5\r\nhello\r\n0\r\nX-Api-Key: evil\r\nX-Gateway-User: admin\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: x\r\n\r\n",
    ):
        yield expect_served(f"chunks {body!r}", chunked(body), HELLO)
    yield expect_served(
        "hexadecimal sizes",
        chunked(b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n"),
        Seen("POST", b"/p", body=b"01234567890123456789a"),
    )
    yield expect_served("no chunk", chunked(b"0\r\n\r\n"), P)
    yield expect_served(
        "one-byte chunks", chunked(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"), Seen("POST", b"/p", body=b"x" * 5000)
    )


def expectations() -> Iterator[Case]:
    for value in (
        b"",
        b"100-continue, x",
        b"y 100-continue",
        b"200-ok",
        b"100-continue;a",
        b"100",
        b"x" * 100,
        b"100 -continue",
    ):
        data = post(b"Expect: " + value, b"Content-Length: 5", body=b"hello")
        yield refused(f"Expect {value[:20]!r}", data, "expectation_failed")
    yield refused(
        "two expectations", post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello")
    )
    for value in (b"100-continue", b"100-Continue", b" 100-CONTINUE "):
        yield expect_served(f"Expect {value!r}", post(b"Expect:" + value, b"Content-Length: 5", body=b"hello"), HELLO)
    yield expect_served("Expect without a body", request(b"GET /a HTTP/1.1", b"Expect: 100-continue"), A)
    ten = request(b"POST /p HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello")
    yield expect_served("Expect on HTTP/1.0", ten, HELLO, stays_open=False)


def upgrades() -> Iterator[Case]:
    for protocol in (b"h2c", b"websocket", b"TLS/1.0", b"HTTP/2.0", b"x", b"", b"h2c, websocket", b"HTTP/1.1"):
        fields = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AAMAAABkAARAAAAA")
        counted = post(*fields, b"Content-Length: 5", body=b"hello")
        in_chunks = post(*fields, b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
        yield expect_served(f"Upgrade {protocol!r} with a body", counted, HELLO)
        yield expect_served(f"Upgrade {protocol!r} with chunks", in_chunks, HELLO)
        yield expect_served(
            f"Upgrade {protocol!r} in a pipeline", counted + request() + in_chunks + request(), HELLO, A, HELLO, A
        )
        yield expect_served(f"Upgrade {protocol!r} without a body", request(b"GET /a HTTP/1.1", *fields), A)
    h2c = request(b"GET /a HTTP/1.1", b"Connection: Upgrade", b"Upgrade: h2c")
    yield refused("Upgrade h2c and its preface", h2c + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version_not_supported", A)


def sizes() -> Iterator[Case]:
    most = 32 * 1024
    empty = len(request(b"GET /a HTTP/1.1", b"x: "))
    yield expect_served("32 KiB of head", request(b"GET /a HTTP/1.1", b"x: " + b"1" * (most - empty)), A)
    for excess in (1, 10, 100_000):
        data = request(b"GET /a HTTP/1.1", b"x: " + b"1" * (most - empty + excess))
        yield refused(f"32 KiB and {excess} bytes of head", data, "headers_too_large")
    yield refused("an endless field", b"GET /a HTTP/1.1\r\nHost: a\r\nx: " + b"1" * 40_000, "headers_too_large")
    yield refused("an endless name", b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"x" * 40_000, "headers_too_large")
    yield expect_served("100 fields", request(b"GET /a HTTP/1.1", *(b"x-%d: 1" % number for number in range(99))), A)
    for count in (101, 150, 1000):
        data = request(b"GET /a HTTP/1.1", *(b"x-%d: 1" % number for number in range(count - 1)))
        yield refused(f"{count} fields", data, "headers_too_large")
    dropped = request(b"GET /a HTTP/1.1", *(b"x_%d: 1" % number for number in range(100)))
    yield refused("101 fields, most of them dropped", dropped, "headers_too_large")


def pipelines() -> Iterator[Case]:
    body = post(b"Content-Length: 5", body=b"hello")
    in_chunks = chunked(b"5\r\nhello\r\n0\r\n\r\n")
    bad = request(b"GET /a HTTP/1.1", b"x y: 1")
    closing = request(b"GET /a HTTP/1.1", b"Connection: close")
    yield expect_served("two", request() * 2, A, A)
    yield expect_served("fifty", request() * 50, *[A] * 50)
    yield expect_served("bodies of all kinds", body + in_chunks + request() + body, HELLO, HELLO, A, HELLO)
    yield expect_served("with an empty line between", body + b"\r\n" + body, HELLO, HELLO)
    yield refused("with two empty lines between", body + b"\r\n\r\n" + body, "bad_request", HELLO)
    yield refused("the last is bad", request() + body + bad, "bad_request", A, HELLO)
    yield refused("nothing is served after a bad one", request() + bad + request(), "bad_request", A)
    yield expect_served("nothing is served after close", closing + request(), A, stays_open=False)
    for value in (b"Close", b"keep-alive, close", b"close , x", b"x,CLOSE"):
        data = request(b"GET /a HTTP/1.1", b"Connection: " + value) + request()
        yield expect_served(f"nothing is served after {value!r}", data, A, stays_open=False)
    smuggled = post(b"Content-Length: %d" % len(request()), body=request())
    yield expect_served("a request in a body is a body", smuggled + request(), Seen("POST", b"/p", body=request()), A)
    yield refused("a long target behind", request() + request(b"GET /" + b"a" * 9000 + b" HTTP/1.1"), "uri_too_long", A)
