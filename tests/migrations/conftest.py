"""Databases for tests that migrate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from gateway.embedded.stores import Stores
from tests.support import databases


@pytest.fixture
async def empty_url(stores: Stores) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex}"
    await execute(stores.database_url, f"CREATE DATABASE {name} TEMPLATE template0")
    yield f"{stores.database_url.rpartition('/')[0]}/{name}"
    admin = await asyncpg.connect(stores.database_url)
    await databases.drop(admin, name)
    await admin.close()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()
