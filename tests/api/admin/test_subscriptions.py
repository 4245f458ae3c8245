"""Subscriptions over the admin API."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from gateway.meter.replies import Verdict
from tests.api.conftest import AdminApi


async def test_subscription_starts_at_once_with_its_credits(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user()
    started = await admin_api.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["name"]}, status=201)
    assert started.items() >= {"status": "active", "plan_id": a_plan["id"], "user_id": user["id"]}.items()
    begins, ends = (datetime.fromisoformat(started[f"current_period_{end}"]) for end in ("start", "end"))
    assert 28 <= (ends - begins).days <= 31
    assert await admin_api.get(f"/subscriptions/{started['id']}") == started
    assert (await admin_api.get(f"/users/{user['id']}"))["subscription"] == started
    assert (await admin_api.get(f"/users/{user['id']}/credits"))["subscription_id"] == started["id"]
    assert [entry["action"] for entry in await admin_api.audit(started["id"])] == ["subscriptions.start"]


async def test_second_current_subscription_is_a_conflict(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    refused = await admin_api.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=409)
    assert "cancel that one" in refused["detail"]
    assert await admin_api.balance(user["id"]) == a_plan["credits_per_period"]


async def test_new_subscription_is_in_redis_before_the_response(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user()
    known = await admin_api.load_account(user["id"])
    await admin_api.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=201)
    assert (await admin_api.admit(user["id"], known)).verdict is Verdict.STALE


async def test_cancellation_waits_for_the_period_unless_at_once(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    subscription = (await admin_api.create_user(plan=a_plan["id"]))["subscription"]
    path = f"/subscriptions/{subscription['id']}/cancel"
    waiting = await admin_api.post(path)
    assert (waiting["status"], waiting["cancel_at_period_end"]) == ("active", True)
    ended = await admin_api.post(path, {"at_period_end": False})
    assert ended["status"] == "canceled"
    assert ended["canceled_at"] is not None
    refused = await admin_api.post(path, status=409)
    assert "canceled" in refused["detail"]
    assert refused["legal"] == []
    statuses = [entry["after"]["status"] for entry in await admin_api.audit(subscription["id"])]
    assert statuses == ["active", "canceled"]


async def test_cancellation_at_period_end_can_be_undone(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    subscription = (await admin_api.create_user(plan=a_plan["id"]))["subscription"]
    path = f"/subscriptions/{subscription['id']}"
    refused = await admin_api.post(f"{path}/undo-cancel", status=409)
    assert "cancel_at_period_end" in refused["legal"]
    await admin_api.post(f"{path}/cancel")
    kept = await admin_api.post(f"{path}/undo-cancel")
    assert (kept["status"], kept["cancel_at_period_end"], kept["canceled_at"]) == ("active", False, None)


async def test_paused_subscription_is_resumed(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    subscription = (await admin_api.create_user(plan=a_plan["id"]))["subscription"]
    path = f"/subscriptions/{subscription['id']}"
    assert (await admin_api.post(f"{path}/pause"))["status"] == "paused"
    refused = await admin_api.post(f"{path}/pause", status=409)
    assert refused["legal"] == ["cancel_now", "cancel_at_period_end", "resume"]
    assert (await admin_api.post(f"{path}/resume"))["status"] == "active"
    assert [entry["action"] for entry in await admin_api.audit(subscription["id"])] == [
        "subscriptions.pause",
        "subscriptions.resume",
    ]


async def test_larger_plan_gives_its_share_of_the_period_at_once(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    larger = await admin_api.post("/plans", {"name": uuid4().hex, "price": "9", "credits_per_period": 170}, status=201)
    path = f"/subscriptions/{user['subscription']['id']}/change"
    changed = await admin_api.post(path, {"plan_id": larger["id"]})
    assert (changed["plan_id"], changed["current_period_end"]) == (
        larger["id"],
        user["subscription"]["current_period_end"],
    )
    assert await admin_api.balance(user["id"]) == 169  # all but some seconds of the period are left, rounded down
    waiting = await admin_api.post(path, {"plan_id": a_plan["id"], "at_period_end": True})
    assert (waiting["plan_id"], waiting["next_plan_id"]) == (larger["id"], a_plan["id"])
    refused = await admin_api.post(path, {}, status=422)
    assert [error["field"] for error in refused["errors"]] == ["plan_id"]


async def test_retired_plan_keeps_its_subscribers_and_takes_no_new_ones(
    admin_api: AdminApi, a_plan: dict[str, Any]
) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json={"is_active": False, "pricing_model": "per_seat"})
    assert (await admin_api.get(f"/users/{user['id']}"))["subscription"]["status"] == "active"
    other = await admin_api.create_user()
    await admin_api.post("/subscriptions", {"user_id": other["id"], "plan_id": a_plan["id"]}, status=409)
    path = f"/subscriptions/{user['subscription']['id']}/change"
    assert (await admin_api.post(path, {"plan_id": a_plan["id"], "quantity": 2}))["quantity"] == 2


async def test_account_has_one_trial(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user()
    given = {"user_id": user["id"], "plan_id": a_plan["id"], "trial": True}
    assert "no trial" in (await admin_api.post("/subscriptions", given, status=409))["detail"]
    await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json={"trial_period_days": 14})
    begun = await admin_api.post("/subscriptions", given, status=201)
    assert (begun["status"], begun["trial_end"]) == ("trialing", begun["current_period_end"])
    await admin_api.post(f"/subscriptions/{begun['id']}/cancel", {"at_period_end": False})
    assert "one trial" in (await admin_api.post("/subscriptions", given, status=409))["detail"]


async def test_subscriptions_are_filtered_by_user_plan_and_status(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    users = [await admin_api.create_user(plan=a_plan["id"]) for _ in range(3)]
    await admin_api.post(f"/subscriptions/{users[0]['subscription']['id']}/cancel", {"at_period_end": False})
    listed = await admin_api.pages("/subscriptions", limit=2, plan_id=a_plan["id"])
    assert [each["user_id"] for each in listed] == [user["id"] for user in reversed(users)]
    active = await admin_api.pages("/subscriptions", limit=2, plan_id=a_plan["id"], status="active")
    assert [each["user_id"] for each in active] == [users[2]["id"], users[1]["id"]]
    (of_one,) = (await admin_api.get("/subscriptions", user_id=users[0]["id"]))["data"]
    assert of_one["status"] == "canceled"


async def test_subscription_can_start_after_another_ended(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    await admin_api.post(f"/subscriptions/{user['subscription']['id']}/cancel", {"at_period_end": False})
    await admin_api.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=201)


async def test_unknown_subscription_user_or_plan_is_not_found(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user()
    await admin_api.post("/subscriptions", {"user_id": str(uuid4()), "plan_id": a_plan["id"]}, status=404)
    await admin_api.post("/subscriptions", {"user_id": user["id"], "plan_id": "nope"}, status=404)
    await admin_api.call("GET", f"/subscriptions/{uuid4()}", status=404)
    for verb in ("cancel", "undo-cancel", "pause", "resume"):
        await admin_api.post(f"/subscriptions/{uuid4()}/{verb}", status=404)
    await admin_api.post(f"/subscriptions/{uuid4()}/change", {"quantity": 2}, status=404)


@pytest.mark.parametrize("body", [{"at_period_end": "no"}, {"now": True}, []])
async def test_malformed_cancellation_is_refused(admin_api: AdminApi, a_plan: dict[str, Any], body: Any) -> None:
    subscription = (await admin_api.create_user(plan=a_plan["id"]))["subscription"]
    await admin_api.post(f"/subscriptions/{subscription['id']}/cancel", body, status=422)


async def test_seats_of_a_kept_version_are_its_own_whatever_the_plan_is_now(admin_api: AdminApi) -> None:
    terms = {"name": uuid4().hex, "price": "5.00", "pricing_model": "per_seat", "credits_per_period": 10}
    plan = await admin_api.post("/plans", terms, status=201)
    body = {"user_id": (await admin_api.create_user())["id"], "plan_id": plan["id"], "quantity": 5}
    path = f"/subscriptions/{(await admin_api.post('/subscriptions', body, status=201))['id']}/change"
    await admin_api.call("PATCH", f"/plans/{plan['id']}", json={"pricing_model": "flat", "subscribers": "keep"})
    assert (await admin_api.post(path, {"plan_id": plan["id"]}))["quantity"] == 5
    assert (await admin_api.post(path, {"quantity": 6}))["quantity"] == 6
    other = await admin_api.post("/plans", {"name": uuid4().hex, "price": "5.00"}, status=201)
    assert (await admin_api.post(path, {"plan_id": other["id"]}))["quantity"] == 1
