"""The account page and what is done on it: by the API, once, with a reason in the audit log."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from gateway.api.admin import AdminApi
from gateway.clock import now
from gateway.ledger.payments import top_ups
from gateway.ledger.usage import ingestion
from gateway.web.cookies import CookieSigner
from policies.billing.payments import SavedCard
from tests.api.conftest import TOKEN
from tests.ledger.make import a_line
from tests.web.console.operators import PORTAL_URL, Api, Browser
from tests.web.console.test_pages import database_of

HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"


async def test_credits_are_given_once_with_a_reason(root: Browser, api: Api) -> None:
    user = await api.create_user()
    path, once = f"/accounts/{user['id']}", uuid4().hex
    for _ in range(2):
        await root.submit(path, f"{path}/credits", amount="1,250", reason="goodwill", once=once)
    balance = await api.get(f"/users/{user['id']}/credits")
    assert balance["current_credits"] == 1250
    (entry,) = (await api.get("/audit-log", entity_id=user["id"], action="credits.grant"))["data"]
    assert (entry["reason"], entry["actor"]) == ("goodwill", "admin")
    await root.submit(path, f"{path}/credits", amount="-250", reason="by mistake", once=uuid4().hex)
    assert "1,000" in await root.get(path)


async def test_balance_is_shown_as_money_where_credits_are(root: Browser, api: Api) -> None:
    user = await api.create_user(plan=(await api.create_plan(credits_per_period=123_456))["id"])
    assert "credits (1.23 USD), the next on" in await root.get(f"/accounts/{user['id']}")
    assert "123,456 (1.23 USD)</td>" in await root.get("/plans")


async def test_form_that_is_sent_again_with_other_values_is_told_so(root: Browser, api: Api) -> None:
    """By the button that leads back, which shows the form as it was."""
    path, once = f"/accounts/{(await api.create_user())['id']}", uuid4().hex
    await root.submit(path, f"{path}/credits", amount="5", reason="goodwill", once=once)
    again = await root.submit(path, f"{path}/credits", status=422, amount="7", reason="goodwill", once=once)
    assert "This form was sent before with other values" in again.text
    assert "Idempotency-Key" not in again.text
    assert 'value="7"' in again.text


async def test_refused_form_keeps_what_was_typed_and_says_why(root: Browser, api: Api) -> None:
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    answer = await root.submit(path, f"{path}/credits", status=422, amount="many", reason="because")
    assert 'value="many"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert (await api.get(f"/users/{user['id']}/credits"))["current_credits"] == 0


async def test_top_up_shows_what_the_customer_agreed_to_and_why_it_stopped(
    root: Browser, api: Api, admin: AdminApi
) -> None:
    user = await api.create_user()
    path, user_id = f"/accounts/{user['id']}", UUID(user["id"])
    assert "Automatic top-up" not in await root.get(path)
    terms = {"provider": "stripe", "pack_id": "pack-100", "currency": "USD", "threshold": 50}
    limits = {"price": Decimal("9.00"), "daily_limit": Decimal("20.00"), "monthly_limit": Decimal("100.00")}
    async with admin.authenticator._database.transaction() as connection:
        await top_ups.agree(connection, user_id, **terms, **limits)
        await top_ups.record_setup(connection, user_id, checkout_id="cs_1")
        await top_ups.record_card(connection, user_id, SavedCard("pm_1", "cus_1", "cs_1", "visa 4242"))
        await top_ups.stop(connection, user_id, reason="The card was declined.")

    shown = await root.get(path)
    for part in (
        "Automatic top-up",
        "pack-100 for 9.00 USD",
        "visa 4242",
        "0.00 USD of 100.00 USD",
        "The card was declined.",
    ):
        assert part in shown
    found = await api.get(f"/users/{user['id']}/top-up")
    assert (found["status"], found["threshold"], found["stopped_reason"]) == ("stopped", 50, "The card was declined.")


async def test_plan_is_started_and_changed(root: Browser, api: Api) -> None:
    first, second = await api.create_plan(), await api.create_plan()
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    for plan in (first, second):
        await root.submit(path, f"{path}/plan", plan_id=plan["id"], reason="asked", once=uuid4().hex)
        assert (await api.get(f"/users/{user['id']}"))["subscription"]["plan_id"] == plan["id"]
    (entry,) = (await api.get("/audit-log", action="subscriptions.change", limit=1))["data"]
    assert entry["reason"] == "asked"
    (entry,) = (await api.get("/audit-log", action="subscriptions.start", limit=1))["data"]
    assert entry["reason"] == "asked"


async def test_plan_of_the_next_period_is_told_as_such(root: Browser, api: Api) -> None:
    first, second = await api.create_plan(), await api.create_plan()
    path = f"/accounts/{(await api.create_user(plan=first['id']))['id']}"
    fields = {"plan_id": second["id"], "at_period_end": "1", "reason": "asked", "once": uuid4().hex}
    page = await root.follow(await root.submit(path, f"{path}/plan", **fields))
    assert f"The plan {second['id']} begins with the next period." in page
    assert "The plan has changed." not in page


async def test_subscription_is_paused_and_resumed(root: Browser, api: Api) -> None:
    user = await api.create_user(plan=(await api.create_plan())["id"])
    path = f"/accounts/{user['id']}"
    for verb, status in (("pause", "paused"), ("resume", "active")):
        assert f'action="/console{path}/{verb}"' in await root.get(path)
        await root.submit(path, f"{path}/{verb}", reason="holidays")
        found = (await api.get(f"/users/{user['id']}"))["subscription"]
        assert found["status"] == status
    (entry,) = (await api.get("/audit-log", action="subscriptions.resume", limit=1))["data"]
    assert (entry["entity_id"], entry["reason"]) == (found["id"], "holidays")
    await root.submit(path, f"{path}/resume", status=409, reason="again")
    without = await api.create_user()
    await root.submit(f"/accounts/{without['id']}", f"/accounts/{without['id']}/pause", status=409)


async def test_account_is_suspended_and_reactivated(root: Browser, api: Api) -> None:
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/suspend", reason="abuse")
    assert (await api.get(f"/users/{user['id']}"))["status"] == "suspended"
    await root.submit(path, f"{path}/reactivate", reason="settled")
    assert (await api.get(f"/users/{user['id']}"))["status"] == "active"
    reasons = [entry["reason"] for entry in (await api.get("/audit-log", entity_id=user["id"]))["data"]]
    assert reasons[:2] == ["settled", "abuse"]


async def test_note_keeps_the_other_metadata(root: Browser, api: Api) -> None:
    user = await api.create_user(metadata={"crm": 7})
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/note", note="Calls on Mondays.")
    assert (await api.get(f"/users/{user['id']}"))["metadata"] == {"crm": 7, "note": "Calls on Mondays."}
    assert "Calls on Mondays." in await root.get(path)


async def test_rotated_key_is_shown_once(root: Browser, api: Api) -> None:
    user = await api.create_user()
    key = await api.post("/keys", {"user_id": user["id"]})
    path = f"/accounts/{user['id']}"
    rotate = f"{path}/keys/{key['id']}/rotate"
    answer = await root.submit(path, rotate, status=200, grace_seconds="3600", reason="leaked", once=uuid4().hex)
    (shown,) = re.findall(r'<code id="issued-key">([^<]+)</code>', answer.text)
    assert shown.startswith("gw_live_")
    assert shown not in await root.get(path)
    (entry,) = (await api.get("/audit-log", entity_id=key["id"], action="keys.rotate"))["data"]
    assert entry["reason"] == "leaked"


async def test_key_is_revoked_for_good(root: Browser, api: Api) -> None:
    user = await api.create_user()
    key = await api.post("/keys", {"user_id": user["id"]})
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/keys/{key['id']}/revoke", reason="lost")
    assert (await api.get(f"/keys/{key['id']}"))["status"] == "revoked"


@pytest.mark.parametrize("verb", ["rotate", "revoke"])
async def test_key_is_changed_on_the_page_of_its_own_account_only(root: Browser, api: Api, verb: str) -> None:
    user, other = await api.create_user(), await api.create_user()
    key = await api.post("/keys", {"user_id": other["id"]})
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/keys/{key['id']}/{verb}", status=404, reason="lost", once=uuid4().hex)
    await root.submit(path, f"{path}/keys/{uuid4()}/{verb}", status=404, reason="lost", once=uuid4().hex)
    assert await api.get(f"/keys/{key['id']}") == {name: each for name, each in key.items() if name != "key"}


async def test_html_in_every_text_field_is_harmless(root: Browser, api: Api) -> None:
    plan = await api.create_plan(
        name=f"{HTML} {uuid4().hex[:8]}", description=HTML, features={"analysis": True, "label": HTML}
    )
    user = await api.create_user(name=HTML, company=HTML, external_id=f"{HTML}{uuid4().hex}", plan=plan["id"])
    await api.post("/keys", {"user_id": user["id"], "name": HTML})
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/note", note=HTML + "</textarea>" + HTML)
    await root.submit(path, f"{path}/credits", amount="5", reason=HTML, once=uuid4().hex)
    await api.post(
        "/payments", {"user_id": user["id"], "amount": "5.00", "description": HTML, "reference": HTML + uuid4().hex}
    )
    paths = (path, f"{path}/ledger", f"{path}/calls", "/plans", f"/plans/{plan['id']}", "/audit", "/money", "/find")
    for shown in paths:
        page = await root.get(shown)
        assert "<script>alert" not in page, shown
        assert "<img src=x" not in page, shown
    for query in ("/find", "/usage", "/audit"):
        page = await root.get(query, q=HTML, endpoint=HTML, model=HTML, actor=HTML, entity_id=HTML)
        assert "<script>alert" not in page, query


async def test_operator_signs_in_as_the_customer_for_a_reason(root: Browser, api: Api) -> None:
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/sign-in-as", status=422)
    answer = await root.submit(path, f"{path}/sign-in-as", status=200, reason="cannot find an invoice")
    assert f'href="{PORTAL_URL}/portal/enter?code=' in answer.text
    (entry,) = (await api.get("/audit-log", entity_id=user["id"], action="portal.hand_over"))["data"]
    assert (entry["reason"], entry["actor"]) == ("cannot find an invoice", "admin")


async def test_forms_of_an_account_have_fields_of_their_own(root: Browser, api: Api) -> None:
    user = await api.create_user(plan=(await api.create_plan())["id"])
    ids = re.findall(r' id="([^"]+)"', await root.get(f"/accounts/{user['id']}"))
    assert sorted(ids) == sorted(set(ids))


async def test_refused_change_of_plan_keeps_the_chosen_plan(root: Browser, api: Api) -> None:
    first, second = await api.create_plan(), await api.create_plan()
    path = f"/accounts/{(await api.create_user(plan=first['id']))['id']}"
    answer = await root.submit(path, f"{path}/plan", status=422, plan_id=second["id"], reason="x" * 201)
    assert f'<option value="{second["id"]}" selected>' in answer.text
    assert f'<option value="{first["id"]}" selected>' not in answer.text


async def test_note_that_changed_meanwhile_is_shown_before_it_is_replaced(root: Browser, api: Api) -> None:
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    await root.submit(path, f"{path}/note", note="Calls on Mondays.", was="")
    answer = await root.submit(path, f"{path}/note", status=409, note="Pays late.", was="")
    assert "It says now: Calls on Mondays." in answer.text
    assert "Pays late.</textarea>" in answer.text
    await root.submit(path, f"{path}/note", note="Pays late.", was="Calls on Mondays.")
    assert (await api.get(f"/users/{user['id']}"))["metadata"]["note"] == "Pays late."


async def test_key_that_asks_for_the_token_again_is_open_with_its_reason(stranger: Browser, api: Api) -> None:
    claims = {"sid": "s", "tid": "root", "proven": int(now().timestamp()) - 3600}
    signed = CookieSigner(TOKEN).sign("console:session", claims, lifetime=timedelta(minutes=5))
    stranger.client.cookies.set("__Host-console_session", signed, domain="console.local")
    user = await api.create_user()
    key, other = [await api.post("/keys", {"user_id": user["id"]}) for _ in range(2)]
    path = f"/accounts/{user['id']}"
    revoke = f"{path}/keys/{key['id']}/revoke"
    answer = await stranger.submit(path, revoke, status=422, reason="lost")
    assert f'<details id="key-{key["id"]}" open>' in answer.text
    assert f'<details id="key-{other["id"]}">' in answer.text
    assert answer.text.count('id="f-token"') == 1
    assert f'id="v-{key["id"]}" name="reason" required value="lost"' in answer.text
    await stranger.submit(path, revoke, reason="lost", token=TOKEN)


async def test_chart_of_an_account_has_days_without_calls(root: Browser, api: Api, admin: AdminApi) -> None:
    user = await api.create_user()
    async with database_of(admin).transaction() as connection:
        lines = [a_line(UUID(user["id"]), at=now() - timedelta(days=ago), credits_charged=7) for ago in (20, 2)]
        await ingestion.ingest(connection, lines)
    page = await root.get(f"/accounts/{user['id']}")
    between = now() - timedelta(days=11)
    assert f'<th scope="row">{between:%d.%m.}</th><td class="num">0</td>' in page


async def test_every_key_of_an_account_can_be_reached_and_revoked(root: Browser, api: Api) -> None:
    user = await api.create_user()
    oldest = await api.post("/keys", {"user_id": user["id"], "name": "oldest"})
    for _ in range(9):
        made = await api.post("/keys", {"user_id": user["id"], "name": "test call"})
        await api.post(f"/keys/{made['id']}/revoke")
    path = f"/accounts/{user['id']}"
    page = await root.get(path)
    assert f'href="/console{path}/keys"' in page
    assert f"{oldest['id']}/revoke" not in page
    assert f"{oldest['id']}/revoke" in await root.get(f"{path}/keys")
    found = await root.follow(await root.client.get("/console/find", params={"q": oldest["id"]}))
    assert f"{oldest['id']}/revoke" in found

    rotate = f"{path}/keys/{oldest['id']}/rotate"
    refused = await root.submit(path, rotate, status=422, reason="x" * 201, grace_seconds="0")
    assert f"{oldest['id']}/rotate" in refused.text
    assert '<option value="0" selected>' in refused.text
    await root.submit(path, f"{path}/keys/{oldest['id']}/revoke", reason="leaked")
    assert (await api.get(f"/keys/{oldest['id']}"))["status"] == "revoked"


async def test_nothing_is_done_to_an_account_without_a_reason(root: Browser, api: Api) -> None:
    user = await api.create_user(plan=(await api.create_plan())["id"])
    key = await api.post("/keys", {"user_id": user["id"]})
    path, plan_id = f"/accounts/{user['id']}", (await api.create_plan())["id"]
    before = await api.get("/audit-log", limit=1)
    for action in ("credits", "plan", "suspend", "pause", "sign-in-as", f"keys/{key['id']}/rotate"):
        for reason in (None, " "):
            answer = await root.submit(
                path, f"{path}/{action}", status=422, reason=reason, plan_id=plan_id, amount="5", grace_seconds="3600"
            )
            assert "Required." in answer.text, action
    await root.submit(path, f"{path}/keys/{key['id']}/revoke", status=422, reason=" ")
    assert await api.get("/audit-log", limit=1) == before


async def test_plan_that_is_not_sold_any_more_is_chosen_for_who_has_it(root: Browser, api: Api) -> None:
    plan = await api.create_plan()
    user = await api.create_user(plan=plan["id"])
    await api.call("PATCH", f"/plans/{plan['id']}", {"is_active": False})
    page = await root.get(f"/accounts/{user['id']}")
    assert re.findall(r'<option value="([^"]+)" selected>[^<]+ USD', page) == [plan["id"]]


async def test_no_next_credits_are_promised_to_who_leaves(root: Browser, api: Api) -> None:
    user = await api.create_user(plan=(await api.create_plan())["id"])
    subscription, path = (await api.get(f"/users/{user['id']}"))["subscription"], f"/accounts/{user['id']}"
    assert "the next on" in await root.get(path)
    await api.post(f"/subscriptions/{subscription['id']}/cancel", {"at_period_end": True})
    assert "the next on" not in await root.get(path)
