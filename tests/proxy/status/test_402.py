"""402: no subscription that is in force, or too few credits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from secrets import token_bytes
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.ledger.accounts import api_keys
from gateway.ledger.catalogue import plans
from gateway.ledger.db.outbox import bump_account
from policies.access.keys import ENTROPY_BYTES, compose
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.problems import assert_problem


async def test_account_without_subscription_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(subscribed=False)
    async with data_plane.assert_unchanged(account):
        assert_problem(
            await data_plane.get(account), 402, "subscription_inactive", subscription_status="none", credits_waiting=100
        )


# Credits wait for a plan once a subscription is over; a paused one is not.
@pytest.mark.parametrize(
    ("status", "waiting"),
    [
        ("incomplete", {"credits_waiting": 100}),
        ("paused", {}),
        ("canceled", {"credits_waiting": 100}),
        ("expired", {"credits_waiting": 100}),
    ],
)
async def test_inactive_subscription_is_refused_with_its_status(
    data_plane: DataPlane, status: str, waiting: dict[str, int]
) -> None:
    account = await data_plane.create_account()
    await _subscription(data_plane, account, status=status)
    async with data_plane.assert_unchanged(account):
        problem = await data_plane.get(account)
    assert_problem(problem, 402, "subscription_inactive", subscription_status=status, **waiting)


async def test_subscription_cancelled_at_period_end_expires(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    await _subscription(data_plane, account, status="active", is_ending=True, ended=timedelta(seconds=1))
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 402, "subscription_inactive", subscription_status="expired")


async def test_past_due_subscription_serves_for_three_days_after_its_period(data_plane: DataPlane) -> None:
    within, after = await data_plane.create_account(), await data_plane.create_account()
    await _subscription(data_plane, within, status="past_due", ended=timedelta(days=3, minutes=-1))
    await _subscription(data_plane, after, status="past_due", ended=timedelta(days=3, minutes=1))
    assert (await data_plane.get(within)).status_code == 200
    assert_problem(await data_plane.get(after), 402, "subscription_inactive", subscription_status="expired")


@pytest.mark.parametrize("status", ["trialing", "active"])
async def test_late_renewal_keeps_serving(data_plane: DataPlane, status: str) -> None:
    account = await data_plane.create_account()
    await _subscription(data_plane, account, status=status, ended=timedelta(days=1))
    assert (await data_plane.get(account)).status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "required"),
    [
        ("/v1/things/1", b"", 1),
        ("/v1/dear", b"", 7),
        ("/v1/generate", b'{"products": [1, 2, 3, 4]}', 4),
        ("/v1/chat", b"{}", 5),
    ],
)
async def test_insufficient_credits_name_what_is_needed(
    data_plane: DataPlane, path: str, content: bytes, required: int
) -> None:
    account = await data_plane.create_account(credits=required, requests_per_minute=5)
    assert (await data_plane.post(account, "/v1/things/warm")).status_code == 200
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.post(account, path, content)
    assert_problem(answer, 402, "insufficient_credits", required=required, available=required - 1)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-credits-remaining"] == str(required - 1)
    assert answer.headers["ratelimit-policy"] == '"minute";q=5;w=60'
    assert answer.headers["ratelimit"].startswith('"minute";r=4;t=')


async def test_refused_for_credits_consumes_no_limit(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(
        credits=1, requests_per_minute=2, requests_per_hour=3, max_api_calls_per_day=4
    )
    assert (await data_plane.get(account)).status_code == 200
    async with data_plane.assert_unchanged(account):
        for _ in range(5):
            assert (await data_plane.get(account)).status_code == 402
    assert await data_plane.refusal_counts(account) == {("things", "insufficient_credits"): 5}
    assert len(await data_plane.usage_rows(account)) == 1


async def test_free_route_serves_without_credits(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=0)
    answer = await data_plane.get(account, "/v1/free")
    assert answer.status_code == 200
    assert (answer.headers["x-credits-remaining"], answer.headers["x-credits-charged"]) == ("0", "0")


async def test_account_in_debt_is_refused_until_it_has_paid(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=1)
    data_plane.upstream.respond_with(gateway_credits="5")
    assert (await data_plane.get(account)).headers["x-credits-remaining"] == "-4"
    assert_problem(await data_plane.get(account), 402, "insufficient_credits", required=1, available=-4)
    await data_plane.grant_credits(account, 5)
    await data_plane.publish()
    assert (await data_plane.get(account)).status_code == 200


class TestCreditCaps:
    """What one key of an account may spend in a period."""

    async def test_key_spends_its_cap_and_no_more_while_others_serve(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(key={"credit_cap": 2}, requests_per_minute=50)
        other, _ = await data_plane.create_key(account)
        assert [(await data_plane.get(account)).status_code for _ in range(2)] == [200, 200]
        async with data_plane.assert_unchanged(account):
            answer = await data_plane.get(account)
        assert_problem(answer, 402, "insufficient_credits", required=1, available=0)
        assert answer.json()["detail"] == (
            "This call needs 1 credit; the credit cap of this key, 2 a period, leaves 0."
        )
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-credits-remaining"] == "98"
        assert answer.headers["ratelimit"].startswith('"minute";r=48;t=')
        assert (await data_plane.get(replace(account, key=other))).status_code == 200

    async def test_key_cap_counts_holds_and_releases_what_was_not_charged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(key={"credit_cap": 6})
        answer = await data_plane.post(account, "/v1/dear")
        assert_problem(answer, 402, "insufficient_credits", required=7, available=6)
        data_plane.upstream.respond_with(503)
        assert (await data_plane.post(account, "/v1/chat")).status_code == 503  # held 5
        data_plane.upstream.respond_with(gateway_credits="9")
        assert (await data_plane.get(account)).status_code == 200  # charged in full, past the cap
        assert_problem(await data_plane.get(account), 402, "insufficient_credits", required=1, available=0)

    async def test_key_cap_counts_what_was_spent_before_it_was_set(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        for _ in range(3):
            assert (await data_plane.get(account)).status_code == 200
        await data_plane.usage_rows(account)
        assert (await data_plane.get(account)).status_code == 200  # PostgreSQL has three of four
        await _patch(data_plane, account.key_id, credit_cap=5)
        assert [(await data_plane.get(account)).status_code for _ in range(2)] == [200, 402]
        await _patch(data_plane, account.key_id, credit_cap=None)
        assert (await data_plane.get(account)).status_code == 200
        await _patch(data_plane, account.key_id, credit_cap=7)
        assert [(await data_plane.get(account)).status_code for _ in range(2)] == [200, 402]

    async def test_account_reload_keeps_what_its_keys_have_spent(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(key={"credit_cap": 3})
        for _ in range(3):
            await data_plane.meter.unload(data_plane.meter.keys(account.user_id))
            assert (await data_plane.get(account)).status_code == 200
            await data_plane.usage_rows(account)
        await data_plane.meter.unload(data_plane.meter.keys(account.user_id))
        assert_problem(await data_plane.get(account), 402, "insufficient_credits", required=1, available=0)

    async def test_rotated_key_spends_from_the_same_cap(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(key={"credit_cap": 3})
        assert (await data_plane.get(account)).status_code == 200
        new = compose(data_plane.config.keys.prefix, token_bytes(ENTROPY_BYTES))
        async with data_plane.database.transaction() as connection:
            fingerprint = api_keys.fingerprint(new, data_plane.config.secrets.peppers)
            _, made = await api_keys.rotate(
                connection, account.key_id, fingerprint=fingerprint, now=now(), grace=timedelta(hours=1)
            )
        await data_plane.publish()
        rotated = replace(account, key=new.secret)
        assert [(await data_plane.get(each)).status_code for each in (rotated, account, rotated, account)] == [
            *(200, 200),
            *(402, 402),
        ]
        await _patch(data_plane, made.id, credit_cap=None)
        assert [(await data_plane.get(each)).status_code for each in (rotated, account)] == [200, 402]
        await _patch(data_plane, account.key_id, credit_cap=5)
        assert [(await data_plane.get(account)).status_code for _ in range(2)] == [200, 402]

    async def test_key_cap_starts_at_zero_in_a_new_period(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(key={"credit_cap": 1})
        assert [(await data_plane.get(account)).status_code for _ in range(2)] == [200, 402]
        await _subscription(data_plane, account, status="active", began=timedelta(0))
        await _bump(data_plane, account)
        assert [(await data_plane.get(account)).status_code for _ in range(2)] == [200, 402]
        await data_plane.meter.unload(data_plane.meter.keys(account.user_id))
        assert (await data_plane.get(account)).status_code == 402


async def _patch(data_plane: DataPlane, key_id: UUID, **changes: Any) -> None:
    async with data_plane.database.transaction() as connection:
        await api_keys.patch(connection, key_id, **changes)
    await data_plane.publish()


async def _bump(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        await bump_account(connection, account.user_id)
    await data_plane.publish()


async def _subscription(
    data_plane: DataPlane,
    account: Account,
    *,
    status: str,
    ended: timedelta | None = None,
    began: timedelta = timedelta(days=30),
    is_ending: bool = False,
) -> None:
    end = now() - ended if ended else now() - began + timedelta(days=30)
    change = text("""
        UPDATE subscriptions SET status = :status, cancel_at_period_end = :is_ending, current_period_end = :end,
               current_period_start = :start WHERE id = :id
    """)
    values = {"status": status, "is_ending": is_ending, "end": end, "id": account.subscription_id}
    async with data_plane.database.transaction() as connection:
        await connection.execute(change, values | {"start": end - timedelta(days=30)})


async def test_postpaid_plan_serves_below_zero_to_its_cap(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2, overage_credits=3, overage_price=Decimal("0.01"))
    left = [(await data_plane.post(account, "/v1/things/1")).headers["x-credits-remaining"] for _ in range(5)]
    assert left == ["1", "0", "-1", "-2", "-3"]
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.post(account, "/v1/things/1")
    assert_problem(answer, 402, "insufficient_credits", required=1, available=0)
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.post(account, "/v1/dear"), 402, "insufficient_credits", required=7, available=0)


@pytest.mark.parametrize("status", ["trialing", "past_due"])
async def test_overage_is_for_subscriptions_that_are_paid(data_plane: DataPlane, status: str) -> None:
    account = await data_plane.create_account(
        credits=0, overage_credits=3, overage_price=Decimal("0.01"), past_due="serve"
    )
    await _subscription(data_plane, account, status=status)
    answer = await data_plane.post(account, "/v1/things/1")
    assert_problem(answer, 402, "insufficient_credits", required=1, available=0)


async def test_withdrawn_overage_counts_from_the_next_call_on(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=0, overage_credits=5, overage_price=Decimal("0.01"))
    assert (await data_plane.post(account, "/v1/things/1")).status_code == 200
    async with data_plane.database.transaction() as connection:
        found = await plans.get(connection, account.plan.id)
        assert found is not None
        terms = replace(found.terms, overage_credits=None, overage_price=None)
        await plans.change(connection, found.id, terms, subscribers="migrate")
    await data_plane.publish()
    answer = await data_plane.post(account, "/v1/things/1")
    assert_problem(answer, 402, "insufficient_credits", required=1, available=-1)
