"""Signing in to the console: by an admin token, whose revocation ends the session at once."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from gateway.api.admin import AdminApi
from gateway.web.console.app import build_console
from gateway.web.console.operator import SESSION_LIFETIME
from gateway.web.cookies import CookieSigner
from tests.api.conftest import TOKEN
from tests.web.console.operators import Api, Browser
from tests.web.console.single_sign_on.conftest import browser_of


async def test_sign_in_needs_a_valid_token(stranger: Browser) -> None:
    refused = await stranger.submit("/sign-in", status=401, token="gwadm_live_wrong")
    assert "not valid" in refused.text
    assert "gwadm_live_wrong" not in refused.text
    assert (await stranger.client.get("/console")).headers["location"] == "/console/sign-in"
    assert "Today" in await stranger.follow(await stranger.submit("/sign-in", token=TOKEN))


async def test_session_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: Browser) -> None:
    answer = await stranger.submit("/sign-in", token=TOKEN)
    cookie = next(each for each in answer.headers.get_list("set-cookie") if "console_session" in each)
    assert cookie.startswith("__Host-console_session=")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert TOKEN not in cookie


async def test_pages_allow_nothing_inline_and_no_frame(root: Browser) -> None:
    answer = await root.client.get("/console")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "no-store" in answer.headers["cache-control"]


async def test_revoked_token_ends_its_session(stranger: Browser, api: Api) -> None:
    made = await api.post("/admin-tokens", {"name": "leaves-soon", "scopes": ["read"]})
    await stranger.sign_in(made["token"])
    await stranger.get("/plans")
    await api.post(f"/admin-tokens/{made['id']}/revoke")
    await stranger.get("/plans", status=303)


async def test_sign_out_ends_the_session_of_whoever_copied_its_cookie(root: Browser, admin: AdminApi) -> None:
    async with browser_of(build_console(admin, secret=TOKEN)) as client:
        copy = Browser(client)
        client.cookies.update(root.client.cookies)
        await copy.get("/plans")
        await root.submit("", "/sign-out")
        await root.get("/plans", status=303)
        await copy.get("/plans", status=303)
    await root.sign_in(TOKEN)
    await root.get("/plans")


async def test_signing_in_again_ends_the_session_that_the_browser_had(root: Browser, admin: AdminApi) -> None:
    async with browser_of(build_console(admin, secret=TOKEN)) as client:
        copy = Browser(client)
        client.cookies.update(root.client.cookies)
        await root.submit("/sign-in", status=401, token="gwadm_live_wrong")
        await copy.get("/plans")
        await root.sign_in(TOKEN)
        await copy.get("/plans", status=303)
    await root.get("/plans")


async def test_signed_out_session_stays_ended_until_its_cookie_ends(root: Browser, admin: AdminApi) -> None:
    """Also for a copy that was made after the operator proved again who it is."""
    signed = root.client.cookies["__Host-console_session"]
    claims = CookieSigner(TOKEN).read("console:session", signed)
    assert claims is not None
    more = {name: value for name, value in claims.items() if name not in ("aud", "iat", "exp")}
    renewed = CookieSigner(TOKEN).sign("console:session", more, lifetime=SESSION_LIFETIME)
    await root.submit("", "/sign-out")
    async with admin.authenticator._database.read() as connection:
        held = (await connection.execute(text("SELECT max(free_at) FROM throttles"))).scalar_one()
    found = CookieSigner(TOKEN).read("console:session", renewed)
    assert found is not None
    assert held.timestamp() >= found["exp"]


async def test_sign_in_leads_back_to_the_page(stranger: Browser) -> None:
    asked = await stranger.client.get("/console/audit?actor=admin")
    assert asked.headers["location"] == "/console/sign-in?next=%2Fconsole%2Faudit%3Factor%3Dadmin"
    done = await stranger.submit("/sign-in", token=TOKEN, next="/console/audit?actor=admin")
    assert done.headers["location"] == "/console/audit?actor=admin"


async def test_form_of_a_session_that_has_ended_is_told_to_have_done_nothing(root: Browser, api: Api) -> None:
    page = f"/console/accounts/{(await api.create_user())['id']}"
    fields = {"form_token": await root.form_token(""), "reason": "x"}
    root.client.cookies.delete("__Host-console_session")
    answer = await root.client.post(f"{page}/suspend", data=fields, headers={"referer": f"https://console{page}?x=1"})
    assert "nothing was done" in await root.follow(answer)
    assert answer.headers["location"] == f"/console/sign-in?{urlencode({'next': f'{page}?x=1'})}"
    for other in ("https://evil.example/console/plans", "https://console/other", "http://[", "-"):
        answer = await root.client.post(f"{page}/suspend", data=fields, headers={"referer": other})
        assert answer.headers["location"] == "/console/sign-in", other
        await root.follow(answer)
    signed_out = await root.client.post("/console/sign-out", data=fields)
    assert "nothing was done" not in await root.follow(signed_out)


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "/admin", "javascript:1"]
)
async def test_sign_in_leads_nowhere_else(stranger: Browser, target: str) -> None:
    done = await stranger.submit("/sign-in", token=TOKEN, next=target)
    assert done.headers["location"] == "/console"


async def test_console_answers_for_known_hosts_only(root: Browser) -> None:
    refused = await root.client.get("/console", headers={"host": "evil.example"})
    assert refused.status_code == 400
