"""Fixtures for tests of the admin API."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import AdminApi


@pytest.fixture
async def a_plan(admin_api: AdminApi) -> dict[str, Any]:
    """A plan of this test's own."""
    body = {"name": f"Plan {uuid4().hex}", "price": "9.90", "credits_per_period": 70, "requests_per_minute": 60}
    made: dict[str, Any] = await admin_api.post("/plans", body, status=201)
    return made
