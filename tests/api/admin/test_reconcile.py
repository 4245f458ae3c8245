"""Reconciling tells what differs, and ends it where it is told to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from tests.api.conftest import Office


async def test_a_difference_is_told_then_ended_and_noted(office: Office) -> None:
    user = await office.a_user()
    await office.heat(user["id"])
    async with office.database.transaction() as connection:
        forge = text("UPDATE user_credits SET current_credits = 7 WHERE user_id = CAST(:id AS uuid)")
        await connection.execute(forge, {"id": user["id"]})
    told = await office.post("/reconcile", {})
    assert {each["book"] for each in of(told, user)} == {"ledger", "grants", "redis"}
    assert not any(each["repaired"] for each in of(told, user))
    ended = await office.post("/reconcile", {"repair": True})
    assert ended["repaired"] >= 3
    assert all(each["repaired"] for each in of(ended, user))
    assert of(await office.post("/reconcile"), user) == []
    noted = [entry for entry in await office.audit(user["id"]) if entry["action"].startswith("reconcile.")]
    assert {entry["actor"] for entry in noted} == {"admin"}


def of(told: dict[str, Any], user: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in told["found"] if each["user_id"] == user["id"]]
