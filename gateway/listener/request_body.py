"""What a connection reads a request's body with: by its length, or by its chunks."""

from __future__ import annotations

from typing import Protocol

from gateway.http.chunked import ChunkedReader

# Of a chunk's size with its extensions, or of a trailer. A chunk signed for S3 has under 100 bytes of extension.
MAX_CHUNK_LINE_BYTES = 1024
# Of one turn of the loop: a tenth of a millisecond, also where hundreds of clients send chunks of one byte.
MAX_CHUNKS_PER_TURN = 128


class BodyReader(Protocol):
    """Reads one body."""

    is_complete: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What `data` holds of the body, and what follows it or, while it is not complete, is to be fed next turn.

        Raises MalformedChunksError.
        """


class LengthReader:
    """Reads a body of `length` bytes, at least one."""

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


def body_reader(length: int | None) -> BodyReader:
    """For a body of `length` bytes, or a chunked one where that is None."""
    return (
        ChunkedReader(MAX_CHUNK_LINE_BYTES, max_chunks=MAX_CHUNKS_PER_TURN) if length is None else LengthReader(length)
    )
