"""One gateway for all attacks, behind it the upstream that attackers and victim share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.guarantees.attacks.shared_upstream import shared_upstream
from tests.guarantees.attacks.under_attack import UnderAttack
from tests.guarantees.attacks.victim import measured
from tests.guarantees.simulation.served_gateway import serving
from tests.support.sampling import IS_FULL

collect_ignore = ["test_attacks.py"] if IS_FULL else ["test_victims.py"]

# The suite proves no times: a machine that stands still is no attack, and nobody waits for the long deadlines.
SUITE = {"timeout": "100ms", "idle": "30s"} if IS_FULL else {"timeout": "5s", "idle": "1s"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if measured:
        terminalreporter.section("attacks")
        terminalreporter.write_line("\n".join(measured))


@pytest.fixture(scope="package")
async def gateway(
    new_database_url: Callable[[], Awaitable[str]], redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[UnderAttack]:
    written = (Path(__file__).parent / "gateway.yaml").read_text()
    async with shared_upstream() as upstream_url:
        document = written.replace("http://upstream.test", upstream_url)
        for name, value in SUITE.items():
            document = document.replace(f"${name}", value)
        folder, database_url = tmp_path_factory.mktemp("attacks"), await new_database_url()
        async with serving(folder, document, database_url=database_url, redis_url=redis_url) as served:
            yield await UnderAttack.of(served)
