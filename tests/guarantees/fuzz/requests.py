"""Strategies of requests: legal ones with all that the grammar allows, and bytes with a fault."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

Field = tuple[bytes, bytes]

HOST = b"gateway.test"
MAX_BODY_BYTES = 10_000  # of each route in gateway.yaml
# Whatever is unfinished, this ends it: it is longer than any body may be, and then no head begins so.
POISON = bytes(MAX_BODY_BYTES + 2_000)

_TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^`|~"
_VALUE = "".join(map(chr, range(0x21, 0x7F))) + "\t   \x80\xa0\xff"
_SEGMENT = string.ascii_letters + string.digits + "-.~_!$&'()*+,=:@"
_QUERY = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")

# What the gateway takes for itself, sets itself, withholds, or allows once, as far as a name drawn here may be so long;
# `_legal_fields` has some of them on purpose.
_SPECIAL = frozenset(
    b"authorization client-ip connection content-disposition content-encoding content-length content-range content-type"
    b" date expect forwarded from host idempotency-key if-modified-since if-range if-unmodified-since keep-alive"
    b" max-forwards origin proxy proxy-authenticate proxy-authorization proxy-connection range referer remote-addr"
    b" remote-user te traceparent tracestate trailer transfer-encoding upgrade user-agent via x-api-key x-batch-id"
    b" x-category x-client-ip x-file-name x-forwarded x-hop x-host x-language-code x-real-ip x-remote-ip x-request-id"
    b" x-scheme x-url-scheme".split()
)
_RESERVED = (b"x-gateway-", b"x-forwarded-")

# Each either passes unchanged or never crosses over.
_PASSED: list[Field] = [
    (b"Accept", b"*/*"),
    (b"accept", b"text/html;q=0.5"),
    (b"Cookie", b"a=b"),
    (b"cOOkie", b"c=d"),
    (b"X-Dup", b"1"),
    (b"x-DUP", b"2"),
    (b"X-Dup", b""),
    (b"Content-MD5", b"Q2hlY2sgSW50ZWdyaXR5IQ=="),
    (b"Cache-Control", b"no-cache,\tno-store"),
]
_HOP: Field = (b"X-Hop", b"crosses over unless named in Connection")
_NAMES_HOP: Field = (b"Connection", b"X-Hop, keep-alive")
_DROPPED: list[Field] = [
    _HOP,
    _NAMES_HOP,
    (b"Connection", b"keep-alive"),
    (b"Connection", b"Upgrade"),
    (b"TE", b"trailers"),
    (b"Trailer", b"X-API-Key"),
    (b"Upgrade", b"h2c"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"X-Gateway-User", b"somebody-else"),
    (b"x-gateway-credits", b"0"),
    (b"X_Gateway_User", b"somebody-else"),
    (b"Content_Length", b"7"),
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"X-Real-IP", b"10.0.0.1"),
    (b"Forwarded", b"for=10.0.0.1"),
]
_CREDENTIALS: Field = (b"Authorization", b"Basic dTpw")  # dropped, as the upstream has no pass_authorization
_ONCE: list[Field] = [
    _CREDENTIALS,
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"fuzz/1.0 (\xe9)"),
    (b"Range", b"bytes=0-1"),
    (b"X-Language-Code", b"pt-BR"),
]


@dataclass(frozen=True)
class Sent:
    """A legal request. `chunks` None frames the body by Content-Length; `expected` is what must cross over of it."""

    method: bytes
    target: bytes
    is_absolute: bool
    fields: tuple[Field, ...]
    body: bytes
    chunks: tuple[bytes, ...] | None
    closes: bool

    def wire(self, key: bytes) -> bytes:
        target = b"http://" + HOST + self.target if self.is_absolute else self.target
        lines = [b"%b %b HTTP/1.1" % (self.method, target), b"Host: " + HOST, b"X-API-Key: " + key]
        lines += [b"%b: %b" % each for each in self.fields]
        if self.closes:
            lines.append(b"Connection: close")
        if self.chunks is not None:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.body:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join([*lines, b"", b"".join(self.chunks) if self.chunks is not None else self.body])

    def expected(self) -> tuple[bytes, bytes, list[Field], bytes]:
        """Method, target, end-to-end fields and body."""
        dropped = [each for each in (_CREDENTIALS, *_DROPPED) if each != _HOP or _NAMES_HOP in self.fields]
        kept = [(name, value) for name, value in self.fields if (name, value) not in dropped and _is_plain(name)]
        fields = [(name.lower(), value.strip(b" \t")) for name, value in kept]
        path, mark, query = self.target.partition(b"?")
        return self.method, _PERCENT.sub(_needed, path) + mark + query, fields, self.body


_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def _needed(escape: re.Match[bytes]) -> bytes:
    """The escape, or the character that a segment may hold as it is (pchar, RFC 3986 section 3.3)."""
    character = bytes.fromhex(escape[1].decode())
    return character if character in _SEGMENT.encode() else escape[0]


def _is_plain(name: bytes) -> bool:
    """Other names are dropped: upstreams disagree about them. A dash alone is plain."""
    return not re.search(rb"[^A-Za-z0-9-]", name)


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[bytes, tuple[bytes, ...] | None]:
    if draw(st.booleans()):
        return draw(st.binary(max_size=300)), None
    parts = draw(st.lists(st.binary(min_size=1, max_size=80), max_size=6))
    chunks = [draw(_chunk_sizes(len(part))) + part + b"\r\n" for part in parts]
    last = draw(st.sampled_from([b"0", b"000", b"0;last"])) + b"\r\n"
    trailers = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n", b"X-API-Key: forged\r\nContent-Length: 3\r\n"]))
    return b"".join(parts), (*chunks, last, trailers, b"\r\n")


@st.composite
def _chunk_sizes(draw: st.DrawFn, size: int) -> bytes:
    form = draw(st.sampled_from([b"%x", b"%X", b"%04x"]))
    extension = draw(st.sampled_from([b"", b"", b";a=b", b' ;q="0\t1"', b";" + b"e" * 50]))
    return form % size + extension + b"\r\n"


def _names(alphabet: str) -> st.SearchStrategy[bytes]:
    names = st.text(alphabet, min_size=1, max_size=12).map(str.encode)
    return names.filter(lambda name: name.lower() not in _SPECIAL and not name.lower().startswith(_RESERVED))


_values = st.text(_VALUE, max_size=30).map(lambda value: value.encode("latin-1").strip(b" \t"))
_legal_fields = st.tuples(
    st.lists(
        st.one_of(st.tuples(_names(_TOKEN), _values), st.sampled_from(_PASSED), st.sampled_from(_DROPPED)), max_size=8
    ),
    st.lists(st.sampled_from(_ONCE), max_size=2, unique=True),
).map(lambda both: (*both[0], *both[1]))

_segments = st.lists(
    st.one_of(
        st.text(_SEGMENT, min_size=1, max_size=8), st.sampled_from(["%C3%A9", "%20", "%3F%26", "%3aa%7E", "%80"])
    ),
    min_size=1,
    max_size=3,
).map("".join)
_paths = st.one_of(
    st.sampled_from(["/v1/plain", "/v1/things/", "/v1/things/v1/plain", "/v1/things/a/"]),
    st.lists(_segments.filter(lambda each: each not in (".", "..")), min_size=1, max_size=3).map(
        lambda segments: "/v1/things/" + "/".join(segments)
    ),
)
_queries = st.one_of(st.just(""), st.text(_QUERY, min_size=1, max_size=20).map("?{}".format))


@st.composite
def legal_requests(draw: st.DrawFn) -> Sent:
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]))
    path = draw(st.one_of(_paths, st.just("/v1/post")) if method == b"POST" else _paths)
    body, chunks = draw(st.one_of(st.just((b"", None)), _bodies()))
    return Sent(
        method=method,
        target=(path + draw(_queries)).encode(),
        is_absolute=draw(st.sampled_from([False, False, False, True])),
        fields=draw(_legal_fields),
        body=body,
        chunks=chunks,
        closes=draw(st.sampled_from([False, False, False, False, True])),
    )


groups = st.lists(legal_requests(), min_size=1, max_size=4)

# What has desynchronised servers before: framing given twice or almost, line ends of other kinds, a request in a body.
_HOSTILE = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\x00",
    b"\x0b",
    b":",
    b";",
    b"0",
    b"f",
    b"\r\n\r\n",
    b"\n\n",
    b"0\r\n\r\n",
    b"\r\n ",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: elsewhere\r\n",
    b"X-API-Key: another\r\n",
    b" folded: line\r\n",
    b"GET /v1/plain HTTP/1.1\r\nHost: smuggled\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b" HTTP/1.0",
    b" HTTP/1.1",
    b"/../",
    b"%2e%2e/",
    b"#",
]


@dataclass(frozen=True)
class Mutation:
    """Replaces `removed` bytes by `inserted`, anywhere or, with `at_line`, where a line begins."""

    place: int
    removed: int
    inserted: bytes
    at_line: bool

    def of(self, data: bytes) -> bytes:
        starts = [0, *(position + 2 for position in _found(data, b"\r\n"))] if self.at_line else range(len(data) + 1)
        start = starts[self.place % len(starts)]
        return data[:start] + self.inserted + data[start + self.removed :]


def _found(data: bytes, part: bytes) -> list[int]:
    positions, position = [], -1
    while (position := data.find(part, position + 1)) >= 0:
        positions.append(position)
    return positions


mutations = st.lists(
    st.builds(
        Mutation,
        place=st.integers(0, 5_000),
        removed=st.sampled_from([0, 0, 0, 1, 2, 20]),
        inserted=st.one_of(st.sampled_from(_HOSTILE), st.binary(max_size=3)),
        at_line=st.booleans(),
    ),
    min_size=1,
    max_size=3,
)
cuts = st.lists(st.integers(0, 3_000), max_size=6)


def in_pieces(data: bytes, at: list[int]) -> list[bytes]:
    """The data as a client writes it that pauses at these places."""
    places = sorted({0, len(data), *(place for place in at if place < len(data))})
    return [data[start:end] for start, end in pairwise(places)]
