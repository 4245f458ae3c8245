"""A streamed request body that can be sent again as long as it is small."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

# Enough for a small JSON body. A larger one gets a 502 on a stale connection instead of the memory.
MAX_REPLAY_BYTES = 64 * 1024


class ReplayableBody:
    """Keeps the chunks of a source, so that each iteration starts at the beginning.

    Check `is_replayable` before a second iteration. A cancelled read may have ended the source, so the body is not
    replayable after it: it may wrongly count as lost, but is never sent short.
    """

    __slots__ = ("_chunks", "_exhausted", "_reading", "_size", "_source")

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = aiter(source)
        self._chunks: list[bytes] | None = []
        self._size = 0
        self._reading = False
        self._exhausted = False

    @property
    def is_replayable(self) -> bool:
        return self._chunks is not None and not self._reading

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self.is_replayable:
            raise RuntimeError("the request body cannot be sent again")
        for chunk in list(self._chunks or ()):
            yield chunk
        while not self._exhausted:
            self._reading = True
            try:
                chunk = await anext(self._source)
            except StopAsyncIteration:
                self._exhausted = True
                self._reading = False
                return
            self._reading = False
            self._record(chunk)
            yield chunk

    def _record(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._chunks is not None:
            self._chunks.append(chunk)
        if self._size > MAX_REPLAY_BYTES:
            self._chunks = None
