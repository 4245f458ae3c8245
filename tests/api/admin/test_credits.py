"""Credits and the ledger over the admin API."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.clock import now
from gateway.ledger.accounts import erasure
from tests.api.conftest import AdminApi
from tests.support.waiting import until_waiting


async def test_grant_is_in_the_balance_the_grants_and_the_ledger(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    ends = (now() + timedelta(days=30)).isoformat()
    given = {"amount": 100, "reason": "welcome", "source": "promo", "expires_at": ends}
    entry = await admin_api.post(f"/users/{user['id']}/credits/grant", given, status=201)
    assert entry.items() >= {"kind": "grant", "amount": 100, "balance_after": 100, "actor": "admin"}.items()
    shown = await admin_api.get(f"/users/{user['id']}/credits")
    assert (shown["current_credits"], shown["total_credits_purchased"]) == (100, 0)
    assert [(grant["source"], grant["remaining"], grant["id"]) for grant in shown["grants"]] == [
        ("promo", 100, entry["grant_id"])
    ]
    assert (await admin_api.get(f"/users/{user['id']}/ledger"))["data"] == [entry]
    noted = (await admin_api.audit(user["id"]))[-1]
    assert noted.items() >= {"action": "credits.grant", "reason": "welcome", "after": entry}.items()


async def test_scheduled_grant_waits_for_its_time(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    begins, ends = ((now() + timedelta(days=days)).isoformat() for days in (1, 30))
    given = {"amount": 9, "reason": "next month", "effective_at": begins, "expires_at": ends, "priority": 5}
    planned = await admin_api.post(f"/users/{user['id']}/credits/grant", given, status=201)
    assert planned.items() >= {"is_scheduled": True, "remaining": 0, "amount": 9, "priority": 5}.items()
    shown = await admin_api.get(f"/users/{user['id']}/credits")
    assert (shown["current_credits"], shown["grants"], shown["scheduled"]) == (0, [], [planned])
    assert (await admin_api.get(f"/users/{user['id']}/ledger"))["data"] == []
    backwards = {**given, "effective_at": ends, "expires_at": begins}
    await admin_api.post(f"/users/{user['id']}/credits/grant", backwards, status=422)


async def test_granted_credits_are_in_redis_before_the_response(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    known = await admin_api.load_account(user["id"])
    await admin_api.post(f"/users/{user['id']}/credits/grant", {"amount": 40, "reason": "test"}, status=201)
    assert (await admin_api.admit(user["id"], known)).balance == 40
    await admin_api.post(f"/users/{user['id']}/credits/adjust", {"amount": -15, "reason": "test"}, status=201)
    assert (await admin_api.admit(user["id"], known)).balance == 25


async def test_adjustment_may_go_below_zero_and_back(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    path = f"/users/{user['id']}/credits/adjust"
    down = await admin_api.post(path, {"amount": -30, "reason": "mistake"}, status=201)
    up = await admin_api.post(path, {"amount": 50, "reason": "mistake of the mistake"}, status=201)
    assert (down["balance_after"], up["balance_after"]) == (-30, 20)
    shown = await admin_api.get(f"/users/{user['id']}/credits")
    assert shown["current_credits"] == sum(grant["remaining"] for grant in shown["grants"]) == 20


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("grant", {"amount": 0}, "amount"),
        ("grant", {"amount": -5}, "amount"),
        ("grant", {"amount": 1.5}, "amount"),
        ("grant", {"amount": "5"}, "amount"),
        ("grant", {"amount": True}, "amount"),
        ("grant", {"amount": 10**12 + 1}, "amount"),
        ("grant", {"reason": " "}, "reason"),
        ("grant", {"source": "thin air"}, "source"),
        ("grant", {"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ("grant", {"effective_at": "2020-01-01T00:00:00Z"}, "effective_at"),
        ("grant", {"priority": -1}, "priority"),
        ("grant", {"actor": "me"}, "actor"),
        ("adjust", {"amount": 0}, "amount"),
        ("adjust", {"amount": -(10**12) - 1}, "amount"),
        ("adjust", {"reason": None}, "reason"),
    ],
)
async def test_bad_field_is_named_and_the_balance_stays(
    admin_api: AdminApi, path: str, fields: dict[str, Any], named: str
) -> None:
    user = await admin_api.create_user()
    body = {"amount": 5, "reason": "test", **fields}
    refused = await admin_api.post(f"/users/{user['id']}/credits/{path}", body, status=422)
    assert [error["field"] for error in refused["errors"]] == [named]
    assert (await admin_api.get(f"/users/{user['id']}/ledger"))["data"] == []


async def test_grant_and_adjustment_need_a_reason(admin_api: AdminApi) -> None:
    refused = await admin_api.post(f"/users/{uuid4()}/credits/grant", {"amount": 5}, status=422)
    assert refused["errors"] == [{"field": "reason", "message": "required"}]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "credits"), ("POST", "credits/grant"), ("POST", "credits/adjust"), ("GET", "ledger")]
)
async def test_unknown_or_deleted_user_is_not_found(admin_api: AdminApi, method: str, path: str) -> None:
    deleted = (await admin_api.create_user())["id"]
    await admin_api.call("DELETE", f"/users/{deleted}", status=204)
    body: dict[str, Any] = {"json": {"amount": 5, "reason": "test"}} if method == "POST" else {}
    for user_id in (str(uuid4()), deleted):
        await admin_api.call(method, f"/users/{user_id}/{path}", status=404, **body)


@pytest.mark.parametrize("path", ["credits/grant", "credits/adjust"])
async def test_credits_of_a_user_that_is_being_deleted_are_refused(admin_api: AdminApi, path: str) -> None:
    user = await admin_api.create_user()
    body = {"amount": 5, "reason": "test"}
    async with admin_api.database.transaction() as connection:
        await erasure.erase(connection, UUID(user["id"]), now=now())
        given = asyncio.create_task(admin_api.post(f"/users/{user['id']}/{path}", body, status=404))
        waits = asyncio.create_task(until_waiting(admin_api.database))
        await asyncio.wait({given, waits}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
    await given


async def test_ledgers_of_two_users_never_mix_and_the_cursor_walks_each_once(admin_api: AdminApi) -> None:
    users = [(await admin_api.create_user())["id"] for _ in range(2)]
    for amount in range(1, 6):
        for user in users:
            await admin_api.post(f"/users/{user}/credits/grant", {"amount": amount, "reason": user}, status=201)
    for user in users:
        walked = await admin_api.pages(f"/users/{user}/ledger", limit=2)
        assert [entry["amount"] for entry in walked] == [5, 4, 3, 2, 1]
        assert {entry["reason"] for entry in walked} == {user}


async def test_cursor_out_of_range_is_refused(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    cursor = "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"  # 24 nines
    await admin_api.call("GET", f"/users/{user['id']}/ledger", params={"cursor": cursor}, status=422)
