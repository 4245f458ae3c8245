"""The public listener: uvicorn's httptools protocol, made to tell the application about its client.

The scope's extensions carry `gateway.client`, the connection itself, so that a call learns of its client's departure
without a task that waits for it, and can cut an answer that broke off.
"""

from __future__ import annotations

from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PublicProtocol(HttpToolsProtocol):
    """One client connection."""

    is_gone = False
    on_gone: Callable[[], None] | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"gateway.client": self}  # type: ignore[dict-item] # an object, not a dictionary

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.is_gone = True
        if self.on_gone is not None:
            self.on_gone()

    def abort(self) -> None:
        self.cycle.disconnected = True
        self.transport.abort()
