"""The page of the API's documentation in a real browser: its rows show that they open, and no mark-up is left over."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from gateway.api.openapi import application, install, no_operations
from tests.web.browser.chromium import CHROMIUM, Tab
from tests.web.browser.conftest import Serve

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; .ci/packages installs it")


class Call(BaseModel):
    """What is `counted`."""

    units: int


async def test_rows_open_by_keyboard_and_ticks_are_code(serve: Serve, tab: Tab) -> None:
    operations = no_operations()

    @operations.post("/calls", summary="Make a call", tags=["calls"])
    async def make_call(body: Call) -> Call:
        """Charges `units`."""
        return body

    app = application("Example", "Send `Authorization: Bearer KEY`.", operations)
    install(app, guard=None)
    async with serve(app) as origin:
        await tab.open(f"{origin}/docs")
        await tab.until("document.querySelectorAll('details').length > 1")
        marker = "getComputedStyle(document.querySelector('summary'), '::before').content"
        closed = await tab.evaluate(marker)
        await tab.evaluate("document.querySelector('summary').focus()")
        await tab.press("Enter")
        await tab.until("document.querySelector('details').open")
        assert {closed, await tab.evaluate(marker)} == {'"▸"', '"▾"'}
        shown = await tab.evaluate("document.querySelector('details').innerText")
        assert "Charges units." in shown
        assert "curl -X POST" in shown
        assert "`" not in shown
