"""A connection beside the pool that the driver alone uses: for the statements that strangers cause.

Taking a connection from SQLAlchemy's pool, and a statement and its result through SQLAlchemy, cost a process ten times
what asyncpg does. And whoever keeps this connection busy takes none from those who have a right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

CLOSE_TIMEOUT_SECONDS = 1.0

# Besides closed sockets: what the server says when it ends a session.
_ENDED = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
)


class DriverConnection:
    """Opened by `connect` at the first statement, and when it is broken; statements wait for each other."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of a statement that writes nothing: one that meets a broken connection is made again.

        Raises what asyncpg raises, and TimeoutError.
        """
        async with self._lock:
            connection = self._connection
            if connection is not None and not connection.is_closed():
                try:
                    return await self._fetch(connection, query, arguments)
                except (*_ENDED, asyncpg.InterfaceError):
                    if self._connection is not None and not connection.is_closed():
                        raise
            self._connection = connection = await self._connect()
            return await self._fetch(connection, query, arguments)

    async def _fetch(
        self, connection: asyncpg.Connection, query: str, arguments: tuple[object, ...]
    ) -> list[asyncpg.Record]:
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
        except (*_ENDED, TimeoutError):  # a server that is silent may stay so
            self.terminate()
            raise
        return rows

    def terminate(self) -> None:
        """The next statement opens another connection; one under way is made again there."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)
