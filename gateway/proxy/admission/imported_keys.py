"""Which keys that have not our form are worth looking up: those that begin as some imported key does.

They have no checksum, so without this any junk would cost a query. What begins otherwise costs one query a second, by
all that is sent together.
"""

from __future__ import annotations

from gateway.clock import monotonic_seconds
from gateway.ledger.accounts import api_keys as ledger
from gateway.ledger.db.session import Database

MAX_KEY_BYTES = 512
REFRESH_SECONDS = 1.0  # how soon a first key of a new beginning is known after it was imported


class ForeignKeys:
    """The beginnings of imported keys, as PostgreSQL had them lately."""

    def __init__(self, database: Database, *, own_beginning: bytes) -> None:
        self._database = database
        self._own_beginning = own_beginning
        self._prefixes: tuple[bytes, ...] = ()
        self._refresh_at = 0.0

    async def may_be(self, key: bytes) -> bool:
        """Whether the key may be an imported one. Raises DatabaseUnavailable."""
        if key.startswith(self._own_beginning) or len(key) > MAX_KEY_BYTES:
            return False
        if key.startswith(self._prefixes):
            return True
        if monotonic_seconds() < self._refresh_at:
            return False
        self._refresh_at = monotonic_seconds() + REFRESH_SECONDS
        async with self._database.read() as connection:
            prefixes = await ledger.foreign_prefixes(connection)
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
        return key.startswith(self._prefixes)
