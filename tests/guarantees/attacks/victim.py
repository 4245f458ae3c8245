"""A customer who calls at a steady pace beside an attack; each call is measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

measured: list[str] = []  # a row of a table for each attack
PATIENCE_SECONDS = 30.0  # only a failure waits so long


@dataclass
class Calls:
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.statuses.total() - self.statuses["200"]

    @property
    def failed_share(self) -> float:
        return self.failed / max(1, self.statuses.total())

    def quantile(self, share: float) -> float:
        """Seconds that so large a share of the calls took at most."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


class Victim:
    """Calls over a connection that it keeps, and opens again when a call on it has failed."""

    def __init__(self, url: str, key: str, path: str) -> None:
        address = urlsplit(url)
        self._place = (address.hostname, address.port)
        lines = (f"POST {path} HTTP/1.1", "host: gateway.test", f"x-api-key: {key}", "content-length: 2", "", "{}")
        self._request = "\r\n".join(lines).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call_until(self, is_over: Callable[[Calls], bool], *, pause_seconds: float) -> Calls:
        calls = Calls()
        while not is_over(calls):
            began = time.perf_counter()
            status = await self._call()
            calls.seconds.append(time.perf_counter() - began)
            calls.statuses[status] += 1
            await asyncio.sleep(pause_seconds)
        await self.close()
        return calls

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _call(self) -> str:
        """The status with the code of a problem, or `none` where there was no whole response."""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(*self._place)
                reader, writer = self._streams
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]))
                if b"\r\nconnection: close" in head:
                    await self.close()
                status = head[9:12].decode()
                return status if status == "200" else f"{status} {json.loads(body)['code']}"
        await self.close()
        return "none"
