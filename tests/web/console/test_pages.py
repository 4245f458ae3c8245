"""The other pages: what they find, compare, replay and tell."""

from __future__ import annotations

import asyncio
import gzip
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx

from gateway.api.admin import AdminApi
from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.db.session import Database
from gateway.ledger.importing import imports
from gateway.ledger.payments import payments, webhook_events
from gateway.ledger.usage import ingestion
from gateway.web.console.app import round_money
from gateway.web.console.today import warnings_of
from gateway.web.formats import NOTHING
from tests.ledger.make import a_line
from tests.web.console.operators import Api, Browser


def database_of(admin: AdminApi) -> Database:
    return admin.authenticator._database


async def test_find_leads_to_the_only_hit(root: Browser, api: Api) -> None:
    word = f"f{uuid4().hex[:10]}"
    user = await api.create_user(name=word)
    found = await root.client.get("/console/find", params={"q": word})
    assert found.headers["location"] == f"/console/accounts/{user['id']}"
    await api.create_user(name=word)
    page = await root.get("/find", q=word)
    assert page.count("/console/accounts/") == 2


async def test_find_leads_to_the_record_itself_however_many_are_newer(root: Browser, api: Api, admin: AdminApi) -> None:
    event_ids = [f"evt_{uuid4().hex}" for _ in range(40)]
    async with database_of(admin).transaction() as connection:
        for event_id in event_ids:
            await webhook_events.record(
                connection, "stripe", provider_event_id=event_id, event_type="x", payload={}, occurred_at=None
            )
    event = await root.follow(await root.client.get("/console/find", params={"q": event_ids[0]}))
    assert event_ids[0] in event
    assert event_ids[1] not in event

    user = await api.create_user(plan=(await api.create_plan())["id"])
    subscription = (await api.get(f"/users/{user['id']}"))["subscription"]
    invoice = await api.post("/invoices", {"subscription_id": subscription["id"]})
    listed = await root.follow(await root.client.get("/console/find", params={"q": invoice["id"]}))
    assert invoice["full_number"] in listed
    assert listed.count("<tr>") == 2, "its heading and the one"


async def test_find_leads_to_the_payment_of_an_account_that_is_deleted(root: Browser, api: Api) -> None:
    user = await api.create_user()
    payment = await api.post("/payments", {"user_id": user["id"], "amount": "5.00"})
    await api.call("DELETE", f"/users/{user['id']}")
    page = await root.follow(await root.client.get("/console/find", params={"q": payment["id"]}))
    assert "of 5.00 USD</h1>" in page


async def test_call_is_shown_with_its_receipt(root: Browser, api: Api, admin: AdminApi) -> None:
    user = await api.create_user()
    async with database_of(admin).transaction() as connection:
        await ingestion.ingest(connection, [a_line(UUID(user["id"]), at=now())])
    (call,) = (await api.get("/usage", user_id=user["id"]))["data"]
    page = await root.get(f"/calls/{call['request_id']}")
    assert "1 credit per call" in page
    assert call["request_id"] in await root.get(f"/accounts/{user['id']}/calls")
    await root.get(f"/calls/{uuid4()}", status=404)
    await root.get("/calls/none", status=404)


async def test_usage_is_split_filtered_and_kept_in_the_address(root: Browser, api: Api, admin: AdminApi) -> None:
    user = await api.create_user()
    lines = [
        a_line(UUID(user["id"]), at=now(), endpoint="chat", model=model, credits_charged=credits)
        for model, credits in (("small", 2), ("small", 3), ("large", 40))
    ]
    async with database_of(admin).transaction() as connection:
        await ingestion.ingest(connection, lines)
    page = await root.get("/usage", split="model", user_id=user["id"], days="7")
    assert page.index(">large</a>") < page.index(">small</a>")  # by credits
    assert f"user_id={user['id']}" in page
    assert ">small</a>" in await root.get("/usage", split="model", user_id=user["id"], model="small")
    assert "No call matches." in await root.get("/usage", split="model", user_id=user["id"], model="other")
    for split in ("plan", "outcome", "day", "endpoint", "nonsense"):
        await root.get("/usage", split=split, days="366", measure="requests")
    for split in ("user", "key"):
        assert "3</td>" in await root.get("/usage", split=split, user_id=user["id"], measure="requests")
    assert "Keys are shown of one account" in await root.get("/usage", split="key")


