"""Calls whose client disconnects: the rest of the upstream's response is drained for a while, to learn what it cost.

At most MAX_DRAINS calls are drained at a time; the next one is cancelled at once and charged its hold. A call that
still waits for a connection to the upstream is cancelled too: it was never sent, and is charged nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gateway.http.fields import HeaderBlock
from gateway.http.tunnel import Wire
from gateway.proxy.request.inbound import InboundSlot

DRAIN_SECONDS = 10.0
MAX_DRAINS = 100


class Client(Protocol):
    """The connection of a request, as the listener offers it in the scope."""

    is_disconnected: bool
    on_disconnect: Callable[[], None] | None
    task: asyncio.Task[Any] | None  # that serves the request
    application_slot: InboundSlot
    varying_fields: dict[bytes, bytes]  # that this request alone has, while the slot stays
    key_fields: dict[bytes, bytes]  # the same

    def answer(self, status: int, fields: HeaderBlock, body: bytes) -> None:
        """Sends a whole response at once."""

    def take_body(self) -> bytes | None:
        """The body, if all of it has arrived; None if it has not: then it comes by ASGI."""

    def abort(self) -> None:
        """Cuts the connection, so that the client sees that its response is incomplete."""

    def upgrade(self, protocol: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Wire:
        """Sends 101 and gives the connection, which the gateway takes over at once."""


class Drains:
    """The drains of this process; `active` is their number."""

    def __init__(self) -> None:
        self.active = 0


class DisconnectWatch:
    """Watches one client from here until `end`.

    `observe_disconnect` notes what the client had when it left, and tells whether the call is worth draining; one that
    is not is cancelled. `is_cancelled` says that this watch cancelled the task of the call.
    """

    __slots__ = ("_client", "_deadline", "_drains", "_observe_disconnect", "is_cancelled")

    def __init__(self, drains: Drains, client: Client, observe_disconnect: Callable[[], bool]) -> None:
        self.is_cancelled = False
        self._drains = drains
        self._client = client
        self._observe_disconnect = observe_disconnect
        self._deadline: asyncio.TimerHandle | None = None
        client.on_disconnect = self.disconnected
        if client.is_disconnected:
            self.disconnected()  # during admission: the listener reports it only once

    def disconnected(self) -> None:
        is_worth_draining = self._observe_disconnect()  # also where no drain is free: the client may have had all of it
        if not is_worth_draining or self._drains.active >= MAX_DRAINS:
            self._cancel()
            return
        self._drains.active += 1
        self._deadline = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._cancel)

    def end(self) -> None:
        self._client.on_disconnect = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._drains.active -= 1

    def _cancel(self) -> None:
        self.is_cancelled = True
        if self._client.task is not None:
            self._client.task.cancel()
