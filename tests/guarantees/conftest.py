"""One demo for all tests that only call it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guarantees.demo import Running, start_demo, stop


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A demo with two public workers, in a folder with a space in its name."""
    running = start_demo(tmp_path_factory.mktemp("demo run") / "data", GATEWAY_SERVER__WORKERS="2")
    yield running
    assert stop(running) == 0
