"""The pages of a customer show what the account API tells, and do what it does."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from gateway.clock import now
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.usage import ingestion, refusals
from gateway.ledger.usage.refusals import RefusedIn
from gateway.web.portal import first_call
from policies.model import KeyStatus
from tests.ledger.make import a_fingerprint, a_key, a_line
from tests.web.portal.visitors import PASSWORD, PortalStack, Visitor, build_stack, form_token

NOON = datetime.combine(now().date(), datetime.min.time(), UTC) - timedelta(days=1) + timedelta(hours=12)
PAGES = (
    "",
    "/keys",
    "/keys/new",
    "/usage",
    "/refusals",
    "/alerts",
    "/plan",
    "/top-up",
    "/billing",
    "/first-call",
    "/account",
    "/account/delete",
    "/credits",
)
HTML = "<b onmouseover=alert(1)>'\"&{{7*7}}"


@pytest.fixture
async def ada(stack: PortalStack) -> Visitor:
    """Somebody with credits, a key, three calls and two refused ones."""
    customer = await stack.customer(name="Ada")
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        await grants.grant(connection, customer.user_id, amount=5000, source="promo", reason="hello", actor="test")
        key = await a_key(connection, customer.user_id)
        more: dict[str, Any] = {"api_key_id": str(key.id), "at": NOON}
        lines = [
            a_line(customer.user_id, credits_charged=1, model="demo-1", **more),
            a_line(customer.user_id, endpoint="generate", credits_charged=6, product_count=3, **more),
            a_line(customer.user_id, credits_charged=0, outcome="upstream_error", status_code=502, **more),
        ]
        await ingestion.ingest(connection, lines)
        minute = NOON.replace(second=0, microsecond=0)
        await refusals.add(connection, {RefusedIn(key.id, "generate", "insufficient_credits", minute): 2})
    return customer


async def test_pages_are_for_those_who_signed_in(stack: PortalStack) -> None:
    visitor = stack.stranger()
    for path in PAGES:
        response = await visitor.client.get(f"/portal{path}")
        assert response.status_code == 303, path
        assert response.headers["location"].startswith("/portal/sign-in")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/keys", "GET, HEAD"), ("/keys/new", "GET, HEAD, POST"), ("/sign-out", "POST"), ("/sign-in", "GET, HEAD, POST")],
)
async def test_method_that_a_page_lacks_is_refused_with_those_that_it_has(
    stack: PortalStack, path: str, allowed: str
) -> None:
    response = await stack.stranger().client.request("DELETE", f"/portal{path}")
    assert response.status_code == 405
    assert response.headers["allow"] == allowed


async def test_home_shows_what_is_left_what_it_was_used_for_and_what_was_refused(ada: Visitor) -> None:
    text = await ada.get("")
    assert "4.99 <small>USD" in text, "as money, where credits are shown as money"
    assert "4,993 credits" in text
    assert "3 calls, 7 credits" in text
    assert "Insufficient credits" in text
    assert '<td data-label="Calls" class="num">2</td>' in text
    assert "1 <small>credit</small>" in text, "what the next call costs"


async def test_a_key_is_made_shown_once_changed_replaced_and_revoked(stack: PortalStack) -> None:
    customer = await stack.customer()
    made = await customer.submit(
        "/keys/new", status=201, name="production", credit_cap="1,000", allowed_ips="10.0.0.0/8\n::1"
    )
    secret = re.search(r'id="secret">(gw_live_\w+)<', made.text)
    assert secret is not None
    listed = await customer.get("/keys")
    assert secret[1] not in listed
    assert "1,000" in listed
    assert "10.0.0.0/8, ::1/128" in listed
    (key,) = await keys_of(stack, customer)

    await customer.submit(f"/keys/{key.id}", name="renamed", credit_cap="5", is_disabled="1")
    (key,) = await keys_of(stack, customer)
    assert (key.name, key.credit_cap, str(key.status), key.allowed_ips) == ("renamed", 5, "disabled", ())
    await customer.submit(f"/keys/{key.id}", name="renamed")

    replaced = await customer.submit(f"/keys/{key.id}/rotate", status=201, grace_seconds="3600")
    assert re.search(r'id="secret">gw_live_\w+<', replaced.text)
    await customer.submit(f"/keys/{key.id}/revoke")
    assert {str(each.status) for each in await keys_of(stack, customer)} == {"active", "revoked"}
    assert await audited(stack, key.id) == ["keys.create", "keys.change", "keys.change", "keys.rotate", "keys.revoke"]


async def test_errors_of_the_api_stand_at_their_fields(stack: PortalStack) -> None:
    customer = await stack.customer()
    fields: dict[str, Any] = {
        "name": "mine",
        "credit_cap": "many",
        "allowed_ips": "nowhere",
        "expires_on": "2020-01-01",
    }
    response = await customer.submit("/keys/new", status=422, **fields)
    for name in ("credit_cap", "allowed_ips", "expires_on"):
        assert f'href="#f-{name}"' in response.text, name
        assert f'id="e-{name}"' in response.text, name
    assert 'value="many"' in response.text
    assert await keys_of(stack, customer) == []


async def test_what_cannot_be_undone_takes_the_password_after_a_while(stack: PortalStack) -> None:
    customer = await stack.customer(proven_seconds_ago=3600)
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        key = await a_key(connection, customer.user_id)
    page = f"/keys/{key.id}/revoke"
    assert "password" in await customer.get(page)
    for sent in (None, "wrong"):
        response = await customer.submit(page, status=422, password=sent)
        assert 'id="e-password"' in response.text
    assert [str(each.status) for each in await keys_of(stack, customer)] == ["active"]
    await customer.submit(page, password=PASSWORD)
    assert [str(each.status) for each in await keys_of(stack, customer)] == ["revoked"]
    assert 'name="password"' not in await customer.get(page), "it was given just now"


async def test_usage_is_filtered_by_the_address_and_downloaded(ada: Visitor) -> None:
    text = await ada.get("/usage")
    assert text.count('<td data-label="Time">') == 3
    assert "2 credits per item x 3 items" in text
    cases: list[tuple[dict[str, Any], int]] = [
        ({"endpoint": "generate"}, 1),
        ({"model": "demo-1"}, 1),
        ({"outcome": "upstream_error"}, 1),
        ({"from": str(NOON.date()), "to": str(NOON.date())}, 3),
        ({"to": str(NOON.date() - timedelta(days=1))}, 0),
        ({"api_key_id": str(uuid4())}, 0),
    ]
    for filters, calls in cases:
        for by in ("day", "key", "route", "model"):
            shown = await ada.get("/usage", by=by, **filters)
            assert shown.count('<td data-label="Time">') == calls, (filters, by)
        rows = list(csv.DictReader(io.StringIO(await ada.get("/usage.csv", **filters))))
        assert len(rows) == calls


async def test_filters_that_mean_nothing_are_told(ada: Visitor) -> None:
    unread: list[dict[str, Any]] = [{"from": "yesterday"}, {"outcome": "nice"}, {"api_key_id": "1"}, {"cursor": "x"}]
    for filters in unread:
        (name,) = filters
        page = await ada.get("/usage", status=422, **filters)
        assert f'href="#f-{name}"' in page
        assert name == "cursor" or f'id="f-{name}"' in page
        await ada.get("/usage.csv", status=422, **filters)
    for path in ("/keys", "/billing/invoices", "/billing/payments", "/credits"):
        await ada.get(path, status=422, cursor="x")


async def test_filter_by_what_is_not_on_its_list_stays_chosen(ada: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    (key_id,) = re.findall(r'<option value="([0-9a-f-]{36})"', await ada.get("/usage"))
    chosen = f'<option value="{key_id}" selected>'
    assert chosen in await ada.get("/usage", api_key_id=key_id)

    async def name_none(_: object) -> dict[UUID, str]:
        return {}

    monkeypatch.setattr("gateway.web.portal.usage._key_names", name_none)
    page = await ada.get("/usage", api_key_id=key_id)
    assert page.count(chosen) == 1
    assert "No calls" not in page
    assert "<option selected>removed</option>" in await ada.get("/usage", endpoint="removed")


async def test_part_that_filters_replace_tells_why_they_are_refused(ada: Visitor) -> None:
    page = await ada.get("/usage", status=422, **{"from": "2026-02-01", "to": "2026-01-01"})
    part = page.partition('<div id="usage">')[2]
    assert 'role="alert"' in part
    assert "No calls" not in part


async def test_a_free_plan_is_begun_and_ended(stack: PortalStack) -> None:
    customer = await stack.customer(email_verified_at=now())
    async with stack.account.database.transaction() as connection:
        plan = await plans.create(
            connection, PlanTerms(name=f"free {uuid4().hex}", price=Decimal(0), credits_per_period=10)
        )
    begun = await customer.submit("/plan", "/plan/subscribe", plan_id=plan.id)
    assert f"You are on the plan {plan.id}" in await customer.follow(begun)
    for page in ("", "/plan"):
        assert "Next credits" in await customer.get(page)
    await customer.submit("/plan/end", when="period_end")
    assert "Ends with the period" in await customer.get("/plan")
    for page in ("", "/plan"):
        assert "Next credits" not in await customer.get(page), "none follow"
    await customer.submit("/plan", "/plan/undo-end")
    await customer.submit("/plan/end", when="now")
    for page in ("", "/plan"):
        assert "Next credits" not in await customer.get(page)
    assert "Cancelled" in await customer.get("/plan") or "Canceled" in await customer.get("/plan")
    movements = await customer.get("/credits.csv")
    assert ",10," in movements


async def test_what_nobody_can_be_paid_for_is_told(stack: PortalStack) -> None:
    customer = await stack.customer()
    async with stack.account.database.transaction() as connection:
        plan = await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(5), credits_per_period=10))
    response = await customer.submit("/plan", "/plan/subscribe", status=501, plan_id=plan.id)
    assert 'role="alert"' in response.text


async def test_profile_password_sessions_and_end_of_an_account(stack: PortalStack) -> None:
    customer = await stack.customer()
    sent: dict[str, Any] = {"name": "Ada", "company": "Engines", "time_zone": "Europe/Berlin", "email": customer.email}
    await customer.submit("/account", **sent)
    text = await customer.get("/account")
    assert 'value="Engines"' in text
    wrong = await customer.submit("/account", status=422, **{**sent, "time_zone": "Mars", "company": "Kept"})
    assert 'value="Kept"' in wrong.text

    other = stack.stranger()
    await other.submit("/sign-in", email=customer.email, password=PASSWORD)
    session_id = re.findall(r"/account/sessions/([\w-]+)/end", await customer.get("/account"))
    await customer.submit("/account", f"/account/sessions/{session_id[0]}/end")
    assert (await other.client.get("/portal")).status_code == 303

    await customer.submit("/account", "/account/password", status=422, current_password="x", new_password=PASSWORD)
    await customer.submit("/account/delete", status=422, password="wrong")
    deleted = await customer.submit("/account/delete", password=PASSWORD)
    assert "Your account is deleted" in await customer.follow(deleted)


async def test_a_test_call_shows_the_real_response_and_leaves_no_key(
    stack: PortalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse_to_wait(*_: object) -> None:
        pytest.fail("a call that was refused by its key has no receipt to wait for")

    monkeypatch.setattr(first_call, "_receipt", refuse_to_wait)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(
            402, json={"code": "insufficient_credits"}, headers={"x-test": "<i>", "x-request-id": "r"}
        )

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://public.test") as client:
        customer = await build_stack(stack.account, client).customer()
        text = (await customer.submit("/first-call", status=200, route="generate", body='{"products": ["x"]}')).text
    (request,) = seen
    assert (request.method, request.url.path, request.content) == ("POST", "/v1/generate", b'{"products": ["x"]}')
    assert request.headers["authorization"].startswith("Bearer gw_live_")
    assert "insufficient_credits" in text
    assert "x-test: &lt;i&gt;" in text
    assert [(each.name, str(each.status)) for each in await keys_of(stack, customer)] == [("test call", "revoked")]
    assert "test call" not in await customer.get("/keys")
    assert "test call" in await customer.get("/keys", revoked="1")


async def test_examples_have_the_address_of_the_customer(stack: PortalStack) -> None:
    text = await (await stack.customer()).get("/first-call", route="generate")
    assert "curl https://gateway.test/v1/generate" in text
    assert "&#39;{&#34;products&#34;: [&#34;example&#34;]}&#39;" in text


async def test_html_in_text_fields_is_text(stack: PortalStack) -> None:
    customer = await stack.customer(name=HTML, company=HTML)
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        key = await api_keys.create(connection, customer.user_id, fingerprint=a_fingerprint(), name=HTML)
        line = a_line(customer.user_id, at=NOON, endpoint=HTML, path=f"/{HTML}", model=HTML, api_key_id=str(key.id))
        await ingestion.ingest(connection, [line])
        await grants.grant(connection, customer.user_id, amount=5, source="promo", reason=HTML, actor="test")
        await plans.create(connection, PlanTerms(name=HTML + uuid4().hex, price=Decimal(5), credits_per_period=1))
    for path in (
        *PAGES,
        f"/keys/{key.id}",
        f"/keys/{key.id}/rotate",
        f"/keys/{key.id}/revoke",
        "/usage?by=model",
        "/usage?by=key",
    ):
        text = await customer.get(path)
        assert "<b on" not in text, path
        assert ("7*7" in text) == ("{{7*7}}" in text), path
    assert "<b on" not in (await customer.submit("/keys/new", status=422, name=HTML * 20)).text


async def keys_of(stack: PortalStack, visitor: Visitor) -> list[api_keys.ApiKey]:
    async with stack.account.database.read() as connection:
        return list((await api_keys.list_keys(connection, user_id=visitor.user_id, cursor=None, limit=50)).data)


async def audited(stack: PortalStack, entity_id: UUID) -> list[str]:
    """What was noted of a thing, oldest first."""
    async with stack.account.database.read() as connection:
        page = await audit_log.list_entries(connection, AuditFilter(entity="key", entity_id=entity_id))
    return [entry.action for entry in reversed(page.data)]


async def test_another_customer_finds_and_changes_nothing(stack: PortalStack, ada: Visitor) -> None:
    bob = await stack.customer()
    (key,) = await keys_of(stack, ada)
    await bob.get("")
    token = form_token(await bob.get("/keys/new"))
    paths = [f"/keys/{key.id}{each}" for each in ("", "/rotate", "/revoke")] + [f"/billing/invoices/{key.id}"]
    for path in paths:
        await bob.get(path, status=404)
        response = await bob.client.post(f"/portal{path}", data={"form_token": token, "name": "mine"})
        assert response.status_code in (404, 405), path
    assert (
        await bob.client.post(f"/portal/account/sessions/{key.id}/end", data={"form_token": token})
    ).status_code == 404
    for path in ("/keys/1", "/keys/new/x", f"/paid?checkout={key.id}"):
        await bob.get(path, status=404)
    for path in PAGES:
        text = await bob.get(path)
        assert str(key.id) not in text
        assert "demo-1" not in text
    assert str(key.id) not in await bob.get("/usage.csv")
    assert [str(each.status) for each in await keys_of(stack, ada)] == ["active"]


async def test_a_suspended_customer_is_told_and_sees_nothing(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        await users.suspend(connection, customer.user_id)
    for path in PAGES:
        assert "suspended" in await customer.get(path, status=403)


async def test_editing_a_key_leaves_what_was_not_edited(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    ended = now() - timedelta(seconds=1)
    async with stack.account.database.transaction() as connection:
        key = await api_keys.create(
            connection, customer.user_id, fingerprint=a_fingerprint(), permissions=[], expires_at=ended
        )
        await api_keys.patch(connection, key.id, status=KeyStatus.DISABLED)
    await customer.submit(f"/keys/{key.id}", name="renamed", expires_on=str(ended.date()))
    (after,) = await keys_of(stack, customer)
    found = (after.name, after.permissions, after.expires_at, after.status)
    assert found == ("renamed", (), ended, KeyStatus.DISABLED)


async def test_usage_by_day_has_each_day_of_a_long_span(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    days = [NOON - timedelta(days=ago) for ago in range(150)]
    async with stack.account.database.transaction() as connection:
        await ingestion.ingest(connection, [a_line(customer.user_id, at=day) for day in days])
    page = await customer.get(f"/usage?from={days[-1]:%Y-%m-%d}")
    shown = re.findall(r'<th scope="row" class="short">([^<]+)</th>', page)
    assert shown == [f"{day:%-d %b}" for day in days]


async def test_part_that_filters_replace_has_the_download_and_the_grouping(ada: Visitor) -> None:
    part = (await ada.get("/usage", by="model", endpoint="generate")).partition('<div id="usage">')[2]
    assert 'href="/portal/usage.csv?endpoint=generate"' in part
    assert '<input type="hidden" name="by" value="model" form="filters">' in part


async def test_editing_a_key_leaves_what_another_has_changed_meanwhile(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        key = await api_keys.create(connection, customer.user_id, fingerprint=a_fingerprint(), name="old")
    was = dict(re.findall(r'name="(was_\w+)" value="([^"]*)"', await customer.get(f"/keys/{key.id}")))
    async with stack.account.database.transaction() as connection:
        await api_keys.patch(connection, key.id, allowed_ips=["203.0.113.0/24"], credit_cap=5)
    await customer.submit(f"/keys/{key.id}", name="renamed", **was)
    (after,) = await keys_of(stack, customer)
    assert (after.name, after.allowed_ips, after.credit_cap) == ("renamed", ("203.0.113.0/24",), 5)


async def test_end_of_a_plan_stays_as_it_was_chosen_and_its_change_names_the_interval(stack: PortalStack) -> None:
    customer = await stack.customer(email_verified_at=now(), proven_seconds_ago=3600)
    async with stack.account.database.transaction() as connection:
        free = await plans.create(connection, PlanTerms(name=f"free {uuid4().hex}", price=Decimal(0)))
        terms = PlanTerms(name=f"quarter {uuid4().hex}", price=Decimal(30), billing_interval_count=3)
        quarter = await plans.create(connection, terms)
    await customer.submit("/plan", "/plan/subscribe", plan_id=free.id)
    assert "30.00 USD per 3 months" in await customer.get("/plan/change", plan=quarter.id)
    answer = await customer.submit("/plan/end", status=422, when="now", password="wrong")
    assert 'value="now" checked' in answer.text
    assert 'value="period_end" checked' not in answer.text


async def _free_plan(stack: PortalStack, **terms: Any) -> str:
    async with stack.account.database.transaction() as connection:
        return (await plans.create(connection, PlanTerms(name=f"free {uuid4().hex}", price=Decimal(0), **terms))).id


async def test_plan_that_nobody_bills_changes_to_a_free_one_with_its_period(stack: PortalStack) -> None:
    customer = await stack.customer(email_verified_at=now())
    first, second = await _free_plan(stack), await _free_plan(stack, pricing_model="per_seat")
    await customer.submit("/plan", "/plan/subscribe", plan_id=first)
    offered = await customer.get("/plan")
    change = f"/plan/change?plan={second}"
    assert f'href="/portal{change}"' in offered
    assert f'name="plan_id" value="{second}"' not in offered
    form = await customer.get(change)
    assert "It begins with the next period" in form
    assert 'value="now"' not in form
    assert 'name="quantity"' not in form
    changed = await customer.submit(change, "/plan/change", plan_id=second, when="period_end")
    assert f"The plan {second} begins with the next period." in await customer.follow(changed)
    assert "You keep your plan." in await customer.follow(await customer.submit("/plan", "/plan/undo-change"))


async def test_paused_subscription_can_be_ended(stack: PortalStack) -> None:
    customer = await stack.customer(email_verified_at=now())
    assert customer.user_id is not None
    plan_id = await _free_plan(stack)
    await customer.submit("/plan", "/plan/subscribe", plan_id=plan_id)
    async with stack.account.database.transaction() as connection:
        current = await subscriptions.get_current(connection, customer.user_id)
        assert current is not None
        await lifecycle.pause(connection, current.id)
    offered = await customer.get("/plan")
    assert 'href="/portal/plan/end"' in offered
    assert f'name="plan_id" value="{plan_id}"' not in offered, "it is the customer's own"
    await customer.submit("/plan/end", when="now")
    assert 'href="/portal/plan/end"' not in await customer.get("/plan")


async def test_number_of_seats_that_the_api_refuses_buys_none(stack: PortalStack) -> None:
    customer = await stack.customer(email_verified_at=now())
    plan_id = await _free_plan(stack, pricing_model="per_seat")
    refused = await customer.submit("/plan", "/plan/subscribe", status=422, plan_id=plan_id, quantity="0")
    assert "Must be 1 or greater." in refused.text
    assert "You have no plan yet." in await customer.get("/plan")
    await customer.submit("/plan", "/plan/subscribe", plan_id=plan_id, quantity="")


async def test_home_says_how_long_a_trial_goes_on(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    plan_id = await _free_plan(stack)
    async with stack.account.database.transaction() as connection:
        await lifecycle.start_trial(
            connection, customer.user_id, plan_id=plan_id, days=14, now=now() + timedelta(hours=1), actor="test"
        )
    assert re.search(r"1[34] days left of the trial", await customer.get(""))
