"""Request bodies: bytes in, content and what follows it out, however they are cut.

Chunk extensions and trailers are read over and dropped: a trailer never passes for a header (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

import re
from typing import Protocol

from gateway.listener.refusals import bad

# A signed chunk of S3's takes under 100 bytes of extension; llhttp has no limit.
MAX_LINE_BYTES = 1024
# What sizes, extensions and trailers may cost beyond a share of the body, as Go's chunked reader has it.
MAX_OVERHEAD_BYTES = 16 * 1024
_OVERHEAD_PER_CHUNK_BYTES = 16

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[\t -~\x80-\xff]*+)?\r\n")
_TRAILER_LINE = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+)?\r\n")


class Body(Protocol):
    """One request's body on its way in."""

    is_complete: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What `data` holds of the body, and what follows the body; raises Unacceptable."""


class Counted:
    """A body of `length` bytes, at least one."""

    __slots__ = ("_remaining", "is_complete")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        remaining = self._remaining
        if len(data) < remaining:
            self._remaining = remaining - len(data)
            return data, b""
        self.is_complete = True
        return data[:remaining], data[remaining:]


class Chunked:
    """A chunked body (RFC 9112 section 7.1)."""

    __slots__ = ("_excess", "_in_trailers", "_line", "_remaining", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        self._remaining = 0  # of the current chunk, with the CRLF that ends it
        self._line = b""  # what has come of a line
        self._in_trailers = False
        self._excess = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if self._line:
            data, self._line = self._line + data, b""
        content: list[bytes] = []
        position, end = 0, len(data)
        while position < end and not self.is_complete:
            if self._remaining:
                position = self._read_chunk(data, position, content)
                continue
            line_end = self._read_line(data, position)
            if not line_end:
                self._line = data[position:]
                return b"".join(content), b""
            position = line_end
        return b"".join(content), data[position:]

    def _read_chunk(self, data: bytes, position: int, content: list[bytes]) -> int:
        taken = min(self._remaining, len(data) - position)
        inside = min(taken, max(0, self._remaining - 2))
        if inside:
            content.append(data[position : position + inside])
        if taken > inside:
            due = b"\r\n"[2 - (self._remaining - inside) :]
            if data[position + inside : position + taken] != due[: taken - inside]:
                raise bad("A chunk is longer than its size.")
        self._remaining -= taken
        return position + taken

    def _read_line(self, data: bytes, position: int) -> int:
        """Reads a chunk's size or a trailer; gives the position behind it, 0 while the line is unfinished."""
        match = (_TRAILER_LINE if self._in_trailers else _CHUNK_LINE).match(data, position)
        if match is None:
            self._check_unfinished(data, position)
            return 0
        line_bytes = match.end() - position
        if line_bytes > MAX_LINE_BYTES:
            raise bad(f"A chunk's size line or a trailer is longer than {MAX_LINE_BYTES} bytes.")
        if self._in_trailers:
            self._count(line_bytes)
            self.is_complete = line_bytes == 2
            return match.end()
        size = int(match[1], 16)
        self._in_trailers = size == 0
        self._remaining = size + 2 if size else 0
        self._count(line_bytes - _OVERHEAD_PER_CHUNK_BYTES - 2 * size)
        return match.end()

    def _check_unfinished(self, data: bytes, position: int) -> None:
        if len(data) - position > MAX_LINE_BYTES:
            raise bad(f"A chunk's size line or a trailer is longer than {MAX_LINE_BYTES} bytes.")
        line = data[position:]
        if b"\n" in line or line.find(b"\r", 0, -1) >= 0 or not self._may_become_a_line(line):
            raise bad("The chunked framing is malformed.")

    def _may_become_a_line(self, line: bytes) -> bool:
        pattern = _TRAILER_LINE if self._in_trailers else _CHUNK_LINE
        stem = line.removesuffix(b"\r")
        ends = (b"\r\n", b":\r\n") if self._in_trailers else (b"\r\n", b";\r\n", b"0\r\n")
        return any(pattern.fullmatch(stem + end) for end in ends)

    def _count(self, excess_bytes: int) -> None:
        """What a large body has earned does not pay for a flood after it: the balance never falls below none."""
        self._excess = max(0, self._excess + excess_bytes)
        if self._excess > MAX_OVERHEAD_BYTES:
            raise bad("The chunked framing carries more than the body.")
