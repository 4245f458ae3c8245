"""API keys of the caller."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from gateway.api.account.keys import _made
from gateway.clock import now
from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.catalogue import permissions
from policies.access.throttling import KEYS_OF_ACCOUNT
from tests.api.account.conftest import AccountApi


async def test_key_is_shown_once_and_listed_without_its_secret(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        if "analyze" not in {each.name for each in await permissions.list_all(connection)}:
            await permissions.create(connection, "analyze")
    body = {
        "name": "production",
        "permissions": ["analyze"],
        "allowed_ips": ["203.0.113.0/24"],
        "credit_cap": 50,
        "expires_at": (now() + timedelta(days=1)).isoformat().replace("+00:00", "Z"),
    }
    made = await customer.post("/me/keys", body, status=201)
    secret = made.pop("key")
    assert secret.startswith(made["prefix"])
    assert secret.endswith(made["last4"])
    assert made.items() >= (body | {"status": "active", "user_id": str(customer.id)}).items()
    assert (await customer.get("/me/keys"))["data"] == [made]
    assert await customer.get(f"/me/keys/{made['id']}") == made
    misspelt = {"permissions": ["anallyze"]}
    for method, path in (("PATCH", f"/me/keys/{made['id']}"), ("POST", "/me/keys")):
        refused = await customer.call(method, path, status=422, json=misspelt)
        assert [error["field"] for error in refused["errors"]] == ["permissions"]


async def test_account_that_makes_keys_without_end_is_slowed_down_and_others_are_not(account_api: AccountApi) -> None:
    eager, other = await account_api.customer(), await account_api.customer()
    made = await eager.post("/me/keys", {}, status=201)
    for _ in range(KEYS_OF_ACCOUNT.burst - 1):
        assert _made.take(eager.id)
    for path in ("/me/keys", f"/me/keys/{made['id']}/rotate"):
        refused = await eager.client.post(path, json={})
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
    assert len((await eager.get("/me/keys"))["data"]) == 1
    await eager.call("DELETE", f"/me/keys/{made['id']}", status=204)
    await other.post("/me/keys", {}, status=201)


async def test_key_is_changed_and_disabled(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    made = await customer.post("/me/keys", {}, status=201)
    changes = {"status": "disabled", "credit_cap": 5, "allowed_ips": ["192.0.2.1/32"]}
    after = await customer.call("PATCH", f"/me/keys/{made['id']}", json=changes)
    assert after.items() >= changes.items()


@pytest.mark.parametrize("by", ["POST revoke", "DELETE"])
async def test_revoked_key_is_refused_and_stays_revoked(account_api: AccountApi, by: str) -> None:
    customer = await account_api.customer()
    made = await customer.post("/me/keys", {}, status=201)
    for _ in range(2):
        if by == "DELETE":
            await customer.call("DELETE", f"/me/keys/{made['id']}", status=204)
        else:
            assert (await customer.post(f"/me/keys/{made['id']}/revoke"))["status"] == "revoked"
    assert await _limits(account_api, made["key"]) == (401, "key_revoked")
    await customer.call("PATCH", f"/me/keys/{made['id']}", json={"status": "active"}, status=409)
    await customer.post(f"/me/keys/{made['id']}/rotate", status=409)


async def test_replaced_key_works_for_its_grace(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    old = await customer.post("/me/keys", {"name": "a", "credit_cap": 9}, status=201)
    new = await customer.post(f"/me/keys/{old['id']}/rotate", {"grace_seconds": 60}, status=201)
    assert (new["name"], new["credit_cap"]) == ("a", 9)
    assert await _limits(account_api, old["key"]) == await _limits(account_api, new["key"]) == (200, None)
    last = await customer.post(f"/me/keys/{new['id']}/rotate", status=201)
    assert await _limits(account_api, new["key"]) == (401, "key_expired")
    assert await _limits(account_api, last["key"]) == (200, None)


async def test_key_of_another_user_is_not_found(account_api: AccountApi) -> None:
    owner, other = await account_api.customer(), await account_api.customer()
    made = await owner.post("/me/keys", {}, status=201)
    nobodys = str(uuid4())
    for key_id in (made["id"], nobodys):
        responses: list[dict[str, Any]] = [
            await other.get(f"/me/keys/{key_id}", status=404),
            await other.call("PATCH", f"/me/keys/{key_id}", json={"name": "mine"}, status=404),
            await other.call("DELETE", f"/me/keys/{key_id}", status=404),
            await other.post(f"/me/keys/{key_id}/revoke", status=404),
            await other.post(f"/me/keys/{key_id}/rotate", status=404),
            await other.post("/me/quote", {"route": "analyze", "key_id": key_id}, status=404),
        ]
        assert {response["detail"] for response in responses} == {f"There is no key {key_id}."}
    assert (await other.get("/me/keys"))["data"] == []
    assert await _limits(account_api, made["key"]) == (200, None)


@pytest.mark.parametrize(
    ("secret", "code"),
    [("gw_live_short", "invalid_key"), ("gw_live_" + "a" * 36, "invalid_key"), ("other", "invalid_key")],
)
async def test_malformed_key_is_refused(account_api: AccountApi, secret: str, code: str) -> None:
    assert await _limits(account_api, secret) == (401, code)


async def test_key_is_refused_from_other_addresses_than_its_own(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    made = await customer.post("/me/keys", {"allowed_ips": ["203.0.113.0/24"]}, status=201)
    assert await _limits(account_api, made["key"]) == (403, "ip_not_allowed")


async def test_key_reads_usage_and_limits_only(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    key = (await customer.post("/me/keys", {}, status=201))["key"]
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        for path, status in (("/me/usage", 200), ("/me/limits", 200), ("/me", 401), ("/me/keys", 401)):
            assert (await account_api.client.get(path, headers=headers)).status_code == status, path


async def _limits(account_api: AccountApi, key: str) -> tuple[int, str | None]:
    response = await account_api.client.get("/me/limits", headers={"x-api-key": key})
    return response.status_code, response.json().get("code")


async def test_reason_of_a_rotation_stands_in_the_audit_log(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    old = await customer.post("/me/keys", {}, status=201)
    await customer.post(f"/me/keys/{old['id']}/rotate", {"reason": "leaked"}, status=201)
    async with account_api.database.read() as connection:
        page = await audit_log.list_entries(connection, AuditFilter(action="keys.rotate", entity_id=old["id"]))
    assert [entry.reason for entry in page.data] == ["leaked"]