async def test_chart_of_a_long_span_has_each_call_once(root: Browser, api: Api, admin: AdminApi) -> None:
    user, plan = UUID((await api.create_user())["id"]), f"plan-{uuid4().hex}"
    first = now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=89)
    charged = {
        first: 101,
        first + timedelta(days=31) - timedelta(microseconds=1): 102,
        first + timedelta(days=31): 103,
        first + timedelta(days=62): 104,
        now() - timedelta(minutes=1): 105,
    }
    async with database_of(admin).transaction() as connection:
        lines = [a_line(user, at=at, plan_id=plan, credits_charged=credits) for at, credits in charged.items()]
        await ingestion.ingest(connection, lines)
    page = await root.get("/usage", split="plan", plan_id=plan, days="90")
    rows = re.findall(r'<th scope="row">(\d\d\.\d\d)\.</th><td class="num">(1\d\d)</td>', page)
    assert rows == [(f"{at:%d.%m}", str(credits)) for at, credits in charged.items()]


async def test_accounts_that_were_charged_most_are_listed_by_month(root: Browser, api: Api, admin: AdminApi) -> None:
    much, little = [await api.create_user() for _ in range(2)]
    charged = {much["id"]: 10**9, little["id"]: 10**9 - 7}
    async with database_of(admin).transaction() as connection:
        lines = [a_line(UUID(user), at=now(), credits_charged=credits) for user, credits in charged.items()]
        await ingestion.ingest(connection, lines)
    led = await root.client.get("/console/usage", params={"split": "user", "days": "30"})
    assert led.headers["location"] == "/console/usage/accounts"
    page = await root.get("/usage/accounts")
    assert page.index(much["email"]) < page.index(little["email"])
    assert "999,999,993" in page
    assert f'href="/console/usage?user_id={much["id"]}"' in page
    assert much["email"] in await root.get("/usage/accounts", month="nonsense")


async def test_plan_is_saved_after_its_difference_was_shown(root: Browser, api: Api) -> None:
    plan = await api.create_plan(features={"analysis": True})
    path = f"/plans/{plan['id']}"
    fields = {"name": plan["name"], "price": "12.50", "credits_per_period": "90", "trial_period_days": "0"}
    fields |= {"sort_order": str(plan["sort_order"]), "is_active": "1", "features": "analysis: true\nseats: 3"}
    shown = (await root.submit(path, status=200, **fields)).text
    assert "What would change" in shown
    assert "<del>9.90</del>" in shown
    assert "<ins>12.50</ins>" in shown
    assert '<th scope="row">Features: Seats</th>' in shown
    assert "Features: Analysis" not in shown
    assert (await api.get(path))["price"] == "9.90"
    await root.submit(path, **fields, confirmed=await root.confirmation(path, **fields))
    saved = await api.get(path)
    assert (saved["price"], saved["credits_per_period"]) == ("12.50", 90)
    assert saved["features"] == {"analysis": True, "seats": 3}


async def test_prices_of_a_plan_are_changed_for_whom_the_operator_says(root: Browser, api: Api) -> None:
    tiers = [{"up_to": 1000, "unit_price": "0.02"}, {"unit_price": "0.01", "flat_price": "3"}]
    plan = await api.create_plan(
        price="0", pricing_model="usage", tiers=tiers, credits_per_period=0, overage={"credits": 500}
    )
    path = f"/plans/{plan['id']}"
    shown = await root.get(path)
    assert "1000: 0.02\n*: 0.01 3</textarea>" in shown
    fields = {"name": plan["name"], "price": "0", "is_active": "1", "overage_credits": "900"}
    wrong = await root.submit(path, status=422, **fields, tiers="1000 0.02")
    assert 'id="e-tiers"' in wrong.text
    asked = await root.submit(path, status=200, **fields, tiers="1,000: 0.03\n*: 0.01 3")
    assert "For new subscribers only" in asked.text
    fields["tiers"] = "1,000: 0.03\n*: 0.01 3"
    await root.submit(path, **fields, confirmed=await root.confirmation(path, **fields), subscribers="keep")
    saved = await api.get(path)
    assert [tier["unit_price"] for tier in saved["tiers"]] == ["0.03", "0.01"]
    assert saved["overage"]["credits"] == 900
    (entry,) = (await api.get("/audit-log", entity_id=plan["id"], action="plans.change", limit=1))["data"]
    assert entry["actor"] == "admin"


async def test_plan_that_changed_meanwhile_is_shown_again(root: Browser, api: Api) -> None:
    plan = await api.create_plan()
    path = f"/plans/{plan['id']}"
    fields = {
        "name": plan["name"],
        "price": "1.00",
        "credits_per_period": "70",
        "is_active": "1",
        "trial_period_days": "0",
    }
    confirmed = await root.confirmation(path, **fields)
    await api.call("PATCH", path, {"credits_per_period": 71})
    answer = await root.submit(path, status=200, **fields, sort_order="0", confirmed=confirmed)
    assert "What would change" in answer.text
    assert (await api.get(path))["price"] == "9.90"


