"""402: nothing pays for the call: no subscription that is in force, or too few credits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from gateway.clock import now
from tests.proxy.plane import Account, Plane
from tests.proxy.problems import assert_problem


async def test_an_account_without_subscription_is_refused(plane: Plane) -> None:
    account = await plane.account(subscribed=False)
    async with plane.untouched(account):
        assert_problem(await plane.get(account), 402, "subscription_inactive", subscription_status="none")


@pytest.mark.parametrize("status", ["incomplete", "paused", "canceled", "expired"])
async def test_a_subscription_that_is_not_in_force_is_named(plane: Plane, status: str) -> None:
    account = await plane.account()
    await _subscription(plane, account, status=status)
    async with plane.untouched(account):
        assert_problem(await plane.get(account), 402, "subscription_inactive", subscription_status=status)


async def test_one_that_was_to_end_with_its_period_has_expired(plane: Plane) -> None:
    account = await plane.account()
    await _subscription(plane, account, status="active", is_ending=True, ended=timedelta(seconds=1))
    async with plane.untouched(account):
        assert_problem(await plane.get(account), 402, "subscription_inactive", subscription_status="expired")


async def test_one_past_due_serves_for_three_days_after_its_period(plane: Plane) -> None:
    within, after = await plane.account(), await plane.account()
    await _subscription(plane, within, status="past_due", ended=timedelta(days=3, minutes=-1))
    await _subscription(plane, after, status="past_due", ended=timedelta(days=3, minutes=1))
    assert (await plane.get(within)).status_code == 200
    assert_problem(await plane.get(after), 402, "subscription_inactive", subscription_status="expired")


@pytest.mark.parametrize("status", ["trialing", "active"])
async def test_one_that_is_renewed_late_goes_on_serving(plane: Plane, status: str) -> None:
    account = await plane.account()
    await _subscription(plane, account, status=status, ended=timedelta(days=1))
    assert (await plane.get(account)).status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "required"),
    [
        ("/v1/things/1", b"", 1),
        ("/v1/dear", b"", 7),
        ("/v1/generate", b'{"products": [1, 2, 3, 4]}', 4),
        ("/v1/chat", b"{}", 5),
    ],
)
async def test_too_few_credits_are_told_with_what_is_needed(
    plane: Plane, path: str, content: bytes, required: int
) -> None:
    account = await plane.account(credits=required, requests_per_minute=5)
    assert (await plane.post(account, "/v1/things/warm")).status_code == 200
    async with plane.untouched(account):
        answer = await plane.post(account, path, content)
    assert_problem(answer, 402, "insufficient_credits", required=required, available=required - 1)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-credits-remaining"] == str(required - 1)
    assert answer.headers["ratelimit-policy"] == '"minute";q=5;w=60'
    assert answer.headers["ratelimit"].startswith('"minute";r=4;t=')


async def test_refused_for_credits_consumes_no_limit(plane: Plane) -> None:
    account = await plane.account(credits=1, requests_per_minute=2, requests_per_hour=3, max_api_calls_per_day=4)
    assert (await plane.get(account)).status_code == 200
    async with plane.untouched(account):
        for _ in range(5):
            assert (await plane.get(account)).status_code == 402
    assert await plane.refusals(account) == {("things", "insufficient_credits"): 5}
    assert len(await plane.records(account)) == 1


async def test_a_free_route_serves_without_credits(plane: Plane) -> None:
    account = await plane.account(credits=0)
    answer = await plane.get(account, "/v1/free")
    assert answer.status_code == 200
    assert (answer.headers["x-credits-remaining"], answer.headers["x-credits-charged"]) == ("0", "0")


async def test_an_account_in_debt_is_refused_until_it_has_paid(plane: Plane) -> None:
    account = await plane.account(credits=1)
    plane.upstream.says(gateway_credits="5")
    assert (await plane.get(account)).headers["x-credits-remaining"] == "-4"
    assert_problem(await plane.get(account), 402, "insufficient_credits", required=1, available=-4)
    await plane.grant(account, 5)
    await plane.publish()
    assert (await plane.get(account)).status_code == 200


async def _subscription(
    plane: Plane,
    account: Account,
    *,
    status: str,
    ended: timedelta | None = None,
    is_ending: bool = False,
) -> None:
    end = now() - ended if ended else now() + timedelta(days=30)
    change = text("""
        UPDATE subscriptions SET status = :status, cancel_at_period_end = :is_ending, current_period_end = :end,
               current_period_start = :start WHERE id = :id
    """)
    values = {"status": status, "is_ending": is_ending, "end": end, "id": account.subscription_id}
    async with plane.database.transaction() as connection:
        await connection.execute(change, values | {"start": end - timedelta(days=30)})
