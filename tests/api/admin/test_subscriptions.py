"""Subscriptions over the admin API."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from gateway.meter.meter import Verdict
from tests.api.conftest import Office


async def test_a_subscription_starts_at_once_with_its_credits(office: Office, a_plan: dict[str, Any]) -> None:
    user = await office.a_user()
    started = await office.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["name"]}, status=201)
    assert started.items() >= {"status": "active", "plan_id": a_plan["id"], "user_id": user["id"]}.items()
    begins, ends = (datetime.fromisoformat(started[f"current_period_{end}"]) for end in ("start", "end"))
    assert 28 <= (ends - begins).days <= 31
    assert await office.get(f"/subscriptions/{started['id']}") == started
    assert (await office.get(f"/users/{user['id']}"))["subscription"] == started
    assert (await office.get(f"/users/{user['id']}/credits"))["subscription_id"] == started["id"]
    assert [entry["action"] for entry in await office.audit(started["id"])] == ["subscriptions.start"]


async def test_a_second_current_subscription_is_a_conflict(office: Office, a_plan: dict[str, Any]) -> None:
    user = await office.a_user(plan=a_plan["id"])
    refused = await office.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=409)
    assert "cancel that one" in refused["detail"]
    assert await office.balance(user["id"]) == a_plan["credits_per_period"]


async def test_a_new_subscription_is_known_before_the_answer(office: Office, a_plan: dict[str, Any]) -> None:
    user = await office.a_user()
    known = await office.heat(user["id"])
    await office.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=201)
    assert (await office.admit(user["id"], known)).verdict is Verdict.STALE


async def test_cancelling_waits_for_the_period_unless_told_otherwise(office: Office, a_plan: dict[str, Any]) -> None:
    subscription = (await office.a_user(plan=a_plan["id"]))["subscription"]
    path = f"/subscriptions/{subscription['id']}/cancel"
    waiting = await office.post(path)
    assert (waiting["status"], waiting["cancel_at_period_end"]) == ("active", True)
    ended = await office.post(path, {"at_period_end": False})
    assert ended["status"] == "canceled"
    assert ended["canceled_at"] is not None
    refused = await office.post(path, status=409)
    assert "canceled" in refused["detail"]
    statuses = [entry["after"]["status"] for entry in await office.audit(subscription["id"])]
    assert statuses == ["active", "canceled"]


async def test_another_can_start_once_one_has_ended(office: Office, a_plan: dict[str, Any]) -> None:
    user = await office.a_user(plan=a_plan["id"])
    await office.post(f"/subscriptions/{user['subscription']['id']}/cancel", {"at_period_end": False})
    await office.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=201)


async def test_what_is_unknown_is_not_found(office: Office, a_plan: dict[str, Any]) -> None:
    user = await office.a_user()
    await office.post("/subscriptions", {"user_id": str(uuid4()), "plan_id": a_plan["id"]}, status=404)
    await office.post("/subscriptions", {"user_id": user["id"], "plan_id": "nope"}, status=404)
    await office.call("GET", f"/subscriptions/{uuid4()}", status=404)
    await office.post(f"/subscriptions/{uuid4()}/cancel", status=404)


@pytest.mark.parametrize("body", [{"at_period_end": "no"}, {"now": True}, []])
async def test_a_cancellation_that_is_not_understood_is_refused(
    office: Office, a_plan: dict[str, Any], body: Any
) -> None:
    subscription = (await office.a_user(plan=a_plan["id"]))["subscription"]
    await office.post(f"/subscriptions/{subscription['id']}/cancel", body, status=422)
