"""Products, and permissions that are in use."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.api.conftest import AdminApi

UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def test_product_is_created_changed_listed_and_deleted(admin_api: AdminApi) -> None:
    made = await admin_api.post("/products", {"name": uuid4().hex, "metadata": {"a": 1}}, status=201)
    changed = await admin_api.call("PATCH", f"/products/{made['id']}", json={"description": "New", "is_active": False})
    assert (changed["name"], changed["description"], changed["is_active"]) == (made["name"], "New", False)
    assert changed == await admin_api.get(f"/products/{made['id']}")
    assert changed in await admin_api.pages("/products", limit=1)
    await admin_api.call("DELETE", f"/products/{made['id']}", status=204)
    await admin_api.call("GET", f"/products/{made['id']}", status=404)
    actions = [entry["action"] for entry in await admin_api.audit(made["id"])]
    assert actions == ["products.create", "products.change", "products.delete"]


async def test_product_stays_while_a_plan_belongs_to_it(admin_api: AdminApi) -> None:
    made = await admin_api.post("/products", {"name": uuid4().hex}, status=201)
    plan = {"name": uuid4().hex, "price": "1", "product_id": made["id"]}
    await admin_api.post("/plans", plan, status=201)
    response = await admin_api.call("DELETE", f"/products/{made['id']}", status=409)
    assert "is_active" in response["detail"]


async def test_taken_name_is_a_conflict(admin_api: AdminApi) -> None:
    body = {"name": uuid4().hex}
    await admin_api.post("/products", body, status=201)
    await admin_api.call("POST", "/products", status=409, json=body)


async def test_unknown_product_or_permission_is_not_found(admin_api: AdminApi) -> None:
    for noun in ("products", "permissions"):
        for path in (f"/{noun}/{UNKNOWN}", f"/{noun}/x"):
            await admin_api.call("GET", path, status=404)
            await admin_api.call("PATCH", path, status=404, json={"description": "x"})
            await admin_api.call("DELETE", path, status=404)


async def a_permission(admin_api: AdminApi) -> dict[str, Any]:
    made: dict[str, Any] = await admin_api.post("/permissions", {"name": uuid4().hex}, status=201)
    return made


async def test_unused_permission_can_be_renamed_and_deleted(admin_api: AdminApi) -> None:
    made = await a_permission(admin_api)
    name = uuid4().hex
    changed = await admin_api.call("PATCH", f"/permissions/{made['id']}", json={"name": name, "description": "x"})
    assert (changed["name"], changed["description"]) == (name, "x")
    await admin_api.call("DELETE", f"/permissions/{made['id']}", status=204)
    await admin_api.call("GET", f"/permissions/{made['id']}", status=404)
    actions = [entry["action"] for entry in await admin_api.audit(made["id"])]
    assert actions == ["permissions.create", "permissions.change", "permissions.delete"]


async def test_permission_of_a_plan_or_key_cannot_be_renamed_or_deleted(
    admin_api: AdminApi, a_plan: dict[str, Any]
) -> None:
    made = await a_permission(admin_api)
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"], permissions=[made["name"]])
    await admin_api.call("PUT", f"/plans/{a_plan['id']}/permissions/{made['name']}", status=204)
    for method, options in (("DELETE", {}), ("PATCH", {"json": {"name": uuid4().hex}})):
        response = await admin_api.call(method, f"/permissions/{made['id']}", status=409, **options)
        assert a_plan["id"] in response["detail"]
        assert key["id"] in response["detail"]
    await admin_api.call("PATCH", f"/permissions/{made['id']}", json={"description": "still changed"})
    await admin_api.call("DELETE", f"/plans/{a_plan['id']}/permissions/{made['name']}", status=204)
    await admin_api.post(f"/keys/{key['id']}/revoke")
    await admin_api.call("DELETE", f"/permissions/{made['id']}", status=204)


async def test_permission_of_a_route_cannot_be_deleted(admin_api: AdminApi) -> None:
    """Of one that may be there already: permissions are shared by all tests."""
    await admin_api.client.post("/admin/v1/permissions", json={"name": "analyze"})
    made = next(each for each in await admin_api.pages("/permissions", limit=100) if each["name"] == "analyze")
    response = await admin_api.call("DELETE", f"/permissions/{made['id']}", status=409)
    assert response["detail"].startswith("'analyze' can be deleted once nothing uses it any more: routes analyze")
