"""Prints measurements at the end of a run. Tests that need gigabytes run in `make chaos` only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from tests.migrations.conftest import empty_url
from tests.support.sampling import IS_FULL

__all__ = ["empty_url"]

collect_ignore = [] if IS_FULL else ["test_memory.py"]

measured: list[str] = []


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a server of the test's own."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = Valkey(folder, durable=False)
    endpoint = choose(None).valkey
    await server.start(endpoint)
    yield f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0"
    await server.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if measured:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(measured))
