"""Admin tokens have scopes, expire, and can be revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway.clock import now
from tests.api.conftest import AdminApi, client_of


async def a_token(admin_api: AdminApi, *scopes: str, **body: Any) -> dict[str, Any]:
    wanted = {"name": uuid4().hex, "scopes": list(scopes), **body}
    made: dict[str, Any] = await admin_api.post("/admin-tokens", wanted, status=201)
    return made


async def status(admin_api: AdminApi, token: str, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client_of(admin_api.app, token) as client:
        response: httpx.Response = await client.request(method, f"/admin/v1{path}", **options)
    return response.status_code, response.json() if response.content else None


async def test_admin_token_is_shown_once_and_stored_as_a_digest(admin_api: AdminApi) -> None:
    made = await a_token(admin_api, "read", "keys:write")
    assert made["token"].startswith(made["prefix"])
    assert made["token"].endswith(made["last4"])
    assert "token" not in await admin_api.get(f"/admin-tokens/{made['id']}")
    assert all("token" not in each for each in (await admin_api.get("/admin-tokens"))["data"])
    async with admin_api.database.read() as connection:
        rows = (await connection.scalars(text("SELECT t::text || a::text FROM admin_tokens t, audit_log a"))).all()
    assert not any(made["token"] in row for row in rows)


async def test_admin_token_is_refused_beyond_its_scopes_naming_the_missing_one(admin_api: AdminApi) -> None:
    token = (await a_token(admin_api, "keys:write"))["token"]
    user = await admin_api.create_user()
    assert (await status(admin_api, token, "POST", "/keys", json={"user_id": user["id"]}))[0] == 201
    for method, path, scope in (
        ("GET", "/keys", "read"),
        ("POST", "/users", "users:write"),
        ("POST", f"/users/{user['id']}/credits/grants", "credits:write"),
        ("POST", "/admin-tokens", "admin:write"),
    ):
        code, problem = await status(admin_api, token, method, path, content=b"no json")
        if code == 404:
            continue
        assert (code, problem["code"], problem["scope"]) == (403, "insufficient_scope", scope), path
    assert (await status(admin_api, token, "GET", "/nothing"))[0] == 404


async def test_audit_log_names_the_admin_token(admin_api: AdminApi) -> None:
    made = await a_token(admin_api, "users:write")
    _, user = await status(admin_api, made["token"], "POST", "/users", json={"email": f"{uuid4().hex}@example.com"})
    (noted,) = await admin_api.audit(user["id"])
    assert noted["actor"] == f"admin:{made['name']}"
    assert (await admin_api.get(f"/admin-tokens/{made['id']}"))["last_used_at"] is not None


async def test_revoked_admin_token_is_refused_from_the_next_request_on(admin_api: AdminApi) -> None:
    made = await a_token(admin_api, "read")
    assert (await status(admin_api, made["token"], "GET", "/plans"))[0] == 200
    first = await admin_api.post(f"/admin-tokens/{made['id']}/revoke")
    assert first == await admin_api.post(f"/admin-tokens/{made['id']}/revoke")
    assert (await status(admin_api, made["token"], "GET", "/plans"))[0] == 401
    assert [entry["action"] for entry in await admin_api.audit(made["id"])] == [
        "admin_tokens.create",
        "admin_tokens.revoke",
    ]


async def test_expired_admin_token_is_refused(admin_api: AdminApi) -> None:
    made = await a_token(admin_api, "read", expires_at=(now() + timedelta(hours=1)).isoformat())
    async with admin_api.database.transaction() as connection:
        expire = text("UPDATE admin_tokens SET expires_at = now() WHERE id = CAST(:id AS uuid)")
        await connection.execute(expire, {"id": made["id"]})
    assert (await status(admin_api, made["token"], "GET", "/plans"))[0] == 401


async def test_admin_token_gives_no_scope_beyond_its_own(admin_api: AdminApi) -> None:
    token = (await a_token(admin_api, "admin:write"))["token"]
    wanted = {"name": uuid4().hex, "scopes": ["credits:write", "admin:write"]}
    code, problem = await status(admin_api, token, "POST", "/admin-tokens", json=wanted)
    assert (code, problem["scope"]) == (403, "credits:write")


async def test_user_on_a_plan_takes_the_scope_of_subscriptions_too(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    body = {"email": f"{uuid4().hex}@example.com", "plan": a_plan["id"]}
    token = (await a_token(admin_api, "users:write"))["token"]
    code, problem = await status(admin_api, token, "POST", "/users", json=body)
    assert (code, problem["scope"]) == (403, "subscriptions:write")
    token = (await a_token(admin_api, "users:write", "subscriptions:write"))["token"]
    assert (await status(admin_api, token, "POST", "/users", json=body))[0] == 201


@pytest.mark.parametrize(
    "changes",
    [{"email": "thief@example.com"}, {"role": "admin"}, {"email_verified_at": "2026-01-31T12:00:00Z"}],
    ids=lambda changes: next(iter(changes)),
)
async def test_whose_account_it_is_takes_admin_write_to_change(admin_api: AdminApi, changes: dict[str, str]) -> None:
    user, token = await admin_api.create_user(), (await a_token(admin_api, "users:write"))["token"]
    code, problem = await status(admin_api, token, "PATCH", f"/users/{user['id']}", json=changes)
    assert (code, problem["scope"]) == (403, "admin:write")
    assert (await admin_api.get(f"/users/{user['id']}"))["email"] == user["email"]
    same = {name: user[name] for name in changes} | {"company": "Difference Ltd"}
    assert (await status(admin_api, token, "PATCH", f"/users/{user['id']}", json=same))[0] == 200
    token = (await a_token(admin_api, "users:write", "admin:write"))["token"]
    changes = {**changes, **({"email": f"{uuid4().hex}@example.com"} if "email" in changes else {})}
    assert (await status(admin_api, token, "PATCH", f"/users/{user['id']}", json=changes))[0] == 200


async def test_failed_admin_token_is_counted_and_logged_without_itself(admin_api: AdminApi) -> None:
    revoked = await a_token(admin_api, "read")
    await admin_api.post(f"/admin-tokens/{revoked['id']}/revoke")
    guesses = ("guessed-token", revoked["token"])
    name, labels = "gateway_failed_sign_ins_total", {"kind": "admin_token"}
    before = REGISTRY.get_sample_value(name, labels) or 0
    with capture_logs() as lines:
        assert {(await status(admin_api, guess, "GET", "/plans"))[0] for guess in guesses} == {401}
    assert REGISTRY.get_sample_value(name, labels) == before + len(guesses)
    failed = [line for line in lines if line["event"] == "sign_in_failed"]
    assert [line["kind"] for line in failed] == ["admin_token"] * len(guesses)
    assert all(line["address"] for line in failed)
    assert not any(guess in str(failed) for guess in guesses)


@pytest.mark.parametrize("scopes", [[], ["everything"], ["read", "root"]])
async def test_unknown_scope_is_refused(admin_api: AdminApi, scopes: list[str]) -> None:
    await admin_api.call("POST", "/admin-tokens", status=422, json={"name": uuid4().hex, "scopes": scopes})
