"""Signing up, in and out, verifying and resetting, by forms alone."""

from __future__ import annotations

from uuid import uuid4

import pytest

from gateway.ledger.accounts import users
from policies.access.tokens import Purpose
from tests.web.portal.visitors import ORIGIN, PASSWORD, PortalStack, form_token


async def test_a_customer_signs_up_verifies_in_and_out(stack: PortalStack) -> None:
    visitor, email = stack.stranger(), f"{uuid4().hex}@example.com"
    signed_up = await visitor.submit("/sign-up", email=email, password=PASSWORD, name="Ada")
    assert "Your account is open" in await visitor.follow(signed_up)
    assert "Your account is open" not in await visitor.get("/sign-in"), "a message is shown once"

    signed_in = await visitor.submit("/sign-in", email=email, password=PASSWORD)
    assert signed_in.headers["location"] == "/portal"
    assert "Welcome, Ada" in await visitor.follow(signed_in)

    async with stack.account.database.read() as connection:
        user = await users.get_by_email(connection, email)
    assert user is not None
    token = await stack.mailed_token(user.id, Purpose.VERIFY_EMAIL)
    assert "Your address is verified" in await visitor.follow(
        await visitor.submit(f"/verify?token={token}", token=token)
    )

    session = visitor.client.cookies["__Host-gateway_portal_session"]
    await visitor.submit("", "/sign-out")
    visitor.client.cookies.set("__Host-gateway_portal_session", session, domain="gateway.test")
    response = await visitor.client.get("/portal")
    assert (response.status_code, response.headers["location"]) == (303, "/portal/sign-in"), "the session itself ended"


async def test_a_forgotten_password_is_set_by_mail(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    visitor = stack.stranger()
    known = await visitor.submit("/forgot", email=customer.email)
    unknown = await visitor.submit("/forgot", email=f"{uuid4().hex}@example.com")
    assert known.headers["location"] == unknown.headers["location"]

    token = await stack.mailed_token(customer.user_id, Purpose.RESET_PASSWORD)
    weak = await visitor.submit(f"/reset?token={token}", token=token, password="password", status=422)
    assert 'id="e-password"' in weak.text
    assert "password is set" in await visitor.follow(
        await visitor.submit(f"/reset?token={token}", token=token, password="another horse battery")
    )
    assert (await customer.client.get("/portal")).status_code == 303, "other sessions end"


async def test_the_root_may_end_in_a_slash(stack: PortalStack) -> None:
    response = await stack.stranger().client.get("/portal/")
    assert (response.status_code, response.headers["location"]) == (308, "/portal")


async def test_what_was_typed_stays_but_a_password(stack: PortalStack) -> None:
    response = await stack.stranger().submit("/sign-up", email="not an address", password="hidden-text", status=422)
    assert 'value="not an address"' in response.text
    assert 'aria-invalid="true"' in response.text
    assert "hidden-text" not in response.text


async def test_a_wrong_password_is_told_and_paced_like_by_the_api(stack: PortalStack) -> None:
    customer = await stack.customer()
    visitor = stack.stranger()
    wrong = await visitor.submit("/sign-in", email=customer.email, password="wrong", status=401)
    assert "The e-mail address or the password is wrong." in wrong.text


async def test_signing_in_leads_back_to_the_page_that_was_asked_for(stack: PortalStack) -> None:
    customer = await stack.customer()
    visitor = stack.stranger()
    asked = await visitor.client.get("/portal", params={"from": "2026-01-01"})
    assert asked.headers["location"] == "/portal/sign-in"
    for wanted, led_to in {
        "/portal/keys?cursor=1": "/portal/keys?cursor=1",
        "https://evil.example/": "/portal",
        "//evil.example/portal": "/portal",
        "/portal/../admin": "/portal",
        "/portal/%2e%2E/admin": "/portal",
        "/portal\\@evil.example": "/portal",
        "/portalx": "/portal",
        "//[": "/portal",
        "javascript:alert(1)": "/portal",
    }.items():
        response = await visitor.submit("/sign-in", email=customer.email, password=PASSWORD, next=wanted)
        assert response.headers["location"] == led_to, wanted
        visitor.client.cookies.delete("__Host-gateway_portal_session")


async def test_signing_in_again_ends_the_session_that_the_browser_had(stack: PortalStack) -> None:
    customer, elsewhere = await stack.customer(), stack.stranger()
    elsewhere.client.cookies.update(customer.client.cookies)
    await elsewhere.get("")
    await customer.submit("/sign-in", email=customer.email, password="wrong", status=401)
    await elsewhere.get("")
    await customer.submit("/sign-in", email=customer.email, password=PASSWORD)
    await elsewhere.get("", status=303)
    await customer.get("")


async def test_who_is_suspended_can_sign_out_by_a_page_from_before_and_by_the_one_that_tells(
    stack: PortalStack,
) -> None:
    for is_from_before in (True, False):
        customer, copy = await stack.customer(), stack.stranger()
        copy.client.cookies.update(customer.client.cookies)
        token = form_token(await customer.get(""))
        assert customer.user_id is not None
        async with stack.account.database.transaction() as connection:
            await users.suspend(connection, customer.user_id)
        told = await customer.get("", status=403)
        assert 'action="/portal/sign-out"' in told
        assert 'href="/portal/keys"' not in told, "nothing there is to be had"
        sent = {"form_token": token if is_from_before else form_token(told)}
        done = await customer.client.post("/portal/sign-out", data=sent)
        assert (done.status_code, done.headers["location"]) == (303, "/portal/sign-in")
        assert "You are signed out." in await customer.follow(done)
        await copy.get("", status=303)


async def test_form_of_a_session_that_has_ended_is_told_to_have_done_nothing(stack: PortalStack) -> None:
    customer = await stack.customer()
    fields = {"form_token": form_token(await customer.get("/alerts")), "percents": "50"}
    customer.client.cookies.delete("__Host-gateway_portal_session")
    sent = await customer.client.post("/portal/alerts", data=fields, headers={"referer": f"{ORIGIN}/portal/alerts"})
    assert sent.headers["location"] == "/portal/sign-in?next=%2Fportal%2Falerts"
    assert "nothing was done" in await customer.follow(sent)


async def test_who_tries_too_often_is_told_by_a_page(stack: PortalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.account.filters.attempts.PacedSubjects.take", lambda *_: False)
    response = await stack.stranger().client.get("/portal/enter?code=guessed")
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert "Too many attempts came from here." in response.text
    assert '<link rel="stylesheet"' in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
