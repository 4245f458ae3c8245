"""Reads one response, however the network cuts its bytes, and decides whether its connection can be used again.

llhttp (behind httptools) reads heads. Framing is decided here and fails closed: what has two readings is refused.
"""

from __future__ import annotations

import httptools

from gateway.http.chunked import ChunkedReader, MalformedChunksError
from gateway.http.fields import Header, has_control, list_members
from gateway.http.framing import BODILESS_STATUSES, Framing, is_content_length
from gateway.upstream.errors import invalid
from gateway.upstream.response_head import CONNECTION_FIELDS, ResponseHead, keep_alive_seconds, require_chunked

# nginx gives a response head 4-8 KiB, Envoy 60 KiB, Go 10 MiB; llhttp has no limit at all.
MAX_HEAD_BYTES = 64 * 1024
# Envoy stops at 100 by default; upstreams that set many cookies pass that.
MAX_FIELDS = 256
# RFC 9110 section 15.2 sets no limit; Go's transport stops after 5.
MAX_INTERIM_RESPONSES = 8
# The last head is kept to compare the next one with, if it is not longer.
MAX_KNOWN_HEAD_BYTES = 2 * 1024
# Of a chunk's size with its extensions, or of a trailer: the operator chose the upstream, so as much as all may cost.
MAX_CHUNK_LINE_BYTES = 16 * 1024
# An upstream that frames its response twice is not to be trusted with the next.
_FORBIDDEN_TRAILERS = frozenset((b"content-length", b"transfer-encoding"))


