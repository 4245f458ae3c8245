"""A streamed request body that can be sent again as long as it is small, and as long as that may be needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

# Enough for a small JSON body. A larger one gets a 502 on a stale connection instead of the memory.
MAX_REPLAY_BYTES = 64 * 1024


class ReplayableBody:
    """Keeps the chunks of a source, so that each iteration starts at the beginning.

    Check `is_replayable` before a second iteration. A cancelled read may have ended the source, so the body is not
    replayable after it: it may wrongly count as lost, but is never sent short.
    """

    __slots__ = ("_chunks", "_exhausted", "_is_kept", "_reading", "_size", "_source", "_timer")

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = aiter(source)
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_kept = True
        self._reading = False
        self._exhausted = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_replayable(self) -> bool:
        return (self._is_kept or not self._size) and not self._reading

    @property
    def kept_bytes(self) -> int:
        """How much of it is in memory to be sent again."""
        return sum(map(len, self._chunks))

    def keep_for(self, seconds: float) -> None:
        """Forgets the body after this time, unless `keep` is called before. One that was sent before it does keep."""
        if self._size:
            return
        if seconds > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.forget)
        else:
            self.forget()

    def keep(self) -> None:
        """The body is to be sent again, however long that takes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """The body will not be sent again once a byte of it has been read."""
        self.keep()
        self._is_kept = False
        self._chunks = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self.is_replayable:
            raise RuntimeError("the request body cannot be sent again")
        for chunk in list(self._chunks):
            yield chunk
        chunk = b""
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
            chunk = b""  # which would stay in memory for as long as the next one does not come

    def _record(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if not self._is_kept:
            return
        self._chunks.append(chunk)
        if self._size > MAX_REPLAY_BYTES:
            self.forget()
