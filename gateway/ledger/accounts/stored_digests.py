"""Tells which digests of secrets are stored, as cheaply as PostgreSQL can: anybody can write secrets that are not.

Those that are asked for while a statement is under way are asked for by the next one, all together. So a crowd of
strangers costs a round trip, and takes no connection of the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from gateway.ledger.db.session import Database

MAX_AT_ONCE = 500  # digests of a statement: well below a millisecond of the loop


class DigestColumn(NamedTuple):
    """The statements that find digests in a column: an array costs PostgreSQL twice what a value does."""

    find_one: str
    find_several: str


API_KEYS = DigestColumn(
    "SELECT key_hash FROM api_keys WHERE key_hash = $1",
    "SELECT key_hash FROM api_keys WHERE key_hash = ANY($1)",
)
REFRESH_TOKENS = DigestColumn(
    "SELECT token_hash FROM refresh_tokens WHERE token_hash = $1",
    "SELECT token_hash FROM refresh_tokens WHERE token_hash = ANY($1)",
)


class StoredDigests:
    """The digests that a column has."""

    def __init__(self, database: Database, column: DigestColumn) -> None:
        self._database = database
        self._column = column
        self._lock = asyncio.Lock()
        self._waiting: list[bytes] | None = None
        self._next: asyncio.Task[set[bytes]] | None = None

    async def has_any(self, digests: Sequence[bytes]) -> bool:
        """Whether one of the digests is stored. Raises DatabaseUnavailable."""
        if self._waiting is None and not self._lock.locked():  # which saves a task
            stored = await self._find(list(digests))
        else:
            stored = await asyncio.shield(self._find_with_others(digests))
        return not stored.isdisjoint(digests)

    def _find_with_others(self, digests: Sequence[bytes]) -> asyncio.Task[set[bytes]]:
        if self._next is None or self._waiting is None or len(self._waiting) >= MAX_AT_ONCE:
            self._waiting = []
            self._next = asyncio.get_running_loop().create_task(self._find(self._waiting))
            self._next.add_done_callback(_retrieve_exception)
        self._waiting.extend(digests)
        return self._next

    async def _find(self, digests: list[bytes]) -> set[bytes]:
        async with self._lock:
            if self._waiting is digests:
                self._waiting = None  # what is asked for from here on needs another statement
            if len(digests) == 1:
                rows = await self._database.fetch(self._column.find_one, digests[0])
            else:
                rows = await self._database.fetch(self._column.find_several, digests)
        return {row[0] for row in rows}


def _retrieve_exception(task: asyncio.Task[set[bytes]]) -> None:
    """Keeps the loop from logging a failure whose callers were cancelled; callers that remain raise it themselves."""
    if not task.cancelled():
        task.exception()
