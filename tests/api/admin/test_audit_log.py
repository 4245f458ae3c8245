"""The audit log over the admin API: every change is in it, in the transaction of the change."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Office


async def test_the_cursor_walks_every_entry_once(office: Office) -> None:
    user = await office.a_user()
    for name in ("a", "b", "c", "d"):
        await office.call("PATCH", f"/users/{user['id']}", json={"name": name})
    walked = await office.pages("/audit-log", limit=2, entity="user", entity_id=user["id"])
    assert [entry["after"]["name"] for entry in walked] == ["d", "c", "b", "a", None]
    assert len({entry["id"] for entry in walked}) == 5


async def test_entries_are_of_the_thing_that_was_asked_for(office: Office) -> None:
    user, other = await office.a_user(), await office.a_user()
    key = await office.a_key(user["id"])
    for entity, entity_id in (("user", user["id"]), ("user", other["id"]), ("key", key["id"])):
        entries = (await office.get("/audit-log", entity=entity, entity_id=entity_id))["data"]
        assert {(entry["entity"], entry["entity_id"]) for entry in entries} == {(entity, entity_id)}


async def test_a_refused_change_leaves_no_entry(office: Office, a_plan: dict[str, Any]) -> None:
    await office.a_user(plan=a_plan["id"])
    before = await office.audit(a_plan["id"])
    await office.call("DELETE", f"/plans/{a_plan['id']}", status=409)
    assert await office.audit(a_plan["id"]) == before


async def test_a_deleted_user_is_erased_from_it_and_the_chain_goes_on(office: Office) -> None:
    user = await office.a_user(name="Ada Lovelace", company="Analytical Engines")
    await office.a_key(user["id"], allowed_ips=["203.0.113.7"])
    await office.call("DELETE", f"/users/{user['id']}", status=204)
    created, *_ = await office.audit(user["id"])
    assert (created["after"]["email"], created["after"]["name"]) == ("(erased)", "(erased)")
    assert created["after"]["status"] == "active"
    told = str((await office.get("/audit-log", limit=500))["data"])
    assert not any(secret in told for secret in (user["email"], "Ada Lovelace", "Analytical Engines", "203.0.113.7"))


async def test_it_is_filtered_by_who_did_what_and_when(office: Office) -> None:
    user = await office.a_user()
    (entry,) = await office.audit(user["id"])
    for given in ({"actor": "admin"}, {"action": "users.create"}, {"from": entry["created_at"]}):
        found = await office.get("/audit-log", entity_id=user["id"], **given)
        assert [each["id"] for each in found["data"]] == [entry["id"]]
    for given in ({"actor": "nobody"}, {"action": "users.delete"}, {"to": entry["created_at"]}):
        assert (await office.get("/audit-log", entity_id=user["id"], **given))["data"] == []
