"""API keys over the admin API."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.clock import now
from gateway.ledger.accounts import principals
from gateway.meter.replies import Verdict
from policies.access.keys import digest, is_well_formed
from tests.api.conftest import PEPPERS, AdminApi

FIELDS = {
    "id",
    "user_id",
    "name",
    "prefix",
    "last4",
    "status",
    "permissions",
    "allowed_ips",
    "credit_cap",
    "expires_at",
    "last_used_at",
    "created_at",
}


async def test_new_key_is_shown_once_and_found_by_its_digest(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    made = await admin_api.create_key(user["id"], name="ci", credit_cap=50, allowed_ips=["10.0.0.0/8", "2001:db8::1"])
    assert set(made) == FIELDS | {"key"}
    assert is_well_formed("gw", made["key"].encode())
    assert (made["prefix"], made["last4"]) == (made["key"][:12], made["key"][-4:])
    assert made["allowed_ips"] == ["10.0.0.0/8", "2001:db8::1/128"]
    shown = await admin_api.get(f"/keys/{made['id']}")
    assert shown == {name: made[name] for name in FIELDS}
    async with admin_api.database.read() as connection:
        principal = await principals.find_principal(connection, digest(made["key"].encode(), PEPPERS[2]))
    assert principal is not None
    assert principal.key.id == UUID(made["id"])


async def test_key_secret_is_in_the_first_response_only_and_in_no_audit_row(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    made = await admin_api.create_key(user["id"])
    rotated = await admin_api.post(f"/keys/{made['id']}/rotate", {"grace_seconds": 60}, status=201)
    await admin_api.call("PATCH", f"/keys/{made['id']}", json={"name": "other"})
    await admin_api.post(f"/keys/{made['id']}/revoke")
    later = [await admin_api.get("/keys", user_id=user["id"]), await admin_api.get(f"/keys/{rotated['id']}")]
    later += [await admin_api.audit(key["id"]) for key in (made, rotated)]
    said = json.dumps(later)
    for key in (made["key"], rotated["key"]):
        hashes = [digest(key.encode(), pepper).hex() for pepper in PEPPERS.values()]
        assert not [secret for secret in (key, key[12:-4], *hashes) if secret in said]
    assert "hash" not in said
    assert "pepper" not in said


async def test_revoked_key_is_stale_in_redis_before_the_response(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    known = await admin_api.load_account(user["id"])
    assert (await admin_api.admit(user["id"], known)).verdict is Verdict.ADMITTED
    assert (await admin_api.post(f"/keys/{key['id']}/revoke"))["status"] == "revoked"
    assert (await admin_api.admit(user["id"], known)).verdict is Verdict.STALE


async def test_repeated_revocation_changes_nothing(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    first = await admin_api.post(f"/keys/{key['id']}/revoke")
    assert await admin_api.post(f"/keys/{key['id']}/revoke") == first
    assert [entry["action"] for entry in await admin_api.audit(key["id"])] == ["keys.create", "keys.revoke"]


async def test_concurrent_revocations_leave_one_audit_entry(admin_api: AdminApi) -> None:
    key = await admin_api.create_key((await admin_api.create_user())["id"])
    await asyncio.gather(*(admin_api.post(f"/keys/{key['id']}/revoke") for _ in range(4)))
    assert [entry["action"] for entry in await admin_api.audit(key["id"])] == ["keys.create", "keys.revoke"]


@pytest.mark.parametrize(("method", "path"), [("PATCH", ""), ("POST", "/rotate")])
async def test_revoked_key_stays_revoked(admin_api: AdminApi, method: str, path: str) -> None:
    key = await admin_api.create_key((await admin_api.create_user())["id"])
    await admin_api.post(f"/keys/{key['id']}/revoke")
    body = {"json": {"status": "active"}} if method == "PATCH" else {}
    refused = await admin_api.call(method, f"/keys/{key['id']}{path}", status=409, **body)
    assert (refused["code"], "create another" in refused["detail"]) == ("conflict", True)


async def test_rotated_key_passes_its_settings_on_and_expires_with_its_grace(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    await admin_api.client.post("/admin/v1/permissions", json={"name": "analyze"})  # which may be there already
    old = await admin_api.create_key(user["id"], name="ci", permissions=["analyze"], allowed_ips=["192.0.2.1/32"])
    new = await admin_api.post(f"/keys/{old['id']}/rotate", {"grace_seconds": 3600}, status=201)
    assert new["key"] != old["key"]
    for inherited in ("name", "permissions", "allowed_ips", "credit_cap", "expires_at", "user_id"):
        assert new[inherited] == old[inherited]
    retiring = await admin_api.get(f"/keys/{old['id']}")
    assert retiring["status"] == "active"
    assert retiring["expires_at"] > now().isoformat()


async def test_key_rotated_without_grace_has_expired(admin_api: AdminApi) -> None:
    old = await admin_api.create_key((await admin_api.create_user())["id"])
    await admin_api.post(f"/keys/{old['id']}/rotate", status=201)
    assert (await admin_api.get(f"/keys/{old['id']}"))["status"] == "expired"


async def test_expired_key_is_not_replaced_by_one_that_is_expired_too(admin_api: AdminApi) -> None:
    key = await admin_api.create_key((await admin_api.create_user())["id"])
    path, past = f"/keys/{key['id']}", (now() - timedelta(seconds=1)).isoformat()
    await admin_api.call("PATCH", path, json={"expires_at": past})
    refused = await admin_api.post(f"{path}/rotate", status=409)
    assert (refused["code"], "later expiry" in refused["detail"]) == ("conflict", True)
    await admin_api.call("PATCH", path, json={"expires_at": "2090-01-01"})
    assert (await admin_api.post(f"{path}/rotate", status=201))["status"] == "active"


async def test_key_status_is_the_first_refusal_of_a_call(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    path = f"/keys/{key['id']}"
    assert (await admin_api.call("PATCH", path, json={"status": "disabled"}))["status"] == "disabled"
    past = (now() - timedelta(seconds=1)).isoformat()
    assert (await admin_api.call("PATCH", path, json={"expires_at": past}))["status"] == "expired"
    assert (await admin_api.call("PATCH", path, json={"expires_at": None}))["status"] == "disabled"
    assert (await admin_api.call("PATCH", path, json={"status": "active"}))["status"] == "active"


async def test_times_are_in_utc(admin_api: AdminApi) -> None:
    key = await admin_api.create_key((await admin_api.create_user())["id"], expires_at="2090-01-01T02:00:00+02:00")
    assert key["expires_at"] == "2090-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("user_id", "x", "user_id"),
        ("allowed_ips", ["10.0.0.1/33"], "allowed_ips.0"),
        ("allowed_ips", ["10.0.0.0/8", "localhost"], "allowed_ips.1"),
        ("allowed_ips", ["fe80::1%eth0"], "allowed_ips.0"),
        ("allowed_ips", ["::1", "fe80::1%x\ty/128"], "allowed_ips.1"),
        ("allowed_ips", None, "allowed_ips"),
        ("permissions", ["a b"], "permissions.0"),
        ("credit_cap", -1, "credit_cap"),
        ("credit_cap", "5", "credit_cap"),
        ("credit_cap", 2**63, "credit_cap"),
        ("expires_at", "2030-01", "expires_at"),
        ("expires_at", "2030-01-01T00:00:00", "expires_at"),
        ("expires_at", "0001-01-01T00:00:00+14:00", "expires_at"),
        ("expires_at", "0001-01-01T00:00:00Z", "expires_at"),
        ("expires_at", 1893456000, "expires_at"),
        ("key", "gw_live_mine", "key"),
        ("status", "revoked", "status"),
    ],
)
async def test_bad_field_is_named(admin_api: AdminApi, field: str, value: object, named: str) -> None:
    refused = await admin_api.post("/keys", {"user_id": str(uuid4()), field: value}, status=422)
    assert [error["field"] for error in refused["errors"]] == [named]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PATCH", ""), ("POST", "/revoke"), ("POST", "/rotate")])
async def test_unknown_key_is_not_found(admin_api: AdminApi, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {"name": "x"}} if method == "PATCH" else {}
    assert (await admin_api.call(method, f"/keys/{uuid4()}{path}", status=404, **body))["code"] == "not_found"


async def test_key_for_an_unknown_user_is_not_found(admin_api: AdminApi) -> None:
    assert (await admin_api.post("/keys", {"user_id": str(uuid4())}, status=404))["code"] == "not_found"


async def test_keys_of_two_users_never_mix_and_the_cursor_walks_each_once(admin_api: AdminApi) -> None:
    users = [(await admin_api.create_user())["id"] for _ in range(2)]
    made = {user: {(await admin_api.create_key(user))["id"] for _ in range(5)} for user in users}
    for user in users:
        walked = await admin_api.pages("/keys", limit=2, user_id=user)
        assert {key["user_id"] for key in walked} == {user}
        assert len(walked) == 5
        assert {key["id"] for key in walked} == made[user]


async def test_new_key_that_has_expired_already_is_refused(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    body = {"user_id": user["id"], "expires_at": "2020-01-01T00:00:00Z"}
    refused = await admin_api.post("/keys", body, status=422)
    assert [error["field"] for error in refused["errors"]] == ["expires_at"]


async def test_permissions_of_a_key_must_exist(admin_api: AdminApi) -> None:
    """Who misspells one would have a key that may do nothing."""
    user = await admin_api.create_user()
    wrong = {"permissions": ["analyze", "anallyze"]}
    await admin_api.client.post("/admin/v1/permissions", json={"name": "analyze"})  # which may be there already
    created = await admin_api.post("/keys", {"user_id": user["id"], **wrong}, status=422)
    key = await admin_api.create_key(user["id"], permissions=["analyze"])
    changed = await admin_api.call("PATCH", f"/keys/{key['id']}", json=wrong, status=422)
    for refused in (created, changed):
        assert [error["field"] for error in refused["errors"]] == ["permissions"]
        assert refused["errors"][0]["message"].endswith("the name anallyze")
    assert (await admin_api.get(f"/keys/{key['id']}"))["permissions"] == ["analyze"]
    harmless: list[str] | None
    for harmless in ([], None):
        await admin_api.call("PATCH", f"/keys/{key['id']}", json={"permissions": harmless})