class ResponseReader:
    """Reads one final response.

    `status` is 0 until the head has come; `complete` says that the body has ended cleanly, `clean` that nothing came
    after the end. A 101 is final only where `upgrade` asked for it, and what follows is its body. `on_*` are the
    parser's callbacks. `known` is the last head of the connection: upstreams repeat it, and reading it costs 10 µs.
    """

    __slots__ = (
        "_chunked",
        "_connection_fields",
        "_framing",
        "_head_bytes",
        "_interim",
        "_is_discarded",
        "_known",
        "_method",
        "_parser",
        "_pending",
        "_remaining",
        "_upgrade",
        "buffered",
        "chunks",
        "clean",
        "complete",
        "head",
        "headers",
        "keep_alive",
        "keep_alive_seconds",
        "received",
        "status",
    )

    def __init__(self, method: bytes, upgrade: bytes | None = None, *, known: ResponseHead | None = None) -> None:
        self.status = 0
        self.head: ResponseHead | None = None
        self.headers: list[Header] = []
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.received = False
        self.complete = False
        self.clean = True
        self.keep_alive = False
        self.keep_alive_seconds: int | None = None
        self._method = method
        self._upgrade = upgrade
        self._framing = Framing.NONE
        self._remaining = 0
        self._connection_fields: list[Header] = []
        self._head_bytes = 0
        self._interim = 0
        self._pending: bytearray | None = None
        self._chunked: ChunkedReader | None = None
        self._known = known if method != b"HEAD" and upgrade is None else None
        self._parser: httptools.HttpResponseParser | None = None
        self._is_discarded = False

    def feed(self, data: bytes) -> None:
        """Reads what arrived. Raises UpstreamError (upstream_invalid), after which the connection cannot be used."""
        self.received = True
        if not self.status:
            data = self._read_head(data)
        if data:
            self._read_body(data)

    def feed_eof(self) -> None:
        """The peer has closed: this ends a close-delimited body, and truncates any other."""
        if self.complete:
            return
        if self._framing is not Framing.UNTIL_CLOSE:
            raise invalid(f"the response ended early, {self._missing()}")
        self.complete = True

    def take(self) -> bytes:
        chunks = self.chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.chunks = []
        self.buffered = 0
        return data

    def discard_parser(self) -> None:
        """Breaks the cycle reader, parser, callbacks, reader, so that no garbage waits for the collector."""
        self._parser = None
        self._is_discarded = True

    def _missing(self) -> str:
        if not self.status:
            return "within its head"
        return f"{self._remaining} bytes short" if self._framing is Framing.LENGTH else "before its last chunk"

    def _read_head(self, data: bytes) -> bytes:
        """Reads up to the end of the final head; gives what follows it."""
        known, self._known = self._known, None
        if known is not None and data.startswith(known.raw):
            return self._reuse_head(known, data)
        while True:
            end = self._head_end(data)
            head = data[:end] if 0 <= end < len(data) else data
            self._head_bytes += len(head)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise invalid(f"the response head is larger than {MAX_HEAD_BYTES} bytes")
            parser = self._parse(head)
            if end < 0:
                return b""
            rest = data[end:] if end < len(data) else b""
            self._finish_head(parser)
            if self.status:
                self._remember_head(head)
                return rest
            if not rest:
                return b""
            data = rest

    def _reuse_head(self, known: ResponseHead, data: bytes) -> bytes:
        """The same bytes are the same head, which is framed by a length."""
        self.head = known
        self.headers = known.headers
        self.keep_alive = known.keep_alive
        self.keep_alive_seconds = known.keep_alive_seconds
        self._framing = Framing.LENGTH
        self._remaining = known.length
        self.complete = not self._remaining
        self.status = known.status
        return data[len(known.raw) :]

    def _remember_head(self, last: bytes) -> None:
        """Bytes alone identify only a head that came whole, with a length and without interim responses."""
        is_whole = self._head_bytes == len(last) <= MAX_KNOWN_HEAD_BYTES
        is_plain = self._framing is Framing.LENGTH and self._method != b"HEAD"
        raw = last if is_whole and is_plain else b""
        self.head = ResponseHead(
            raw, self.status, self.headers, self._remaining, self.keep_alive, self.keep_alive_seconds
        )

    def _head_end(self, data: bytes) -> int:
        """Where in `data` the current head ends, or -1; raises UpstreamError for first bytes that are not HTTP/1.x."""
        pending = self._pending
        if pending is None:
            end = data.find(b"\r\n\r\n")
            if end >= 0 and data.startswith(b"HTTP/1."):
                return end + 4
            pending = self._pending = bytearray()
        before = len(pending)
        pending += data
        if pending[:7] != b"HTTP/1."[: len(pending)]:
            raise invalid("the response is not HTTP/1.x")
        end = pending.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            return -1
        self._pending = None
        return end + 4 - before

    def _parse(self, data: bytes) -> httptools.HttpResponseParser:
        parser = self._parser
        if parser is None:
            if self._is_discarded:
                raise invalid("the response has already failed")
            parser = self._parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            if self._upgrade is None:
                raise invalid("the upstream switched protocols without being asked") from error
        except httptools.HttpParserError as error:
            raise invalid(f"the response is malformed: {error}") from error
        return parser

    def _finish_head(self, parser: httptools.HttpResponseParser) -> None:
        status = parser.get_status_code()
        # RFC 9110 section 15: 100 to 599 are valid.
        if not 100 <= status <= 599 or (status == 101 and self._upgrade is None):
            raise invalid(f"the response has the status {status}")
        if len(self.headers) + len(self._connection_fields) > MAX_FIELDS:
            raise invalid(f"the response head has more than {MAX_FIELDS} fields")
        if status < 200 and status != 101:
            self._drop_interim()
            return
        self._decide_framing(status, parser.get_http_version())
        self.status = status
        self._parser = None

    def _drop_interim(self) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM_RESPONSES:
            raise invalid(f"more than {MAX_INTERIM_RESPONSES} interim responses")
        self.headers = []
        self._connection_fields = []
        self._parser = None  # which would take nothing after a `Connection: close`

    def _decide_framing(self, status: int, version: str) -> None:
        """RFC 9112 sections 6.3 and 9.3, with every ambiguity refused."""
        length: bytes | None = None
        coding: bytes | None = None
        protocol: bytes | None = None
        tokens: set[bytes] = set()
        for name, value in self._connection_fields:
            if name == b"content-length":
                length = value if length is None else b"twice"
            elif name == b"transfer-encoding":
                coding = value if coding is None else b"twice"
            elif name == b"connection":
                tokens.update(list_members(value))
            elif name == b"keep-alive":
                self.keep_alive_seconds = keep_alive_seconds(value)
            elif name == b"upgrade":
                protocol = value if protocol is None else b"twice"
        self.keep_alive = b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)
        self._drop_named(tokens)
        if status == 101:
            self._switch(protocol, tokens)
            return
        if coding is not None:
            require_chunked(coding, version, length)
        self._frame(status, length, coding)

    def _switch(self, protocol: bytes | None, tokens: set[bytes]) -> None:
        """Accepts only the protocol that was asked for. 101 has no content, whatever its Content-Length says."""
        asked = self._upgrade or b""
        if protocol is None or protocol.strip(b" \t").lower() != asked.lower() or b"upgrade" not in tokens:
            raise invalid("the upstream switched to another protocol than it was asked for")
        self._framing = Framing.UNTIL_CLOSE
        self.keep_alive = False

    def _drop_named(self, tokens: set[bytes]) -> None:
        named = tokens - {b"close", b"keep-alive"}
        if named:
            self.headers = [field for field in self.headers if field[0] not in named]

    def _frame(self, status: int, length: bytes | None, coding: bytes | None) -> None:
        is_head = self._method == b"HEAD"
        bodiless = is_head or status in BODILESS_STATUSES
        if length is not None:
            length = length.strip(b" \t")
            if not is_content_length(length):
                raise invalid("the response has an invalid Content-Length")
            if not bodiless or is_head:
                # On HEAD it frames nothing, but the client asks for it (RFC 9110 section 9.3.2).
                self.headers.append((b"content-length", length))
        if bodiless:
            self.complete = True
        elif coding is not None:
            self._framing = Framing.CHUNKED
            self._chunked = ChunkedReader(MAX_CHUNK_LINE_BYTES, forbidden_trailers=_FORBIDDEN_TRAILERS)
        elif length is None:
            self._framing = Framing.UNTIL_CLOSE
            self.keep_alive = False
        else:
            self._framing = Framing.LENGTH
            self._remaining = int(length)
            self.complete = not self._remaining

    def _read_body(self, data: bytes) -> None:
        if self.complete:
            self.clean = False
        elif self._chunked is not None:
            self._read_chunked(self._chunked, data)
        elif self._framing is Framing.LENGTH:
            self._read_counted(data)
        else:
            self.chunks.append(data)
            self.buffered += len(data)

    def _read_counted(self, data: bytes) -> None:
        remaining = self._remaining - len(data)
        if remaining < 0:
            data = data[:remaining]
            self.clean = False
            remaining = 0
        self._remaining = remaining
        self.complete = not remaining
        self.chunks.append(data)
        self.buffered += len(data)

    def _read_chunked(self, chunked: ChunkedReader, data: bytes) -> None:
        try:
            content, rest = chunked.feed(data)
        except MalformedChunksError as error:
            raise invalid(f"the response is malformed: {error}") from error
        if content:
            self.chunks.append(content)
            self.buffered += len(content)
        self.complete = chunked.is_complete
        if rest:
            self.clean = False

    # Called by the parser.

    def on_status(self, reason: bytes) -> None:
        # RFC 9112 section 4: HTAB, SP, VCHAR and obs-text, as in values. llhttp looks at values only.
        if has_control(reason):
            raise invalid("the reason phrase holds a control character")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in CONNECTION_FIELDS:
            self._connection_fields.append((name, value))
        else:
            self.headers.append((name, value))
