"""Both stores with accounts and calls, and empty databases to restore into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest

from gateway.embedded.stores import Stores
from gateway.ledger.audit import audit_chain
from gateway.ledger.db.session import Database
from tests.workers.conftest import backend

__all__ = ["backend"]

PEPPERS = {1: b"p" * 32}
NewDatabase = Callable[[], Awaitable[Database]]


@pytest.fixture
async def empty_database(stores: Stores) -> AsyncIterator[NewDatabase]:
    """Makes databases in which nobody has migrated anything."""
    async with AsyncExitStack() as stack:

        async def create() -> Database:
            name = f"restored_{uuid4().hex}"
            connection = await asyncpg.connect(stores.database_url)
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            await connection.close()
            url = f"{stores.database_url.rpartition('/')[0]}/{name}"
            database = Database(url, pool_size=2, audit_keys=audit_chain.keys_of(PEPPERS))
            stack.push_async_callback(database.close)
            return database

        yield create
