"""A customer's journey in a real browser: by keyboard alone, with scripts and without them; and what axe-core finds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from gateway.api.checkout import CheckoutService
from gateway.clock import now
from gateway.ledger.credits import grants
from gateway.ledger.invoicing import invoices
from gateway.ledger.usage import ingestion, refusals
from gateway.ledger.usage.refusals import RefusedIn
from policies.billing.invoicing import Line
from policies.billing.issuing import Issuer
from tests.ledger.make import a_key, a_line
from tests.payments.conftest import stripe_provider
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PACK
from tests.support.sampling import IS_FULL
from tests.web.browser.chromium import AXE, CHROMIUM, Tab, check
from tests.web.browser.conftest import Serve
from tests.web.portal.visitors import PASSWORD, PortalStack, build_stack

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; .ci/packages installs it")

NOON = datetime.combine(now().date(), datetime.min.time(), UTC) - timedelta(days=3)
# In the suite those that have something of their own; the rest behind full scale.
PAGES = ("", "/keys", "/usage", "/plan?coupon=nope", "/alerts", "/first-call", "/account")
MORE_PAGES = (
    "/plan",
    "/top-up",
    "/billing",
    "/refusals",
    "/keys?revoked=1",
    "/keys/new",
    "/keys/{key}/revoke",
    "/credits",
    "/keys/{key}",
    "/keys/{key}/rotate",
    "/plan/end",
    "/account/delete",
    "/billing/invoices",
)
STRANGERS_PAGES = ("/sign-in", "/sign-up", "/forgot", "/reset", "/verify", "/nothing")


@pytest.fixture(scope="module")
async def origin(stack: PortalStack, serve: Serve) -> AsyncIterator[str]:
    """Of a portal that sells a pack, too."""
    provider = stripe_provider(FakeStripe({"price_pack": 500}))
    service = CheckoutService(providers={"stripe": provider}, default="stripe", packs=(PACK,))
    async with httpx.AsyncClient() as client:
        selling = build_stack(stack.account, client, checkout_service=service)
        async with serve(selling.app) as address:
            yield address
    await provider.close()


@pytest.fixture
async def ada(stack: PortalStack) -> tuple[str, str]:
    """The address and a key of somebody who has called, been refused and been billed."""
    customer = await stack.customer(name="Ada", email_verified_at=now())
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        await grants.grant(connection, customer.user_id, amount=5000, source="promo", reason="hello", actor="test")
        key = await a_key(connection, customer.user_id)
        more: dict[str, Any] = {"api_key_id": str(key.id), "model": "demo-1"}
        lines = [a_line(customer.user_id, at=NOON + timedelta(days=at), **more) for at in range(3)]
        lines.append(a_line(customer.user_id, at=NOON, outcome="upstream_error", status_code=502))
        await ingestion.ingest(connection, lines)
        minute = NOON.replace(second=0, microsecond=0)
        await refusals.add(connection, {RefusedIn(key.id, "generate", "insufficient_credits", minute): 2})
        line = Line("Pro", 1, 5, 5)  # type: ignore[arg-type] # whole amounts do
        await invoices.issue(connection, customer.user_id, lines=[line], currency="USD", issuer=Issuer(), now=now())
    return customer.email, str(key.id)


async def sign_in(tab: Tab, origin: str, email: str) -> None:
    await tab.command("Network.clearBrowserCookies")
    await tab.open(f"{origin}/portal")
    await tab.fill("E-mail", email)
    await tab.fill("Password", PASSWORD)
    await tab.press("Enter", loads=True)
    assert "Welcome, Ada" in await tab.text()


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_journey_by_keyboard_alone(tab: Tab, origin: str, ada: tuple[str, str], *, scripts: bool) -> None:
    await tab.command("Emulation.setScriptExecutionDisabled", value=not scripts)
    tab.errors.clear()
    tab.hosts.clear()
    await sign_in(tab, origin, ada[0])

    await tab.enter("API keys")
    await tab.enter("Make a key")
    await tab.fill("Name", "by keyboard")
    await tab.fill("Credits it may spend in a period", "many")
    await tab.press("Enter", loads=True)
    assert await tab.evaluate("document.querySelector('#f-credit_cap').getAttribute('aria-invalid')") == "true"
    assert await tab.evaluate("document.querySelector('#f-name').value") == "by keyboard"
    await tab.evaluate("document.querySelector('#f-credit_cap').value = '50'")
    await tab.enter("Make the key")
    assert "gw_live_" in await tab.text()
    assert await tab.evaluate("document.querySelector('[data-copy]').hidden") is not scripts
    await tab.enter("I have copied it")

    await tab.enter("Revoke by keyboard", loads=not scripts)
    if scripts:
        await tab.until("document.querySelector('dialog')?.open")
    await tab.enter("Revoke it")
    assert "The key by keyboard is revoked, for good." in await tab.text()

    await tab.enter("Usage")
    await tab.fill("Model", "demo-1")
    await tab.press("Enter", loads=not scripts)
    await tab.until("location.search.includes('model=demo-1')")
    await tab.until("document.querySelectorAll('[data-label=Time]').length === 3")

    await tab.enter("Sign out")
    assert "You are signed out." in await tab.text()
    assert [each for each in tab.errors if "422" not in each] == []
    assert {host for host in tab.hosts if host} == {origin.removeprefix("http://")}


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make node-clients")
async def test_axe_finds_nothing_wrong_in_light_and_dark(tab: Tab, origin: str, ada: tuple[str, str]) -> None:
    await tab.command("Emulation.setScriptExecutionDisabled", value=False)
    for path in STRANGERS_PAGES if IS_FULL else STRANGERS_PAGES[:1]:
        await tab.command("Network.clearBrowserCookies")
        await check(tab, f"{origin}/portal{path}")
    await sign_in(tab, origin, ada[0])
    for path in (*PAGES, *(MORE_PAGES if IS_FULL else ())):
        await check(tab, f"{origin}/portal{path.format(key=ada[1])}")
