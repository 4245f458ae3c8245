"""A streamed request body that can be sent again while it is small, because what was pulled of it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

# What a small JSON body takes; beyond it a stale connection costs the client a 502 rather than us the memory.
MAX_KEPT_BYTES = 64 * 1024


class ReplayableBody:
    """Iterates over a source that gives its chunks only once; each new iteration starts at the beginning.

    Ask `is_replayable` before a second one. A pull that was cancelled half-way may have ended the source, so it spoils
    the replay: the body may wrongly count as lost, but is never sent short.
    """

    __slots__ = ("_exhausted", "_kept", "_kept_bytes", "_pulling", "_source")

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = aiter(source)
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._pulling = False
        self._exhausted = False

    @property
    def is_replayable(self) -> bool:
        return self._kept is not None and not self._pulling

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self.is_replayable:
            raise RuntimeError("the request body cannot be sent again")
        for chunk in list(self._kept or ()):
            yield chunk
        while not self._exhausted:
            self._pulling = True
            try:
                chunk = await anext(self._source)
            except StopAsyncIteration:
                self._exhausted = True
                self._pulling = False
                return
            self._pulling = False
            self._keep(chunk)
            yield chunk

    def _keep(self, chunk: bytes) -> None:
        self._kept_bytes += len(chunk)
        if self._kept is not None:
            self._kept.append(chunk)
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._kept = None