async def test_plan_form_that_is_edited_after_its_difference_shows_the_new_one(root: Browser, api: Api) -> None:
    plan = await api.create_plan()
    path = f"/plans/{plan['id']}"
    fields = {"name": plan["name"], "price": "12.50", "credits_per_period": "70", "is_active": "1"}
    confirmed = await root.confirmation(path, **fields)
    answer = await root.submit(path, status=200, **fields | {"price": "1.25"}, confirmed=confirmed)
    assert "<ins>1.25</ins>" in answer.text
    assert (await api.get(path))["price"] == "9.90"


async def test_permissions_of_a_plan_are_chosen_after_a_look_at_the_difference(root: Browser, api: Api) -> None:
    first, second = f"p{uuid4().hex[:8]}", f"p{uuid4().hex[:8]}"
    for name in (first, second):
        await root.submit("/plans", "/permissions", name=name, description="To test it", once=uuid4().hex)
    plan = await api.create_plan(permissions=[first])
    path = f"/plans/{plan['id']}"
    assert f'value="{first}" checked' in await root.get(path)
    fields = {
        "name": plan["name"],
        "price": "9.90",
        "credits_per_period": "70",
        "permissions": second,
        "is_active": "1",
    }
    asked = await root.submit(path, status=200, **fields)
    assert f"<del>{first}</del>" in asked.text
    assert (await api.get(path))["permissions"] == [first]
    await root.submit(path, confirmed=await root.confirmation(path, **fields), **fields)
    assert (await api.get(path))["permissions"] == [second]

    assert f"&#39;{second}&#39; can be deleted once" in (await _delete_permission(root, api, second, status=409)).text
    await _delete_permission(root, api, first, status=303)
    assert first not in await root.get("/plans#permissions")


async def _delete_permission(root: Browser, api: Api, name: str, *, status: int) -> httpx.Response:
    (found,) = [each for each in (await api.get("/permissions"))["data"] if each["name"] == name]
    return await root.submit("/plans", f"/permissions/{found['id']}/delete", status=status)


async def test_scopes_of_a_token_stay_chosen_where_its_name_is_refused(root: Browser) -> None:
    refused = await root.submit("/tokens", status=422, name="", scopes="credits:write", once=uuid4().hex)
    assert re.findall(r'value="([^"]+)" checked', refused.text) == ["credits:write"]


async def test_experiment_that_runs_is_told_to_stay(root: Browser, api: Api) -> None:
    variants = [{"name": name, "plans": [(await api.create_plan())["id"]]} for name in ("a", "b")]
    experiment = await api.post("/experiments", {"name": uuid4().hex, "variants": variants})
    path = f"/experiments/{experiment['id']}"
    await api.post(f"{path}/start")
    page = await root.follow(await root.submit(path, f"{path}/delete"))
    assert 'class="note problem"' in page
    assert (await api.get(path))["status"] == "running"


async def test_failed_webhook_is_replayed(root: Browser, admin: AdminApi) -> None:
    event_id = f"evt_{uuid4().hex}"
    async with database_of(admin).transaction() as connection:
        stored = await webhook_events.record(
            connection, "stripe", provider_event_id=event_id, event_type="invoice.paid", payload={}, occurred_at=None
        )
        event = None if stored is None else await webhook_events.get(connection, stored)
        assert event is not None
        await webhook_events.fail(connection, event, reason="No such invoice")
    page = await root.get("/money?list=events&status=failed")
    assert event_id in page
    told = await root.follow(await root.submit("/money?list=events", f"/events/{stored}/replay"))
    assert "invoice.paid is received." in told


async def test_why_answers_for_a_key_and_keeps_it_out_of_the_page(root: Browser, api: Api) -> None:
    user = await api.create_user()
    key = await api.post("/keys", {"user_id": user["id"]})
    answer = await root.submit("/why", status=200, key=key["key"], route="generate", units="2")
    assert "subscription_inactive" in answer.text
    assert key["key"] not in answer.text


async def test_prices_are_listed_and_computed(root: Browser) -> None:
    page = await root.get("/prices")
    assert "generate" in page
    answer = await root.submit("/prices", status=200, route="generate", units="3")
    assert "6 <small>credits" in answer.text
    assert "2 credits per item x 3 items" in answer.text
    refused = await root.submit("/prices", status=422, route="generate", units="many")
    assert 'value="many"' in refused.text


