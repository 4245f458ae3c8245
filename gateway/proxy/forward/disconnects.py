"""What happens to a call whose client has left: its answer is drained for a while to learn what it cost.

At most MAX_DRAINS calls are drained at a time; the next one is cut at once and charged its hold. One that still waits
for a connection to the upstream is cut as well, never sent, and charged nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gateway.http.fields import HeaderBlock
from gateway.http.tunnel import Wire
from gateway.proxy.request.inbound import Note

DRAIN_SECONDS = 10.0
MAX_DRAINS = 100


class Client(Protocol):
    """The connection a request came on, as the listener offers it in the scope."""

    is_gone: bool
    on_gone: Callable[[], None] | None
    task: asyncio.Task[Any] | None  # that serves it; None where the server does not say
    note: Note | None

    @property
    def answer(self) -> Callable[[int, HeaderBlock, bytes], None] | None:
        """Answers whole and at once; None where the server takes an answer by ASGI only."""

    def take_body(self) -> bytes | None:
        """The body, if all of it has come; None if it has not, or the server does not say: then it comes by ASGI."""

    def abort(self) -> None:
        """Cuts the connection, so that an answer which broke off looks broken."""

    def upgrade(self, protocol: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Wire:
        """Answers 101 and gives the connection, to be taken over at once."""


class Unwatched:
    """The client of a server that does not say when clients leave."""

    is_gone = False
    on_gone: Callable[[], None] | None = None
    task: asyncio.Task[Any] | None = None
    note: Note | None = None
    answer: Callable[[int, HeaderBlock, bytes], None] | None = None

    def take_body(self) -> bytes | None:
        return None

    def abort(self) -> None:
        raise ConnectionAbortedError("the answer broke off")

    def upgrade(self, protocol: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Wire:  # noqa: ARG002 - as above
        raise RuntimeError("this server cannot switch protocols")


def client_of(scope: Any) -> Client:
    client: Client | None = scope.get("extensions", {}).get("gateway.client")
    return client or Unwatched()


class Departures:
    """Counts the drains under way in this process."""

    def __init__(self) -> None:
        self.draining = 0

    def watch(self, client: Client, is_worth_draining: Callable[[], bool]) -> Watch:
        """Watches a client while its task serves it. What nobody has begun to answer is cut and not drained."""
        watch = Watch(self, client, is_worth_draining)
        client.on_gone = watch.left
        if client.is_gone:
            watch.left()  # while the call was being admitted: nobody will say so again
        return watch


class Watch:
    """One client being watched. `is_cut` says that the task was cancelled because of it."""

    __slots__ = ("_client", "_deadline", "_departures", "_is_worth_draining", "is_cut")

    def __init__(self, departures: Departures, client: Client, is_worth_draining: Callable[[], bool]) -> None:
        self.is_cut = False
        self._departures = departures
        self._client = client
        self._is_worth_draining = is_worth_draining
        self._deadline: asyncio.TimerHandle | None = None

    def left(self) -> None:
        if self._departures.draining >= MAX_DRAINS or not self._is_worth_draining():
            self._cut()
            return
        self._departures.draining += 1
        self._deadline = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._cut)

    def end(self) -> None:
        self._client.on_gone = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._departures.draining -= 1

    def _cut(self) -> None:
        self.is_cut = True
        if self._client.task is not None:
            self._client.task.cancel()
