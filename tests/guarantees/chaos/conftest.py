"""What was measured is printed at the end; what takes gigabytes is only run by `make chaos`."""

from __future__ import annotations

import pytest

from tests.support.sampling import IS_FULL

collect_ignore = [] if IS_FULL else ["test_memory.py"]

measured: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if measured:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(measured))
