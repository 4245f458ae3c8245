"""The record of an import in the gateway's database, by which the console shows how far it is, and cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from gateway.ledger.db import imports
from gateway.ledger.db.session import Database, DatabaseUnavailable


class ImportCanceled(Exception):  # noqa: N818 - named for the condition
    """Somebody has canceled it. What it has written stays; the same command resumes it."""


class RecordedImport:
    def __init__(self, database: Database, import_id: UUID) -> None:
        self._database = database
        self._id = import_id

    async def advance(self, sections: Sequence[Mapping[str, Any]]) -> None:
        """Raises ImportCanceled."""
        async with self._database.transaction() as connection:
            goes_on = await imports.advance(connection, self._id, sections)
        if not goes_on:
            raise ImportCanceled("canceled by an operator; the same command resumes the import")

    async def end(self, state: str) -> None:
        with suppress(DatabaseUnavailable):  # its failure is what is told
            async with self._database.transaction() as connection:
                await imports.end(connection, self._id, state)


@asynccontextmanager
async def recorded(database: Database, source: str) -> AsyncIterator[RecordedImport]:
    """The record of an import that begins; it ends with the block, as that does."""
    async with database.transaction() as connection:
        found = RecordedImport(database, await imports.begin(connection, source))
    state = "failed"
    try:
        yield found
        state = "done"
    except (ImportCanceled, asyncio.CancelledError):
        state = "canceled"
        raise
    finally:
        await found.end(state)
