"""Databases for tests that migrate."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.embedded.stores import Stores
from tests.support import databases


@pytest.fixture
async def empty_url(stores: Stores) -> AsyncIterator[str]:
    url = await databases.create(stores.database_url)
    yield url
    await databases.remove(url)


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()
