"""Forms are carried out for the browser and the session that they were shown to, and for no other site."""

from __future__ import annotations

import httpx
import pytest

from tests.web.portal.visitors import ORIGIN, PASSWORD, PortalStack, Visitor, form_token


async def test_a_form_without_its_token_is_refused(stack: PortalStack) -> None:
    customer = await stack.customer()
    await customer.get("")
    for sent in (
        {},
        {"form_token": ""},
        {"form_token": "forged"},
        {"form_token": "\udc80é".encode("utf-8", "replace")},
    ):
        response = await customer.client.post("/portal/sign-out", data=sent)
        assert response.status_code == 403, sent
    assert (await customer.client.get("/portal")).status_code == 200, "nothing was done"


async def test_a_token_of_another_session_or_browser_is_refused(stack: PortalStack) -> None:
    one, other = await stack.customer(), await stack.customer()
    token = form_token(await other.get(""))
    await one.get("")
    assert (await one.client.post("/portal/sign-out", data={"form_token": token})).status_code == 403

    stranger = stack.stranger()
    before = form_token(await stranger.get("/sign-in"))
    stranger.client.cookies.set(
        "__Host-gateway_portal_session", one.client.cookies["__Host-gateway_portal_session"], domain="gateway.test"
    )
    assert (await stranger.client.post("/portal/sign-out", data={"form_token": before})).status_code == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": f"{ORIGIN}.evil.example"},
    ],
)
async def test_a_form_of_another_site_is_refused_even_with_a_token(stack: PortalStack, fields: dict[str, str]) -> None:
    customer = await stack.customer()
    token = form_token(await customer.get(""))
    response = await customer.client.post("/portal/sign-out", data={"form_token": token}, headers=fields)
    assert response.status_code == 403
    assert (await customer.client.get("/portal")).status_code == 200


async def test_a_form_of_this_site_is_taken(stack: PortalStack) -> None:
    for fields in ({"sec-fetch-site": "same-origin"}, {"origin": ORIGIN}, {}):
        customer = await stack.customer()
        token = form_token(await customer.get(""))
        response = await customer.client.post("/portal/sign-out", data={"form_token": token}, headers=fields)
        assert response.status_code == 303


async def test_a_page_is_asked_for_by_head_too(stack: PortalStack) -> None:
    response = await stack.stranger().client.head("/portal/sign-in")
    assert (response.status_code, response.content) == (200, b"")


async def test_a_form_that_is_too_long_is_refused(stack: PortalStack) -> None:
    visitor = stack.stranger()
    await visitor.submit("/sign-in", email="x" * 40_000, password="x", status=413)
    many = {f"field{number}": "x" for number in range(300)}
    assert (await visitor.submit("/sign-in", status=413, **many)).status_code == 413


async def test_every_response_keeps_the_page_from_frames_scripts_and_caches(stack: PortalStack) -> None:
    customer = await stack.customer()
    for path, status in {"": 200, "/nothing": 404, "/sign-in": 200}.items():
        response = await customer.client.get(f"/portal{path}")
        assert response.status_code == status
        assert_closed(response)
    assert_closed(await customer.client.post("/portal/sign-out"))


async def test_cookies_are_kept_from_scripts_and_other_sites(stack: PortalStack) -> None:
    customer, visitor = await stack.customer(), stack.stranger()
    response = await visitor.submit("/sign-in", email=customer.email, password=PASSWORD)
    (cookie,) = [each for each in response.headers.get_list("set-cookie") if "gateway_portal_session" in each]
    assert cookie.startswith("__Host-gateway_portal_session=")
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert attributes >= {"httponly", "secure", "path=/", "samesite=lax"}
    assert not any(each.startswith("domain") for each in attributes)


async def test_plain_http_to_this_machine_gets_cookies_that_browsers_keep(stack: PortalStack) -> None:
    for origin in ("http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"):
        response = await stack.stranger(origin=origin).client.get("/portal/sign-in")
        assert response.headers["set-cookie"].startswith("gateway_portal_visit="), origin
        assert "Secure" not in response.headers["set-cookie"]
    response = await stack.stranger(origin="http://api.example.com").client.get("/portal/sign-in")
    assert response.headers["set-cookie"].startswith("__Host-gateway_portal_visit="), (
        "a proxy that ends TLS may not say so"
    )


async def test_a_browser_that_keeps_no_cookie_is_told(stack: PortalStack) -> None:
    visitor: Visitor = stack.stranger()
    token = form_token(await visitor.get("/sign-in"))
    visitor.client.cookies.clear()
    response = await visitor.client.post("/portal/sign-in", data={"form_token": token})
    assert response.status_code == 403
    assert "did not keep the cookie" in response.text


def assert_closed(response: httpx.Response) -> None:
    (policy,) = response.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers.get_list("referrer-policy") == ["same-origin"]
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    assert " style=" not in response.text
    assert " onclick=" not in response.text
    assert "<style" not in response.text
