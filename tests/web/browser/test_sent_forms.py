"""A form in a real browser: sent once by a double click, and again where its answer never came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.polling import eventually
from tests.web.browser.chromium import CHROMIUM, Tab
from tests.web.browser.conftest import Serve
from tests.web.portal.visitors import PortalStack

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; .ci/packages installs it")


class Slow:
    """The portal, whose forms are not answered until the test lets them."""

    def __init__(self, stack: PortalStack) -> None:
        self._app = stack.app
        self.sent = 0
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            self.sent += 1
            await self.may_answer.wait()
        await self._app(scope, receive, send)

    async def was_sent(self, times: int) -> None:
        await eventually(lambda: self.sent == times)


@pytest.fixture
async def slow(stack: PortalStack, serve: Serve, tab: Tab) -> AsyncIterator[Slow]:
    portal = Slow(stack)
    async with serve(portal) as origin:
        await tab.command("Emulation.setScriptExecutionDisabled", value=False)
        await tab.command("Network.clearBrowserCookies")
        await tab.open(f"{origin}/portal/forgot")
        await tab.fill("E-mail", "ada@example.com")
        yield portal
        portal.may_answer.set()
        await tab.command("Page.stopLoading")


WAYS = {
    "by Escape": "dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))",
    "by the button of the browser, seconds ago": "document.forms[0].dataset.sent -= 5000",
    "and who came back to the page": "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))",
}


@pytest.mark.parametrize("way", WAYS)
async def test_form_whose_answer_was_stopped_is_sent_again(tab: Tab, slow: Slow, way: str) -> None:
    await tab.press("Enter")
    await slow.was_sent(1)
    await tab.press("Enter")
    await tab.command("Page.stopLoading")
    await tab.evaluate("document.forms[0].requestSubmit(); true")
    assert slow.sent == 1, "a double click sends once"
    await tab.evaluate(f"{WAYS[way]}; true")
    await tab.press("Enter")
    await slow.was_sent(2)
    slow.may_answer.set()
    await tab.until("location.pathname === '/portal/sign-in'")
    assert slow.sent == 2
