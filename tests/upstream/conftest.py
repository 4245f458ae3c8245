"""Both ends of each connection live on the loop of these tests: its time stands still when the machine does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.steady_clock import steady_clock


@pytest.fixture(scope="package", autouse=True)
async def _time_stands_still_with_the_machine() -> AsyncIterator[None]:
    with steady_clock():
        yield
