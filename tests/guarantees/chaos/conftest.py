"""Prints measurements at the end of a run. Tests that need gigabytes run in `make chaos` only."""

from __future__ import annotations

import pytest

from tests.support.sampling import IS_FULL

collect_ignore = [] if IS_FULL else ["test_memory.py"]

measured: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if measured:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(measured))