async def test_refund_asks_for_what_is_missing(root: Browser, api: Api) -> None:
    user = await api.create_user()
    payment = await api.post("/payments", {"user_id": user["id"], "amount": "5.00"})
    path = f"/payments/{payment['id']}"
    answer = await root.submit(path, f"{path}/refund", status=422, amount="2.00")
    assert "reason" in answer.text.lower()


async def test_token_is_made_shown_once_and_revoked(root: Browser, api: Api) -> None:
    name = f"n{uuid4().hex[:10]}"
    answer = await root.submit("/tokens", status=200, name=name, scopes="read", once=uuid4().hex)
    assert "issued-token" in answer.text
    (token,) = [each for each in (await api.get("/admin-tokens", limit=500))["data"] if each["name"] == name]
    await root.submit("/tokens", f"/tokens/{token['id']}/revoke")
    assert (await api.get(f"/admin-tokens/{token['id']}"))["revoked_at"] is not None


async def test_books_are_compared_while_the_page_shows_how_far(root: Browser, api: Api) -> None:
    await api.create_user()
    await root.follow(await root.submit("/system", "/system/reconcile"))
    async with asyncio.timeout(30):
        while (run := (await api.get("/reconcile/runs"))["data"][0])["state"] == "running":
            assert "Books" in await root.get("/system")
    assert (run["state"], run["report"]["differences"]) == ("done", 0)
    assert run["report"]["accounts"] >= 1
    assert "Done: " in await root.get("/system")
    await root.submit("/system", f"/system/reconcile/{run['id']}/cancel")
    assert (await api.get(f"/reconcile/runs/{run['id']}"))["state"] == "done"


async def test_import_is_shown_as_it_advances_and_is_canceled(root: Browser, api: Api, admin: AdminApi) -> None:
    database = database_of(admin)
    async with database.transaction() as connection:
        run_id = await imports.begin(connection, "acme")
        assert await imports.advance(connection, run_id, [{"section": "users", "total": 4000, "read": 1000}])
    shown = await root.get("/system")
    assert "acme" in shown
    assert "25 %" in shown
    await root.follow(await root.submit("/system", f"/system/imports/{run_id}/cancel"))
    assert "It stops after its current batch" in await root.get("/system")
    async with database.transaction() as connection:
        assert not await imports.advance(connection, run_id, [])
        await imports.end(connection, run_id, "canceled")
    (entry,) = (await api.get("/audit-log", action="imports.cancel"))["data"]
    assert entry["entity_id"] == str(run_id)
    assert "Canceled" in await root.get("/system")


def test_trouble_is_told_in_words() -> None:
    quiet = dict.fromkeys(
        (
            *("settlements_lost", "reconcile_difference_credits", "poison_entries", "outage_credit_calls"),
            *("spooled_settlements", "webhooks_given_up", "journal_lag_seconds"),
        )
    )
    calm: dict[str, Any] = {**quiet, "not_ready": [], "open_breakers": [], "quarantined": {}}
    assert warnings_of(calm) == []
    told = warnings_of({**calm, "not_ready": ["redis"], "journal_lag_seconds": 90.4, "quarantined": {"renewals": 2}})
    assert [each.text for each in told] == [
        "Calls are not admitted: redis is missing.",
        "PostgreSQL is 90 s behind the calls.",
        "The worker renewals has quarantined 2 items.",
    ]


def test_money_is_rounded_to_cents() -> None:
    assert [round_money(each) for each in (None, "0", "0.004", "1234.567")] == [NOTHING, "0.00", "< 0.01", "1,234.57"]
    assert [round_money(each) for each in ("-0.004", "-3.456")] == ["> -0.01", "-3.46"]


async def test_experiment_is_created_started_read_and_ended(root: Browser, api: Api, admin: AdminApi) -> None:
    plans = [await api.create_plan(), await api.create_plan()]
    lines = f"control 1: {plans[0]['id']}\n\nother 2: {plans[1]['id']}"
    wrong = await root.submit("/experiments", status=422, name="x", variants="control: pro")
    assert "Variants" in wrong.text
    created = await root.submit("/experiments", name=f"e{uuid4().hex}", variants=lines)
    path = created.headers["location"].removeprefix("/console")
    assert "Delete the draft" in await root.get(path)
    await root.submit(path, f"{path}/start")
    async with database_of(admin).transaction() as connection:
        for number in range(120):
            user = await users.create(connection, f"{uuid4().hex}@example.com")
            if number % 3 == 0:
                amount = {"transaction_type": "subscription", "status": "completed", "amount": 9, "currency": "USD"}
                await payments.upsert(connection, "stripe", provider_payment_id=uuid4().hex, user_id=user.id, **amount)
    page = await root.get(path)
    for text in ("Paid conversion", "95 % interval", "other", "End the experiment", 'class="interval'):
        assert text in page
    await root.submit(path, f"{path}/stop", winner="control")
    assert "winner" in await root.get(path)
    assert path in await root.get("/experiments")
    assert (await api.get(f"/plans/{plans[1]['id']}"))["is_active"] is False


