"""Tests that need gigabytes run in `make chaos` only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from tests.migrations.conftest import empty_url
from tests.support.sampling import IS_FULL, measured

__all__ = ["empty_url", "measured"]

collect_ignore = [] if IS_FULL else ["test_memory.py"]


@pytest.fixture
async def own_redis_url(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a server of the test's own."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = Valkey(folder, durable=False)
    endpoint = choose(None).valkey
    await server.start(endpoint)
    yield f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0"
    await server.stop()
