"""Products, and the permissions that stay while something uses them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.api.conftest import Office

UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def test_a_product_is_made_changed_listed_and_deleted(office: Office) -> None:
    made = await office.post("/products", {"name": uuid4().hex, "metadata": {"a": 1}}, status=201)
    changed = await office.call("PATCH", f"/products/{made['id']}", json={"description": "New", "is_active": False})
    assert (changed["name"], changed["description"], changed["is_active"]) == (made["name"], "New", False)
    assert changed == await office.get(f"/products/{made['id']}")
    assert changed in await office.pages("/products", limit=1)
    await office.call("DELETE", f"/products/{made['id']}", status=204)
    await office.call("GET", f"/products/{made['id']}", status=404)
    actions = [entry["action"] for entry in await office.audit(made["id"])]
    assert actions == ["products.create", "products.change", "products.delete"]


async def test_a_product_stays_while_a_plan_belongs_to_it(office: Office) -> None:
    made = await office.post("/products", {"name": uuid4().hex}, status=201)
    plan = {"name": uuid4().hex, "price": "1", "product_id": made["id"]}
    await office.post("/plans", plan, status=201)
    answer = await office.call("DELETE", f"/products/{made['id']}", status=409)
    assert "is_active" in answer["detail"]


async def test_a_taken_name_is_a_conflict(office: Office) -> None:
    given = {"name": uuid4().hex}
    await office.post("/products", given, status=201)
    await office.call("POST", "/products", status=409, json=given)


async def test_an_unknown_product_or_permission_is_not_found(office: Office) -> None:
    for noun in ("products", "permissions"):
        for path in (f"/{noun}/{UNKNOWN}", f"/{noun}/x"):
            await office.call("GET", path, status=404)
            await office.call("PATCH", path, status=404, json={"description": "x"})
            await office.call("DELETE", path, status=404)


async def a_permission(office: Office, name: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = await office.post("/permissions", {"name": name or uuid4().hex}, status=201)
    return made


async def test_a_permission_nobody_uses_can_be_renamed_and_deleted(office: Office) -> None:
    made = await a_permission(office)
    name = uuid4().hex
    changed = await office.call("PATCH", f"/permissions/{made['id']}", json={"name": name, "description": "x"})
    assert (changed["name"], changed["description"]) == (name, "x")
    await office.call("DELETE", f"/permissions/{made['id']}", status=204)
    await office.call("GET", f"/permissions/{made['id']}", status=404)
    actions = [entry["action"] for entry in await office.audit(made["id"])]
    assert actions == ["permissions.create", "permissions.change", "permissions.delete"]


async def test_a_permission_that_a_plan_or_key_uses_stays_as_it_is(office: Office, a_plan: dict[str, Any]) -> None:
    made = await a_permission(office)
    user = await office.a_user()
    key = await office.a_key(user["id"], permissions=[made["name"]])
    await office.call("PUT", f"/plans/{a_plan['id']}/permissions/{made['name']}", status=204)
    for method, options in (("DELETE", {}), ("PATCH", {"json": {"name": uuid4().hex}})):
        answer = await office.call(method, f"/permissions/{made['id']}", status=409, **options)
        assert a_plan["id"] in answer["detail"]
        assert key["id"] in answer["detail"]
    await office.call("PATCH", f"/permissions/{made['id']}", json={"description": "still changed"})
    await office.call("DELETE", f"/plans/{a_plan['id']}/permissions/{made['name']}", status=204)
    await office.post(f"/keys/{key['id']}/revoke")
    await office.call("DELETE", f"/permissions/{made['id']}", status=204)


async def test_a_permission_that_a_route_asks_for_stays(office: Office) -> None:
    made = await a_permission(office, "analyze")
    answer = await office.call("DELETE", f"/permissions/{made['id']}", status=409)
    assert answer["detail"].startswith("'analyze' can be deleted once nothing uses it any more: routes analyze")
