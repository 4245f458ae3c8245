"""Users over the admin API."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.meter.replies import Verdict
from tests.api.conftest import AdminApi


def new_email() -> str:
    return f"{uuid4().hex}@example.com"


async def test_user_reads_as_created(admin_api: AdminApi) -> None:
    given = {
        "email": new_email(),
        "name": "Ada",
        "company": "Engines",
        "external_id": uuid4().hex,
        "time_zone": "Europe/Berlin",
        "metadata": {"tier": 1},
    }
    made = await admin_api.post("/users", given, status=201)
    assert made.items() >= {**given, "status": "active", "role": "user", "subscription": None}.items()
    assert made["created_at"].endswith("Z")
    assert await admin_api.get(f"/users/{made['id']}") == made


async def test_user_created_with_a_plan_has_its_subscription_and_credits(
    admin_api: AdminApi, a_plan: dict[str, Any]
) -> None:
    made = await admin_api.create_user(plan=a_plan["id"])
    assert made["subscription"]["plan_id"] == a_plan["id"]
    assert made["subscription"]["status"] == "active"
    assert (await admin_api.get(f"/users/{made['id']}/credits"))["current_credits"] == a_plan["credits_per_period"]


async def test_user_of_an_unknown_plan_is_not_created(admin_api: AdminApi) -> None:
    email = new_email()
    await admin_api.post("/users", {"email": email, "plan": "nope"}, status=404)
    assert (await admin_api.get("/users", email=email))["data"] == []


async def test_user_is_found_by_address_in_any_case(admin_api: AdminApi) -> None:
    made = await admin_api.create_user()
    found = await admin_api.get("/users", email=made["email"].upper())
    assert [user["id"] for user in found["data"]] == [made["id"]]


async def test_user_is_found_by_external_id(admin_api: AdminApi) -> None:
    made, other = (
        await admin_api.create_user(external_id=uuid4().hex),
        await admin_api.create_user(external_id=uuid4().hex),
    )
    found = await admin_api.get("/users", external_id=made["external_id"])
    assert [user["id"] for user in found["data"]] == [made["id"]]
    both = await admin_api.get("/users", external_id=made["external_id"], email=other["email"])
    assert both["data"] == []


@pytest.mark.parametrize("field", ["email", "external_id"])
async def test_duplicate_address_or_external_id_is_a_conflict(admin_api: AdminApi, field: str) -> None:
    taken = await admin_api.create_user(external_id=uuid4().hex)
    refused = await admin_api.post("/users", {"email": new_email(), field: taken[field]}, status=409)
    assert refused["code"] == "conflict"
    assert "Another user" in refused["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "nobody"),
        ("email", "a@b\0"),
        ("email", 5),
        ("email", None),
        ("name", ""),
        ("name", "a\0b"),
        ("name", "x" * 201),
        ("time_zone", "Mars/Olympus"),
        ("metadata", []),
        ("metadata", {"a": {"b": ["\0"]}}),
        ("metadata", {"a": "x" * 20_000}),
        ("metadata", json.loads('{"a":' + "[" * 32 + "]" * 32 + "}")),
        ("role", "admin"),
        ("credits", 1_000_000),
        ("status", "active"),
    ],
)
async def test_bad_field_is_named(admin_api: AdminApi, field: str, value: object) -> None:
    refused = await admin_api.post("/users", {"email": new_email(), field: value}, status=422)
    assert refused["code"] == "validation_failed"
    assert [error["field"] for error in refused["errors"]] == [field]
    assert refused["errors"][0]["message"]


@pytest.mark.parametrize("raw", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}'])
async def test_metadata_that_the_database_cannot_hold_is_refused(admin_api: AdminApi, raw: bytes) -> None:
    body = b'{"email": "%s", "metadata": %s}' % (new_email().encode(), raw)
    headers = {"content-type": "application/json"}
    refused = await admin_api.call("POST", "/users", status=422, content=body, headers=headers)
    assert [error["field"] for error in refused["errors"]] == ["metadata"]


async def test_metadata_reads_as_written(admin_api: AdminApi) -> None:
    deep = json.loads("[" * 31 + "]" * 31)
    given = {"deep": deep, "big": 10**400, "words": [1.5, None, True, "\u00e9", "\\u0000"]}
    assert (await admin_api.create_user(metadata=given))["metadata"] == given


async def test_concurrent_changes_are_audited_one_after_the_other(admin_api: AdminApi) -> None:
    user = await admin_api.create_user(name="0")
    await asyncio.gather(*(admin_api.call("PATCH", f"/users/{user['id']}", json={"name": str(n)}) for n in range(1, 5)))
    created, *changes = await admin_api.audit(user["id"])
    for earlier, later in pairwise([created, *changes]):
        assert later["before"]["name"] == earlier["after"]["name"]


async def test_patch_changes_the_given_fields_only(admin_api: AdminApi) -> None:
    made = await admin_api.create_user(name="Ada", company="Engines")
    changed = await admin_api.call("PATCH", f"/users/{made['id']}", json={"name": "Grace", "company": None})
    assert changed.items() >= {"name": "Grace", "company": None, "email": made["email"]}.items()
    entry = (await admin_api.audit(made["id"]))[-1]
    assert entry.items() >= {"actor": "admin", "action": "users.change", "entity": "user"}.items()
    assert (entry["before"]["name"], entry["after"]["name"]) == ("Ada", "Grace")


@pytest.mark.parametrize("patch", [{}, {"email": None}, {"password_hash": "x"}, {"time_zone": None}])
async def test_malformed_patch_is_refused(admin_api: AdminApi, patch: dict[str, Any]) -> None:
    made = await admin_api.create_user()
    refused = await admin_api.call("PATCH", f"/users/{made['id']}", json=patch, status=422)
    assert refused["code"] == "validation_failed"
    assert await admin_api.call("GET", f"/users/{made['id']}") == made


async def test_suspended_account_is_stale_in_redis_before_the_response(admin_api: AdminApi) -> None:
    made = await admin_api.create_user()
    known = await admin_api.load_account(made["id"])
    assert (await admin_api.admit(made["id"], known)).verdict is Verdict.ADMITTED
    assert (await admin_api.post(f"/users/{made['id']}/suspend"))["status"] == "suspended"
    assert (await admin_api.admit(made["id"], known)).verdict is Verdict.STALE
    assert (await admin_api.post(f"/users/{made['id']}/reactivate"))["status"] == "active"
    actions = [entry["action"] for entry in await admin_api.audit(made["id"])]
    assert actions == ["users.create", "users.suspend", "users.reactivate"]


async def test_reactivated_account_begins_a_period_where_its_own_is_over(
    admin_api: AdminApi, a_plan: dict[str, Any]
) -> None:
    made = await admin_api.create_user(plan=a_plan["id"])
    await admin_api.post(f"/users/{made['id']}/suspend")
    over = "UPDATE subscriptions SET current_period_start = :begun, current_period_end = :ended WHERE id = :id"
    times = {"begun": now() - timedelta(days=70), "ended": now() - timedelta(days=40)}
    async with admin_api.database.transaction() as connection:
        await connection.execute(text(over), times | {"id": made["subscription"]["id"]})
    for _ in range(2):
        await admin_api.post(f"/users/{made['id']}/reactivate")
        found = (await admin_api.get(f"/users/{made['id']}"))["subscription"]
        assert now() - datetime.fromisoformat(found["current_period_start"]) < timedelta(days=1)
    assert await admin_api.balance(made["id"]) == 2 * a_plan["credits_per_period"]


async def test_deleted_user_is_not_found_and_its_keys_are_revoked(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    made = await admin_api.create_user(name="Ada")
    key = await admin_api.create_key(made["id"])
    await admin_api.call("DELETE", f"/users/{made['id']}", status=204)
    await admin_api.call("GET", f"/users/{made['id']}", status=404)
    await admin_api.call("DELETE", f"/users/{made['id']}", status=404)
    assert (await admin_api.get(f"/keys/{key['id']}"))["status"] == "revoked"
    assert (await admin_api.audit(made["id"]))[-1].items() >= {"action": "users.delete", "before": None}.items()
    await admin_api.post("/keys", {"user_id": made["id"]}, status=404)
    await admin_api.post("/subscriptions", {"user_id": made["id"], "plan_id": a_plan["id"]}, status=404)


@pytest.mark.parametrize("user_id", ["00000000-0000-4000-8000-000000000000", "nobody", "%00"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/suspend"), ("POST", "/reactivate")],
)
async def test_unknown_user_is_not_found(admin_api: AdminApi, method: str, path: str, user_id: str) -> None:
    body = {"json": {"name": "x"}} if method == "PATCH" else {}
    refused = await admin_api.call(method, f"/users/{user_id}{path}", status=404, **body)
    assert refused["code"] == "not_found"


async def test_user_cursor_walks_every_user_once(admin_api: AdminApi) -> None:
    made = {(await admin_api.create_user())["id"] for _ in range(5)}
    walked = [user["id"] for user in await admin_api.pages("/users", limit=20)]
    assert len(walked) == len(set(walked))
    assert made <= set(walked)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"cursor": "junk"}, "cursor"),
        ({"cursor": "\0"}, "cursor"),
        ({"user": "x"}, "user"),
    ],
)
async def test_list_refuses_unknown_parameters(admin_api: AdminApi, params: dict[str, Any], field: str) -> None:
    refused = await admin_api.call("GET", "/users", params=params, status=422)
    assert [error["field"] for error in refused["errors"]] == [field]


async def test_users_are_found_by_words_plan_and_standing(admin_api: AdminApi) -> None:
    plan = (
        await admin_api.post("/plans", {"name": f"P{uuid4().hex}", "price": "5", "credits_per_period": 70}, status=201)
    )["id"]
    company = f"c{uuid4().hex}"
    rich = await admin_api.create_user(plan=plan, name="Ada Lovelace", company=company)
    poor = await admin_api.create_user(plan=plan, name="Grace Hopper", company=company)
    none = await admin_api.create_user(name="Ada Byron", company=company)
    await admin_api.post(f"/users/{poor['id']}/credits/adjust", {"amount": -100, "reason": "test"}, status=201)
    async with admin_api.database.transaction() as connection:
        statement = text("UPDATE subscriptions SET status = 'past_due', past_due_since = now() WHERE user_id = :id")
        await connection.execute(statement, {"id": poor["id"]})
    await admin_api.post(f"/users/{none['id']}/suspend")

    async def found(**query: str) -> list[str]:
        return [row["id"] for row in (await admin_api.get("/users", words=company, **query))["data"]]

    ids = {name: user["id"] for name, user in (("rich", rich), ("poor", poor), ("none", none))}
    assert await found() == [ids["none"], ids["poor"], ids["rich"]]
    assert await found(sort="current_credits") == [ids["poor"], ids["none"], ids["rich"]]
    assert await found(sort="-current_credits", plan_id=plan) == [ids["rich"], ids["poor"]]
    assert await found(status="suspended") == [ids["none"]]
    (late,) = (await admin_api.get("/users", subscription_status="past_due", plan_id=plan))["data"]
    shown = (late["email"], late["plan_id"], late["subscription_status"], late["current_credits"])
    assert shown == (poor["email"], plan, "past_due", -30)
    by_name = (await admin_api.get("/users", words=f"lov {company}"))["data"]
    assert [row["id"] for row in by_name] == [ids["rich"]]
    assert (await admin_api.get("/users", words="ab"))["data"] == []


@pytest.mark.parametrize(("named", "proven"), [([b"one"], [b"one"]), ([b"one", b"two"], [])])
async def test_address_that_an_operator_verifies_is_proven_where_the_account_has_one(
    admin_api: AdminApi, named: list[bytes], proven: list[bytes]
) -> None:
    user = await admin_api.create_user()
    async with admin_api.database.transaction() as connection:
        await connection.execute(
            text("UPDATE users SET persons = :named WHERE id = :id"), {"named": named, "id": user["id"]}
        )
    await admin_api.call("PATCH", f"/users/{user['id']}", json={"email_verified_at": "2026-01-31T12:00:00Z"})
    async with admin_api.database.read() as connection:
        kept = await connection.scalar(text("SELECT proven_persons FROM users WHERE id = :id"), {"id": user["id"]})
    assert kept == proven


@pytest.mark.parametrize("query", [{"sort": "name"}, {"status": "gone"}, {"subscription_status": "canceled"}])
async def test_users_are_not_listed_by_what_is_unknown(admin_api: AdminApi, query: dict[str, str]) -> None:
    await admin_api.call("GET", "/users", params=query, status=422)


async def test_balances_are_listed_page_by_page(admin_api: AdminApi) -> None:
    company = f"c{uuid4().hex}"
    made = [await admin_api.create_user(company=company) for _ in range(3)]
    for number, user in enumerate(made):
        await admin_api.post(f"/users/{user['id']}/credits/grant", {"amount": 9 - number, "reason": "test"}, status=201)
    rows = await admin_api.pages("/users", limit=2, words=company, sort="current_credits")
    assert [row["current_credits"] for row in rows] == [7, 8, 9]
