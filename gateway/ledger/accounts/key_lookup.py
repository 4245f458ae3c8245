"""Finds who holds an API key, whether it was made here or imported, for calls and for the account API alike.

Keys made here carry a checksum, so one that is malformed costs no query. Imported keys have none: they are looked up
only if they begin as some imported key does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import monotonic_seconds
from gateway.ledger.accounts import api_keys, principals
from gateway.ledger.db.session import Database, DatabaseUnavailable
from policies.access import keys
from policies.model import Principal

MAX_KEY_BYTES = 512
PREFIX_REFRESH_SECONDS = 1.0  # how soon the first imported key of a new prefix is known


class Found(NamedTuple):
    principal: Principal
    stored_digest: bytes


async def find_holder(
    connection: AsyncConnection, key: bytes, *, prefix: str, peppers: Mapping[int, bytes]
) -> Found | None:
    """The holder of a key by any digest under which it may be stored."""
    for stored_digest in keys.lookup_digests(prefix, key, peppers):
        principal = await principals.find_principal(connection, stored_digest)
        if principal is not None:
            return Found(principal, stored_digest)
    return None


async def rehash(database: Database, key: bytes, *, stored_digest: bytes, peppers: Mapping[int, bytes]) -> None:
    """Stores a key that was found by its plain digest under the newest pepper; if that fails, at a later use."""
    if stored_digest != keys.foreign_digest(key):
        return
    version = max(peppers)
    with suppress(DatabaseUnavailable):
        async with database.transaction() as connection:
            await api_keys.rehash_imported(
                connection,
                known_by=stored_digest,
                key_hash=keys.digest(key, peppers[version]),
                pepper_version=version,
            )


class ImportedKeys:
    """The prefixes of imported keys, as PostgreSQL had them lately.

    Imported keys have no checksum, so without their prefixes any junk would cost a query. All keys of other prefixes
    together cost one query a second.
    """

    def __init__(self, database: Database, *, own_prefix: bytes) -> None:
        self._database = database
        self._own_prefix = own_prefix
        self._prefixes: tuple[bytes, ...] | None = None
        self._refresh_at = 0.0
        self._refreshing = asyncio.Lock()

    async def may_include(self, key: bytes) -> bool:
        """Whether the key may be an imported one. Raises DatabaseUnavailable."""
        if key.startswith(self._own_prefix) or len(key) > MAX_KEY_BYTES:
            return False
        if self._prefixes is not None and key.startswith(self._prefixes):
            return True
        async with self._refreshing:
            if monotonic_seconds() >= self._refresh_at:
                await self._refresh()
        if self._prefixes is None:
            raise DatabaseUnavailable("the prefixes of imported keys could not be read")
        return key.startswith(self._prefixes)

    async def _refresh(self) -> None:
        self._refresh_at = monotonic_seconds() + PREFIX_REFRESH_SECONDS
        async with self._database.look_up() as connection:
            prefixes = await api_keys.list_imported_prefixes(connection)
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
