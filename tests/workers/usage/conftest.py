"""Months that retention drops, and what became of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from gateway.ledger.db import month_partitions
from gateway.ledger.db.session import Database
from gateway.ledger.usage.ingestion import ingest
from policies.usage.records import text as escaped
from tests.ledger.make import a_line
from tests.support import databases
from tests.workers.conftest import Backend

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
OLD, KEPT = datetime(2025, 12, 31, 23, 59, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
AWKWARD = 'a "quoted", comma\nand a line: é'


@pytest.fixture
async def months(backend: Backend) -> Backend:
    """Two calls in December, the older one second, one in January; with months for both tables."""
    async with backend.database.transaction() as connection:
        await month_partitions.create_missing(connection, now=OLD, months_ahead=3)
    user_id = await backend.a_user()
    async with backend.database.transaction() as connection:
        lines = [
            a_line(user_id, at=OLD, category=escaped(AWKWARD), usage_type="analysis", file_name="x.csv"),
            a_line(user_id, at=OLD - timedelta(days=1), cost_usd="0.012345", metadata='{"a": 1}'),
            a_line(user_id, at=KEPT),
        ]
        await ingest(connection, lines)
    return backend


async def names(backend: Backend) -> list[str]:
    async with backend.database.read() as connection:
        return [each.name for each in await month_partitions.list_partitions(connection) if each.begins < NOW]


@asynccontextmanager
async def bounded(backend: Backend) -> AsyncIterator[Database]:
    """The database, where an operator bounds all transactions, and what they wait between two statements."""
    await databases.bound_transactions(backend.database.url)
    database = Database(backend.database.url, pool_size=2)
    yield database
    await database.close()


def failures() -> float:
    return REGISTRY.get_sample_value("gateway_usage_archive_failures_total") or 0.0