async def test_calls_are_exported_while_the_page_shows_how_far(root: Browser, api: Api, admin: AdminApi) -> None:
    user = await api.create_user()
    async with database_of(admin).transaction() as connection:
        await ingestion.ingest(connection, [a_line(UUID(user["id"]), at=now()) for _ in range(3)])
    refused = await root.submit("/usage/exports", status=422, user_id="everybody")
    assert 'value="everybody"' in refused.text
    await root.follow(await root.submit("/usage/exports", user_id=user["id"]))
    async with asyncio.timeout(30):
        while (run := (await api.get("/usage/exports"))["data"][0])["state"] == "running":
            assert "<progress" in await root.get("/usage/exports")
    page = await root.get("/usage/exports")
    assert f"/console/usage/exports/{run['id']}/file" in page
    file = await root.client.get(f"/console/usage/exports/{run['id']}/file")
    assert gzip.decompress(file.content).decode().count(user["id"]) == 3
    assert file.headers["x-content-type-options"] == "nosniff"
    await root.submit("/usage/exports", f"/usage/exports/{run['id']}/cancel")
    assert (await api.get(f"/usage/exports/{run['id']}"))["state"] == "done"
    await root.get(f"/usage/exports/{uuid4()}/file", status=404)


async def test_failed_webhooks_are_replayed_together(root: Browser, api: Api) -> None:
    told = await root.follow(await root.submit("/money?list=events", "/replays"))
    assert "acted on again" in told
    async with asyncio.timeout(30):
        while (run := (await api.get("/webhook-events/replays"))["data"][0])["state"] == "running":
            await root.get("/money?list=events")
    assert (run["state"], run["replayed"]) == ("done", run["events"])
    await root.submit("/money?list=events", f"/replays/{run['id']}/cancel")


async def test_coupon_is_made_seen_and_disabled(root: Browser, api: Api) -> None:
    code = f"T-{uuid4().hex[:8]}".upper()
    fields: dict[str, Any] = {
        "code": code,
        "kind": "amount_off",
        "value": "2.50",
        "currency": "usd",
        "once_per_account": "1",
    }
    await root.submit("/coupons", status=422, **fields | {"plans": "nothing"})
    made = await root.follow(await root.submit("/coupons", **fields, max_redemptions="7", expires_at="2099-01-01"))
    assert f"Customers can enter {code} from now on." in made
    assert "2.50 USD off" in made
    coupon = next(each for each in (await api.get("/coupons"))["data"] if each["code"] == code)
    assert coupon["expires_at"].startswith("2099-01-01T23:59:59"), "the whole of its last day"
    assert (coupon["max_redemptions"], coupon["once_per_account"], coupon["plans"]) == (7, True, None)
    assert (coupon["redeemed"], coupon["discounts"]) == (0, {})
    assert "Taken off" in made
    disabled = await root.follow(await root.submit(f"/coupons/{coupon['id']}"))
    assert f"{code} is disabled" in disabled
    assert "Enable it" in disabled
    await root.get("/coupons/x", status=404)


async def test_row_of_usage_leads_to_a_page_of_its_own(root: Browser, api: Api, admin: AdminApi) -> None:
    user = await api.create_user()
    async with database_of(admin).transaction() as connection:
        lines = [a_line(UUID(user["id"]), at=now(), model=f"m{number:02}") for number in range(30)]
        await ingestion.ingest(connection, lines)
    first = await root.get("/usage", split="model", user_id=user["id"])
    cursor = re.search(r"cursor=([^&\"]+)", first)
    assert cursor is not None
    second = await root.get("/usage", split="model", user_id=user["id"], cursor=cursor[1])
    (link,) = re.findall(r'<a href="(\?[^"]*model=m29[^"]*)"', second)
    assert "cursor" not in link


async def test_filter_of_payments_keeps_the_account(root: Browser, api: Api) -> None:
    user = await api.create_user()
    for listed in ("payments", "invoices"):
        page = await root.get("/money", list=listed, user_id=user["id"])
        assert f'<input type="hidden" name="user_id" value="{user["id"]}">' in page
        assert "Of the account" in page
    assert 'name="user_id"' not in await root.get("/money")
