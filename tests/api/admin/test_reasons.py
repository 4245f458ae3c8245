"""Changes that need no body take a reason for the audit log, and refuse what they would ignore."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import AdminApi

REASON = {"reason": "asked by mail"}


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
        await admin_api.post(path, {**REASON, "until": "2027-01-01"}, status=422)
        await admin_api.post(path, REASON)
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
