"""What is sent to the console behind its sign-in: markup in every field, forged cookies, forms of any shape."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

import pytest

from gateway.api.admin import AdminApi
from gateway.clock import now
from gateway.web.console import app as console_app
from gateway.web.console.app import build_console
from gateway.web.cookies import CookieSigner
from gateway.web.pages import MAX_FORM_BYTES
from tests.api.conftest import TOKEN
from tests.web.console.operators import PORTAL_URL, Api, Browser
from tests.web.console.single_sign_on.conftest import browser_of
from tests.web.console.test_matrix import ACTIONS, PAGES, things  # noqa: F401 - the fixture

MARKUP = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}javascript:alert(3)"
# Each field that any form of the console has, and some that none has.
FIELDS = (
    *("amount", "reason", "plan_id", "note", "grace_seconds", "name", "price", "description", "features"),
    *("permissions", "credits_per_period", "sort_order", "stripe_price_id", "lemon_squeezy_variant_id"),
    *("route", "model", "input_tokens", "units", "client_ip", "scopes", "from", "to", "user_id", "endpoint"),
    *("outcome", "once", "confirmed", "repair", "token", "next", "unknown"),
)
PARAMETERS = (
    *("q", "cursor", "list", "status", "user_id", "split", "measure", "days", "endpoint", "model", "plan_id"),
    *("outcome", "actor", "action", "entity", "entity_id", "verify", "next", "unknown"),
)


_OWN = ("/console", "?", "#", f"{PORTAL_URL}/portal/enter?code=")


class Reader(HTMLParser):
    """What a browser would make of a page, as far as it could do harm."""

    def __init__(self) -> None:
        super().__init__()
        self.harmful: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "link", "iframe", "object", "embed", "base"):
            self.harmful += (
                [tag] if not (given.get("src") or given.get("href") or "").startswith("/console/static/") else []
            )
        self.harmful += [name for name in given if name.startswith("on") or name in ("style", "srcdoc")]
        addresses = (given.get(name) or "" for name in ("href", "src", "action", "formaction"))
        self.harmful += [each for each in addresses if each.strip() and not each.startswith(_OWN)]


def assert_harmless(text: str, where: object) -> None:
    """What was sent is text: no element, attribute or address has it, and no template has evaluated it."""
    reader = Reader()
    reader.feed(text)
    assert reader.harmful == [], where
    assert "49javascript" not in text, where


async def test_markup_in_every_field_of_every_form_is_text(root: Browser, things: dict[str, str]) -> None:  # noqa: F811
    form_token = await root.form_token("/why")
    for path in ACTIONS:
        fields = dict.fromkeys(FIELDS, MARKUP) | {"form_token": form_token}
        answer = await root.client.post(f"/console{path.format(**things)}", data=fields)
        assert answer.status_code < 500, path
        assert_harmless(answer.text, path)
        assert answer.headers.get("location", "/console").startswith("/console"), path


async def test_markup_in_every_parameter_of_every_page_is_text(root: Browser, things: dict[str, str]) -> None:  # noqa: F811
    for path in dict.fromkeys(path.partition("?")[0] for path in PAGES):
        answer = await root.client.get(
            f"/console{path.format(**things)}", params=dict.fromkeys(PARAMETERS, MARKUP), follow_redirects=False
        )
        assert answer.status_code < 500, path
        assert_harmless(answer.text, path)


@pytest.mark.parametrize(
    "segment", ["%3Cscript%3Ealert(1)%3C%2Fscript%3E", "..%2F..%2Fadmin%2Fv1", "%00", "%0d%0aset-cookie:x=1", "é"]
)
async def test_odd_segments_of_paths_find_nothing(root: Browser, segment: str) -> None:
    names = re.compile(r"\{[a-z_]+\}")
    paths = {path for module in console_app._PAGES for method, path, _ in module.pages._pages if method == "GET"}
    for path in sorted(path for path in paths if "{" in path):
        answer = await root.client.get(f"/console{names.sub(segment, path)}")
        assert answer.status_code in (400, 404, 422), (path, answer.status_code)
        assert_harmless(answer.text, path)
        assert "x" not in answer.cookies


FORGED: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "portal:session"},
    "another secret": {"secret": "guessed"},
    "expired": {"seconds": -5},
    "an operator of a provider that is not there": {"claims": {"name": "eve", "groups": ["*", "admins"]}},
    "a token that never was": {"claims": {"tid": str(uuid4())}},
}


@pytest.mark.parametrize("forged", FORGED)
async def test_forged_cookie_signs_nobody_in(stranger: Browser, forged: str) -> None:
    how = FORGED[forged]
    claims = {"sid": "s", "proven": int(now().timestamp()), **how.get("claims", {"tid": "root"})}
    signed = CookieSigner(how.get("secret", TOKEN)).sign(
        how.get("aud", "console:session"), claims, lifetime=timedelta(seconds=how.get("seconds", 60))
    )
    stranger.client.cookies.set("__Host-console_session", signed, domain="console.local")
    await stranger.get("", status=303)


@pytest.mark.parametrize("value", ["", "x", "e30.e30.", "eyJhbGciOiJub25lIn0.eyJ0aWQiOiJyb290In0.", "?"])
async def test_cookie_that_is_no_token_signs_nobody_in(stranger: Browser, value: str) -> None:
    stranger.client.cookies.set("__Host-console_session", value, domain="console.local")
    await stranger.get("", status=303)


async def test_session_from_before_signing_in_is_not_the_one_after(stranger: Browser, api: Api) -> None:
    """Whoever knew the browser's cookies before knows nothing of the session, and its forms are not the session's."""
    before = await stranger.form_token("/sign-in")
    await stranger.sign_in(await api.token("read"))
    answer = await stranger.client.post("/console/why", data={"form_token": before, "key": "gw_live_x"})
    assert answer.status_code == 403


async def test_forms_of_any_shape_are_answered(root: Browser) -> None:
    form_token = await root.form_token("/why")
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    many = "&".join([f"form_token={form_token}", *(f"f{number}=1" for number in range(500))])
    shapes: list[tuple[bytes, dict[str, str], set[int]]] = [
        (b"", urlencoded, {403}),
        (b"\xff\xfe%ff%00=&&;=%", urlencoded, {403}),
        (b'{"form_token": "x"}', {"content-type": "application/json"}, {403}),
        (b"x" * (MAX_FORM_BYTES + 1), urlencoded, {413}),
        (many.encode(), urlencoded, {413}),
        (f"form_token=x&form_token={form_token}&key=k".encode(), urlencoded, {403}),
        (f"form_token={form_token}&key=%00%ff&key=2&route={'r' * 9000}".encode(), urlencoded, {422, 200}),
    ]
    for body, headers, expected in shapes:
        answer = await root.client.post("/console/why", content=body, headers=headers)
        assert answer.status_code in expected, (body[:40], answer.status_code)


async def test_other_methods_than_those_of_a_page_do_nothing(root: Browser, things: dict[str, str]) -> None:  # noqa: F811
    for path in ACTIONS:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            answer = await root.client.request(method, f"/console{path.format(**things)}")
            assert answer.status_code == 405, (method, path)


async def test_page_that_acts_is_not_reached_by_a_link(root: Browser, api: Api, things: dict[str, str]) -> None:  # noqa: F811
    """A link that somebody clicks, or a picture that a page loads, changes nothing."""
    before = await api.get("/audit-log", limit=1)
    for path in ACTIONS:
        await root.client.get(
            f"/console{path.format(**things)}", params={"reason": "x", "amount": "5", "confirmed": "1"}
        )
    assert await api.get("/audit-log", limit=1) == before


async def test_fields_of_proxies_change_neither_who_nor_where(admin: AdminApi) -> None:
    forged = {
        "x-forwarded-user": "eve",
        "x-forwarded-groups": "admins",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": "evil.example",
        "x-original-url": "/console/tokens",
        "x-http-method-override": "POST",
    }
    async with browser_of(build_console(admin, secret=TOKEN), headers=forged) as client:
        answer = await client.get("/console/tokens")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in?next=%2Fconsole%2Ftokens")
