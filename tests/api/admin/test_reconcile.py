"""Reconciliation reports differences, and repairs them on request."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from tests.api.conftest import AdminApi


async def test_difference_is_reported_then_repaired_and_audited(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    await admin_api.load_account(user["id"])
    async with admin_api.database.transaction() as connection:
        forge = text("UPDATE user_credits SET current_credits = 7 WHERE user_id = CAST(:id AS uuid)")
        await connection.execute(forge, {"id": user["id"]})
    result = await admin_api.post("/reconcile", {})
    assert {each["book"] for each in of(result, user)} == {"ledger", "grants", "redis"}
    assert not any(each["repaired"] for each in of(result, user))
    ended = await admin_api.post("/reconcile", {"repair": True})
    assert ended["repaired"] >= 3
    assert all(each["repaired"] for each in of(ended, user))
    assert of(await admin_api.post("/reconcile"), user) == []
    noted = [entry for entry in await admin_api.audit(user["id"]) if entry["action"].startswith("reconcile.")]
    assert {entry["actor"] for entry in noted} == {"admin"}


def of(result: dict[str, Any], user: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in result["found"] if each["user_id"] == user["id"]]
