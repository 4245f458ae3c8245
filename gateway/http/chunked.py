"""Chunked bodies (RFC 9112 section 7.1): bytes in, content and what follows it out, however the network cuts them.

Chunk extensions and trailers are read over and dropped: a trailer never passes for a header (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

import re

from gateway.http.fields import TOKEN, VALUE

# What sizes, extensions and trailers may cost beyond a share of the body, as Go's chunked reader has it.
MAX_OVERHEAD_BYTES = 16 * 1024
_FREE_BYTES_PER_CHUNK = 16
# A chunk costs a microsecond of the loop, however small it is. So a reader may take so many at a time, and refuse a
# body that goes on with smaller ones than these on average, beyond what an interactive client sends.
_SMALL_CHUNK_BYTES = 16
MAX_SMALL_CHUNKS = 16 * 1024
_NO_LIMIT = 2**62

# Fifteen digits fit 64 bits.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;%b)?\r\n" % VALUE)
_TRAILER_LINE = re.compile(rb"(?:(%b):%b)?\r\n" % (TOKEN, VALUE))


# Sizes repeat, and looking one up costs less than reading it. Cleared when full.
_SHORT_LINE_BYTES = 8
_MAX_KNOWN_SIZES = 4096
_known_sizes: dict[bytes, int] = {}


class MalformedChunksError(ValueError):
    """The body is not chunked by the grammar, or its framing outweighs its content. The message is a sentence."""


class ChunkedReader:
    """Reads one body, whose size lines and trailers may have `max_line_bytes` each.

    `forbidden_trailers` are names in lower case that are refused instead of dropped. `max_chunks` bounds the chunks of
    one `feed`, and has bodies refused that consist of very small ones.
    """

    __slots__ = (
        "_excess",
        "_forbidden_trailers",
        "_in_trailers",
        "_line",
        "_max_chunks",
        "_max_line_bytes",
        "_remaining",
        "_small_balance",
        "is_complete",
    )

    def __init__(
        self,
        max_line_bytes: int,
        *,
        forbidden_trailers: frozenset[bytes] = frozenset(),
        max_chunks: int | None = None,
    ) -> None:
        self.is_complete = False
        self._max_line_bytes = max_line_bytes
        self._forbidden_trailers = forbidden_trailers
        self._remaining = 0  # of the current chunk, with the CRLF that ends it
        self._line = b""  # the beginning of a line that has not come whole
        self._in_trailers = False
        self._excess = 0
        self._max_chunks = _NO_LIMIT if max_chunks is None else max_chunks
        self._small_balance = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The content in `data`, and what follows the body or, of one not complete, is left to be fed again.

        Raises MalformedChunksError.
        """
        if self._line:
            data, self._line = self._line + data, b""
        content: list[bytes] = []
        position, end = 0, len(data)
        if self._remaining:
            position = self._read_chunk(data, 0, content)
        chunks_left = self._max_chunks
        while position < end and not self._in_trailers and chunks_left:
            chunks_left -= 1
            # The common case: a whole chunk whose size line has been read before. This saves 0.2 µs a chunk.
            line_end = data.find(b"\r\n", position, position + _SHORT_LINE_BYTES)
            size = _known_sizes.get(data[position:line_end]) if line_end > position else None
            if size is None or not data.startswith(b"\r\n", chunk_end := line_end + 2 + size):
                position = self._read_size(data, position, content)
                continue
            if self._excess:
                self._count(line_end + 2 - position, size)
            content.append(data[line_end + 2 : chunk_end])
            position = chunk_end + 2
        if self._in_trailers:
            position = self._read_trailers(data, position)
        read = b"".join(content)
        if not chunks_left:
            self._count_small(len(read))
        return read, data[position:]

    def _count_small(self, content_bytes: int) -> None:
        """As many chunks as a `feed` may take had these bytes of content."""
        self._small_balance = max(0, self._small_balance + self._max_chunks * _SMALL_CHUNK_BYTES - content_bytes)
        if self._small_balance > MAX_SMALL_CHUNKS * _SMALL_CHUNK_BYTES:
            raise MalformedChunksError("The body comes in chunks of a few bytes; send larger ones.")

    def _read_size(self, data: bytes, position: int, content: list[bytes]) -> int:
        """Reads a size line, and what has come of its chunk; gives the position behind."""
        match = _SIZE_LINE.match(data, position)
        if match is None:
            return self._keep_unfinished(data, position)
        size = int(match[1], 16)
        self._count(match.end() - position, size)
        if not size:
            self._in_trailers = True
            return match.end()
        if len(match[1]) + 2 <= _SHORT_LINE_BYTES:
            _remember(match[1], size)
        self._remaining = size + 2
        return self._read_chunk(data, match.end(), content)

    def _count(self, line_bytes: int, content_bytes: int) -> None:
        """A large body pays for no overhead after it: the balance never falls below zero."""
        excess = self._excess + line_bytes - _FREE_BYTES_PER_CHUNK - 2 * content_bytes
        self._excess = excess if excess > 0 else 0
        if line_bytes > self._max_line_bytes or excess > MAX_OVERHEAD_BYTES:
            raise self._too_much(line_bytes)

    def _read_chunk(self, data: bytes, position: int, content: list[bytes]) -> int:
        """Reads what has come of the current chunk and its CRLF; gives the position behind."""
        taken = min(self._remaining, len(data) - position)
        inside = min(taken, max(0, self._remaining - 2))
        if inside:
            content.append(data[position : position + inside])
        if taken > inside:
            due = b"\r\n"[2 - (self._remaining - inside) :]
            if data[position + inside : position + taken] != due[: taken - inside]:
                raise MalformedChunksError("A chunk is longer than its size.")
        self._remaining -= taken
        return position + taken

    def _read_trailers(self, data: bytes, position: int) -> int:
        """Reads trailers up to the empty line that ends the body; gives the position behind."""
        while position < len(data):
            match = _TRAILER_LINE.match(data, position)
            if match is None:
                return self._keep_unfinished(data, position)
            line_bytes, position = match.end() - position, match.end()
            self._excess += line_bytes
            if line_bytes > self._max_line_bytes or self._excess > MAX_OVERHEAD_BYTES:
                raise self._too_much(line_bytes)
            if match[1] is None:
                self.is_complete = True
                break
            if match[1].lower() in self._forbidden_trailers:
                raise MalformedChunksError(f"{match[1].decode()[:40]} is not a trailer.")
        return position

    def _keep_unfinished(self, data: bytes, position: int) -> int:
        """Keeps the beginning of a line; raises at once where no line can begin like that."""
        line = data[position:]
        if len(line) > self._max_line_bytes:
            raise self._too_much(len(line))
        if b"\n" in line or line.find(b"\r", 0, -1) >= 0 or not self._may_become_a_line(line):
            raise MalformedChunksError("The chunked framing is malformed.")
        self._line = line
        return len(data)

    def _may_become_a_line(self, line: bytes) -> bool:
        pattern = _TRAILER_LINE if self._in_trailers else _SIZE_LINE
        stem = line.removesuffix(b"\r")
        ends = (b"\r\n", b":\r\n") if self._in_trailers else (b"\r\n", b";\r\n", b"0\r\n")
        return any(pattern.fullmatch(stem + end) for end in ends)

    def _too_much(self, line_bytes: int) -> MalformedChunksError:
        if line_bytes > self._max_line_bytes:
            most = self._max_line_bytes
            return MalformedChunksError(f"A chunk's size line or a trailer is longer than {most} bytes.")
        return MalformedChunksError("The chunked framing carries more than the body.")


def _remember(digits: bytes, size: int) -> None:
    if len(_known_sizes) >= _MAX_KNOWN_SIZES:
        _known_sizes.clear()
    _known_sizes[digits] = size
