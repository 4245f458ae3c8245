"""The record of an import in the gateway's database: the console shows its progress from it, and cancels it there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.importing import imports


class ImportCanceled(Exception):  # noqa: N818 - named for the condition
    """An operator has canceled it. What it has written stays; the same command resumes it."""


class ImportRecord:
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
        with suppress(DatabaseUnavailable):  # the failure of the import is the one to report
            async with self._database.transaction() as connection:
                await imports.end(connection, self._id, state)


@asynccontextmanager
async def record_import(database: Database, source: str) -> AsyncIterator[ImportRecord]:
    """Records an import that begins, and at the end of the block how it ended."""
    async with database.transaction() as connection:
        found = ImportRecord(database, await imports.begin(connection, source))
    state = "failed"
    try:
        yield found
        state = "done"
    except (ImportCanceled, asyncio.CancelledError):
        state = "canceled"
        raise
    finally:
        await found.end(state)
