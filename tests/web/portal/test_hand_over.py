"""A product with logins of its own hands its users over: by a link that is good once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from gateway.api.hand_over import is_allowed
from gateway.clock import now
from gateway.ledger.accounts import users
from tests.api.conftest import TOKEN, admin_app
from tests.web.portal.visitors import PortalStack

SITE = "https://app.example.com"


@pytest.fixture
async def admin(stack: PortalStack) -> AsyncIterator[httpx.AsyncClient]:
    """The admin API on the same stores, under the same peppers."""

    async def publish() -> None:
        return None

    app = admin_app(
        stack.account.database,
        publish,
        missing={},
        peppers=stack.account.peppers,
        portal_url="https://gateway.test",
        return_origins=(SITE,),
    )
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://admin", headers=headers
    ) as client:
        yield client


async def handed_over(admin: httpx.AsyncClient, *, status: int = 201, **fields: Any) -> Any:
    response = await admin.post("/admin/v1/portal-sessions", json=fields)
    assert response.status_code == status, response.text
    return response.json()


async def a_user(stack: PortalStack) -> str:
    async with stack.account.database.transaction() as connection:
        return str((await users.create(connection, f"{uuid4().hex}@example.com", name="Handed Over")).id)


async def test_a_link_signs_in_once_and_leads_back(stack: PortalStack, admin: httpx.AsyncClient) -> None:
    made = await handed_over(admin, user_id=await a_user(stack), return_url=f"{SITE}/settings?x=1", reason="support")
    link = made["url"].removeprefix("https://gateway.test/portal")
    visitor = stack.stranger()
    entered = await visitor.client.get(f"/portal{link}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/portal")
    text = await visitor.get("")
    assert "Handed Over" in text
    assert f'href="{SITE}/settings?x=1"' in text
    assert "not valid, was used already" in await stack.stranger().get(link, status=401)
    await visitor.get("", status=200)


async def test_asking_for_the_head_of_a_link_does_not_use_it_up(stack: PortalStack, admin: httpx.AsyncClient) -> None:
    """As previews of links and scanners of mails do."""
    made = await handed_over(admin, user_id=await a_user(stack))
    link = f"/portal{made['url'].removeprefix('https://gateway.test/portal')}"
    looked = await stack.stranger().client.head(link)
    assert (looked.status_code, looked.headers.get_list("set-cookie")) == (303, [])
    visitor = stack.stranger()
    assert (await visitor.client.get(link)).status_code == 303
    assert "Handed Over" in await visitor.get("")


async def test_who_has_no_password_is_told_the_way_to_what_cannot_be_undone(
    stack: PortalStack, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = await a_user(stack)
    made = await handed_over(admin, user_id=user_id, return_url=f"{SITE}/settings")
    visitor = stack.stranger()
    await visitor.client.get(f"/portal{made['url'].removeprefix('https://gateway.test/portal')}")
    key = (await admin.post("/admin/v1/keys", json={"user_id": user_id})).json()
    page = f"/keys/{key['id']}/revoke"
    assert 'name="password"' not in await visitor.get(page), "the link was good just now"
    monkeypatch.setattr("gateway.web.portal.customer.now", lambda: now() + timedelta(minutes=20))
    assert "come here again from the page that led you here" in await visitor.get(page)
    refused = await visitor.submit(page, status=422)
    assert "without one, come here again from the page that led you here." in refused.text


async def test_a_code_that_was_changed_or_made_up_is_refused(stack: PortalStack, admin: httpx.AsyncClient) -> None:
    made = await handed_over(admin, user_id=await a_user(stack))
    code = made["url"].rpartition("=")[2]
    claims = jwt.decode(code, options={"verify_signature": False}, audience="portal:hand-over")
    forged = jwt.encode({**claims, "return_url": "https://evil.example/"}, "guess" * 8, algorithm="HS256")
    unsigned = jwt.encode(claims, None, algorithm="none")  # type: ignore[arg-type] # which PyJWT takes for none
    for wrong in (forged, unsigned, code[:-2], "", "x" * 9000):
        await stack.stranger().get("/enter", status=401, code=wrong)
    visitor = stack.stranger()
    assert (await visitor.client.get("/portal/enter", params={"code": code})).status_code == 303, "it is still good"


async def test_a_session_is_not_made_for_nobody_the_suspended_or_another_site(
    stack: PortalStack, admin: httpx.AsyncClient
) -> None:
    user_id = await a_user(stack)
    await handed_over(admin, status=404, user_id=str(uuid4()))
    for wrong in ("https://evil.example/", f"{SITE}.evil.example/", "javascript:alert(1)", "//app.example.com", "/x"):
        found = await handed_over(admin, status=422, user_id=user_id, return_url=wrong)
        assert found["errors"][0]["field"] == "return_url"
    async with stack.account.database.transaction() as connection:
        await users.suspend(connection, user_id)  # type: ignore[arg-type] # PostgreSQL reads it
    await handed_over(admin, status=409, user_id=user_id)


@pytest.mark.parametrize(
    "url",
    [
        "https://a:b@app.example.com/",
        "https://app.example.com\\@evil.example",
        "https://app.example.com:x/",
        "ftp://a.b",
    ],
)
def test_urls_that_browsers_may_read_otherwise_lead_nowhere(url: str) -> None:
    assert not is_allowed(url, ())
    assert not is_allowed(url, (SITE,))


def test_any_site_may_be_led_back_to_where_none_is_listed() -> None:
    assert is_allowed("https://other.example/x", ())
    assert not is_allowed("https://other.example/x", (SITE,))
    assert is_allowed("HTTPS://APP.example.com/x", (SITE,))
