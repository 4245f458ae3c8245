"""An operator's journey in a real browser: by keyboard alone, with scripts and without; and what axe-core finds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from gateway.api.admin import AdminApi
from gateway.clock import now
from gateway.ledger.usage import ingestion
from gateway.web.console.app import build_console
from tests.api.conftest import TOKEN
from tests.ledger.make import a_line
from tests.support.sampling import IS_FULL
from tests.web.browser.chromium import AXE, CHROMIUM, PHONE, Tab, check
from tests.web.browser.conftest import Serve
from tests.web.console.conftest import admin, api  # noqa: F401 - fixtures of the console's own tests
from tests.web.console.operators import Api

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; .ci/packages installs it")

# In the suite those that have something of their own; the rest behind full scale.
PAGES = ("", "/find?q=example", "/accounts/{user}", "/usage", "/plans/{plan}", "/coupons")
MORE_PAGES = (
    "/experiments",
    "/coupons/{coupon}",
    "/plans",
    "/prices",
    "/money",
    "/money?list=invoices",
    "/money?list=events",
    "/tokens",
    "/why",
    "/audit?verify=1",
    "/system",
    "/accounts/{user}/ledger",
    "/accounts/{user}/refusals",
    "/usage/exports",
    "/usage/accounts",
)


@pytest.fixture(scope="module")
async def origin(admin: AdminApi, serve: Serve) -> AsyncIterator[str]:  # noqa: F811 - the fixture
    async with serve(build_console(admin, secret=TOKEN)) as address:
        yield address


@pytest.fixture
async def grace(api: Api, admin: AdminApi) -> dict[str, str]:  # noqa: F811 - the fixtures
    """A customer with a plan, a key, calls and a payment; `word` finds her."""
    word = f"g{uuid4().hex[:9]}"
    plan = await api.create_plan(name=f"Plan {word}")
    user = await api.create_user(name=f"Grace {word}", plan=plan["id"])
    await api.post("/keys", {"user_id": user["id"], "name": "build"})
    await api.post("/payments", {"user_id": user["id"], "amount": "5.00"})
    async with admin.authenticator._database.transaction() as connection:
        await ingestion.ingest(connection, [a_line(UUID(user["id"]), at=now(), model="demo-1") for _ in range(3)])
    coupon = await api.post("/coupons", {"code": word, "amount_off": "2.50", "currency": "USD", "max_redemptions": 5})
    return {"word": word, "user": user["id"], "plan": plan["id"], "coupon": coupon["id"]}


async def sign_in(tab: Tab, origin: str) -> None:
    await tab.command("Network.clearBrowserCookies")
    await tab.open(f"{origin}/console")
    await tab.fill("Admin token", TOKEN)
    await tab.press("Enter", loads=True)
    assert "Today" in await tab.text()


@pytest.mark.parametrize("scripts", [True, False])
async def test_an_operator_works_by_keyboard_alone(
    tab: Tab,
    origin: str,
    grace: dict[str, str],
    api: Api,  # noqa: F811 - the fixture
    *,
    scripts: bool,
) -> None:
    await tab.command("Emulation.setScriptExecutionDisabled", value=not scripts)
    tab.errors.clear()
    tab.hosts.clear()
    await sign_in(tab, origin)

    await tab.fill("Find anything", grace["word"])
    await tab.press("Enter", loads=True)
    assert f"Grace {grace['word']}" in await tab.text()

    await tab.enter("Give or take credits", loads=False)
    await tab.fill("Credits", "1250")
    await tab.fill("Reason", "goodwill")
    await tab.press("Enter", loads=True)
    assert "The balance has changed." in await tab.text()
    entries = (await api.get("/audit-log", entity_id=grace["user"], action="credits.grant"))["data"]
    assert [entry["reason"] for entry in entries] == ["goodwill"]

    await tab.open(f"{origin}/console/plans/{grace['plan']}")
    await tab.tab_to("Price in USD")
    await tab.evaluate("document.activeElement.value = '12.50'")
    await tab.enter("Show what would change")
    assert "What would change" in await tab.text()
    await tab.enter("Save these changes")
    assert (await api.get(f"/plans/{grace['plan']}"))["price"] == "12.50"

    await tab.enter("Sign out")
    assert "You are signed out." in await tab.text()
    assert tab.errors == []
    assert {host for host in tab.hosts if host} == {origin.removeprefix("http://")}


@pytest.mark.parametrize("width", [PHONE, 1280])
async def test_names_without_a_space_fit_their_page(
    tab: Tab,
    origin: str,
    api: Api,  # noqa: F811 - the fixture
    width: int,
) -> None:
    user = await api.create_user(name="W" * 200)
    await api.post("/keys", {"user_id": user["id"], "name": "K" * 200})
    await sign_in(tab, origin)
    await tab.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    for page in ("", "/ledger", "/calls", "/refusals"):
        await tab.open(f"{origin}/console/accounts/{user['id']}{page}")
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), page
    await tab.command("Emulation.clearDeviceMetricsOverride")


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make node-clients")
async def test_axe_finds_nothing_wrong_on_pages_of_operators(tab: Tab, origin: str, grace: dict[str, str]) -> None:
    await tab.command("Emulation.setScriptExecutionDisabled", value=False)
    await tab.command("Network.clearBrowserCookies")
    await check(tab, f"{origin}/console/sign-in")
    await sign_in(tab, origin)
    for path in (*PAGES, *(MORE_PAGES if IS_FULL else ())):
        await check(tab, f"{origin}/console{path.format(**grace)}")
