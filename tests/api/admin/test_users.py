"""Users over the admin API."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from gateway.meter.replies import Verdict
from tests.api.conftest import Office


def an_email() -> str:
    return f"{uuid4().hex}@example.com"


async def test_a_user_is_shown_as_it_was_created(office: Office) -> None:
    given = {
        "email": an_email(),
        "name": "Ada",
        "company": "Engines",
        "external_id": uuid4().hex,
        "time_zone": "Europe/Berlin",
        "metadata": {"tier": 1},
    }
    made = await office.post("/users", given, status=201)
    assert made.items() >= {**given, "status": "active", "role": "user", "subscription": None}.items()
    assert made["created_at"].endswith("Z")
    assert await office.get(f"/users/{made['id']}") == made


async def test_a_user_created_with_a_plan_has_its_subscription_and_credits(
    office: Office, a_plan: dict[str, Any]
) -> None:
    made = await office.a_user(plan=a_plan["id"])
    assert made["subscription"]["plan_id"] == a_plan["id"]
    assert made["subscription"]["status"] == "active"
    assert (await office.get(f"/users/{made['id']}/credits"))["current_credits"] == a_plan["credits_per_period"]


async def test_a_user_of_an_unknown_plan_is_not_created(office: Office) -> None:
    email = an_email()
    await office.post("/users", {"email": email, "plan": "nope"}, status=404)
    assert (await office.get("/users", email=email))["data"] == []


async def test_an_address_is_found_whatever_its_case(office: Office) -> None:
    made = await office.a_user()
    found = await office.get("/users", email=made["email"].upper())
    assert [user["id"] for user in found["data"]] == [made["id"]]


async def test_a_user_is_found_by_the_id_of_another_system(office: Office) -> None:
    made, other = await office.a_user(external_id=uuid4().hex), await office.a_user(external_id=uuid4().hex)
    found = await office.get("/users", external_id=made["external_id"])
    assert [user["id"] for user in found["data"]] == [made["id"]]
    both = await office.get("/users", external_id=made["external_id"], email=other["email"])
    assert both["data"] == []


@pytest.mark.parametrize("field", ["email", "external_id"])
async def test_what_must_be_unique_is_a_conflict(office: Office, field: str) -> None:
    taken = await office.a_user(external_id=uuid4().hex)
    refused = await office.post("/users", {"email": an_email(), field: taken[field]}, status=409)
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
async def test_a_bad_field_is_named(office: Office, field: str, value: object) -> None:
    refused = await office.post("/users", {"email": an_email(), field: value}, status=422)
    assert refused["code"] == "validation_failed"
    assert [error["field"] for error in refused["errors"]] == [field]
    assert refused["errors"][0]["message"]


@pytest.mark.parametrize("raw", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}'])
async def test_metadata_is_what_the_database_can_hold(office: Office, raw: bytes) -> None:
    body = b'{"email": "%s", "metadata": %s}' % (an_email().encode(), raw)
    headers = {"content-type": "application/json"}
    refused = await office.call("POST", "/users", status=422, content=body, headers=headers)
    assert [error["field"] for error in refused["errors"]] == ["metadata"]


async def test_metadata_comes_back_as_it_was_given(office: Office) -> None:
    deep = json.loads("[" * 31 + "]" * 31)
    given = {"deep": deep, "big": 10**400, "words": [1.5, None, True, "\u00e9", "\\u0000"]}
    assert (await office.a_user(metadata=given))["metadata"] == given


async def test_what_changes_at_once_is_noted_one_after_the_other(office: Office) -> None:
    user = await office.a_user(name="0")
    await asyncio.gather(*(office.call("PATCH", f"/users/{user['id']}", json={"name": str(n)}) for n in range(1, 5)))
    created, *changes = await office.audit(user["id"])
    for earlier, later in pairwise([created, *changes]):
        assert later["before"]["name"] == earlier["after"]["name"]


async def test_only_the_given_fields_change(office: Office) -> None:
    made = await office.a_user(name="Ada", company="Engines")
    changed = await office.call("PATCH", f"/users/{made['id']}", json={"name": "Grace", "company": None})
    assert changed.items() >= {"name": "Grace", "company": None, "email": made["email"]}.items()
    entry = (await office.audit(made["id"]))[-1]
    assert entry.items() >= {"actor": "admin", "action": "users.change", "entity": "user"}.items()
    assert (entry["before"]["name"], entry["after"]["name"]) == ("Ada", "Grace")


@pytest.mark.parametrize("patch", [{}, {"email": None}, {"password_hash": "x"}, {"time_zone": None}])
async def test_a_patch_that_says_nothing_sensible_is_refused(office: Office, patch: dict[str, Any]) -> None:
    made = await office.a_user()
    refused = await office.call("PATCH", f"/users/{made['id']}", json=patch, status=422)
    assert refused["code"] == "validation_failed"
    assert await office.call("GET", f"/users/{made['id']}") == made


async def test_a_suspended_account_is_stale_before_the_answer(office: Office) -> None:
    made = await office.a_user()
    known = await office.heat(made["id"])
    assert (await office.admit(made["id"], known)).verdict is Verdict.ADMITTED
    assert (await office.post(f"/users/{made['id']}/suspend"))["status"] == "suspended"
    assert (await office.admit(made["id"], known)).verdict is Verdict.STALE
    assert (await office.post(f"/users/{made['id']}/reactivate"))["status"] == "active"
    actions = [entry["action"] for entry in await office.audit(made["id"])]
    assert actions == ["users.create", "users.suspend", "users.reactivate"]


async def test_a_deleted_user_is_gone_and_its_keys_are_revoked(office: Office, a_plan: dict[str, Any]) -> None:
    made = await office.a_user(name="Ada")
    key = await office.a_key(made["id"])
    await office.call("DELETE", f"/users/{made['id']}", status=204)
    await office.call("GET", f"/users/{made['id']}", status=404)
    await office.call("DELETE", f"/users/{made['id']}", status=404)
    assert (await office.get(f"/keys/{key['id']}"))["status"] == "revoked"
    assert (await office.audit(made["id"]))[-1].items() >= {"action": "users.delete", "before": None}.items()
    await office.post("/keys", {"user_id": made["id"]}, status=404)
    await office.post("/subscriptions", {"user_id": made["id"], "plan_id": a_plan["id"]}, status=404)


@pytest.mark.parametrize("user_id", ["00000000-0000-4000-8000-000000000000", "nobody", "%00"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/suspend"), ("POST", "/reactivate")],
)
async def test_an_unknown_user_is_not_found(office: Office, method: str, path: str, user_id: str) -> None:
    body = {"json": {"name": "x"}} if method == "PATCH" else {}
    refused = await office.call(method, f"/users/{user_id}{path}", status=404, **body)
    assert refused["code"] == "not_found"


async def test_the_cursor_walks_every_user_once(office: Office) -> None:
    made = {(await office.a_user())["id"] for _ in range(5)}
    walked = [user["id"] for user in await office.pages("/users", limit=20)]
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
async def test_a_list_refuses_what_it_does_not_understand(office: Office, params: dict[str, Any], field: str) -> None:
    refused = await office.call("GET", "/users", params=params, status=422)
    assert [error["field"] for error in refused["errors"]] == [field]
