"""The audit log has every change, in the transaction of the change."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import AdminApi


async def test_audit_cursor_walks_every_entry_once(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    for name in ("a", "b", "c", "d"):
        await admin_api.call("PATCH", f"/users/{user['id']}", json={"name": name})
    walked = await admin_api.pages("/audit-log", limit=2, entity="user", entity_id=user["id"])
    assert [entry["after"]["name"] for entry in walked] == ["d", "c", "b", "a", None]
    assert len({entry["id"] for entry in walked}) == 5


async def test_audit_filter_by_entity_gives_its_entries_only(admin_api: AdminApi) -> None:
    user, other = await admin_api.create_user(), await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    for entity, entity_id in (("user", user["id"]), ("user", other["id"]), ("key", key["id"])):
        entries = (await admin_api.get("/audit-log", entity=entity, entity_id=entity_id))["data"]
        assert {(entry["entity"], entry["entity_id"]) for entry in entries} == {(entity, entity_id)}


async def test_refused_change_leaves_no_audit_entry(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    await admin_api.create_user(plan=a_plan["id"])
    before = await admin_api.audit(a_plan["id"])
    await admin_api.call("DELETE", f"/plans/{a_plan['id']}", status=409)
    assert await admin_api.audit(a_plan["id"]) == before


async def test_deleted_user_is_erased_from_the_audit_log_and_the_chain_holds(admin_api: AdminApi) -> None:
    user = await admin_api.create_user(name="Ada Lovelace", company="Analytical Engines")
    await admin_api.create_key(user["id"], allowed_ips=["203.0.113.7"])
    await admin_api.call("DELETE", f"/users/{user['id']}", status=204)
    created, *_ = await admin_api.audit(user["id"])
    assert (created["after"]["email"], created["after"]["name"]) == ("(erased)", "(erased)")
    assert created["after"]["status"] == "active"
    result = str((await admin_api.get("/audit-log", limit=500))["data"])
    assert not any(secret in result for secret in (user["email"], "Ada Lovelace", "Analytical Engines", "203.0.113.7"))


async def test_audit_log_is_filtered_by_actor_action_and_time(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    (entry,) = await admin_api.audit(user["id"])
    for body in ({"actor": "admin"}, {"action": "users.create"}, {"from": entry["created_at"]}):
        found = await admin_api.get("/audit-log", entity_id=user["id"], **body)
        assert [each["id"] for each in found["data"]] == [entry["id"]]
    for body in ({"actor": "nobody"}, {"action": "users.delete"}, {"to": entry["created_at"]}):
        assert (await admin_api.get("/audit-log", entity_id=user["id"], **body))["data"] == []


async def last_entry(admin_api: AdminApi, entity_id: str) -> dict[str, Any]:
    found = await admin_api.get("/audit-log", entity_id=entity_id, limit=1)
    entry: dict[str, Any] = found["data"][0]
    return entry


async def test_reason_of_a_change_stands_in_the_audit_log(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    key = await admin_api.post("/keys", {"user_id": user["id"]}, status=201)
    subscription_id = user["subscription"]["id"]
    for entity_id, path in (
        (user["id"], f"/users/{user['id']}/suspend"),
        (user["id"], f"/users/{user['id']}/reactivate"),
        (key["id"], f"/keys/{key['id']}/revoke"),
        (subscription_id, f"/subscriptions/{subscription_id}/pause"),
        (subscription_id, f"/subscriptions/{subscription_id}/resume"),
        (subscription_id, f"/subscriptions/{subscription_id}/cancel"),
        (subscription_id, f"/subscriptions/{subscription_id}/undo-cancel"),
    ):
        await admin_api.post(path, {"reason": "asked by mail", "until": "2027-01-01"}, status=422)
        await admin_api.post(path, {"reason": "asked by mail"})
        entry = await last_entry(admin_api, entity_id)
        assert (entry["action"].split(".")[1].replace("_", "-"), entry["reason"]) == (
            path.rpartition("/")[2],
            "asked by mail",
        )


@pytest.mark.parametrize("body", [{"reason": "x"}, [], "x", 0])
async def test_body_that_would_be_ignored_is_refused(admin_api: AdminApi, body: Any) -> None:
    product = await admin_api.post("/products", {"name": "P"}, status=201)
    answer = await admin_api.client.request("DELETE", f"/admin/v1/products/{product['id']}", json=body)
    assert answer.status_code == 422, answer.text
    assert "takes none" in answer.json()["detail"]
    empty = await admin_api.client.request("DELETE", f"/admin/v1/products/{product['id']}", json={})
    assert empty.status_code == 204
