"""Both stores with accounts and calls, and empty databases to restore into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from gateway.embedded.stores import Stores
from gateway.ledger.audit import audit_chain
from gateway.ledger.db.session import Database
from tests.support import databases
from tests.workers.conftest import backend

__all__ = ["backend"]

PEPPERS = {1: b"p" * 32}
NewDatabase = Callable[[], Awaitable[Database]]


@pytest.fixture
async def empty_database(stores: Stores) -> AsyncIterator[NewDatabase]:
    """Makes databases in which nobody has migrated anything."""
    async with AsyncExitStack() as stack:

        async def create() -> Database:
            url = await databases.create(stores.database_url)
            stack.push_async_callback(databases.remove, url)
            database = Database(url, pool_size=2, audit_keys=audit_chain.keys_of(PEPPERS))
            stack.push_async_callback(database.close)
            return database

        yield create
