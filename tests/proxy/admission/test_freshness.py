"""Freshness: an announced change holds from the next request on, whatever is cached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import monotonic_seconds, now
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.principals import find_principal
from gateway.ledger.catalogue import permissions, plans
from gateway.ledger.subscriptions import lifecycle
from gateway.proxy.admission import principal_cache
from policies.access.keys import digest
from policies.model import KeyStatus, Principal
from tests.proxy.data_plane import Account, DataPlane, RedisState
from tests.support.polling import eventually


async def code(
    data_plane: DataPlane, account: Account, path: str = "/v1/things/1", content: bytes = b"{}"
) -> str | None:
    """The code of the refusal; None where the upstream responded."""
    found: str | None = (await data_plane.post(account, path, content)).json().get("code")
    return found


@pytest.fixture
async def account(data_plane: DataPlane) -> Account:
    """Cached in the gateway, loaded in Redis."""
    made = await data_plane.create_account(features={"analysis": True})
    assert await code(data_plane, made) is None
    return made


async def test_key_is_revoked(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        await api_keys.revoke(connection, account.key_id)
    await data_plane.publish()
    async with data_plane.assert_unchanged(account):
        assert await code(data_plane, account) == "key_revoked"


async def test_refusal_cache_does_not_hold_for_another_key_of_the_account(
    data_plane: DataPlane, account: Account
) -> None:
    secret, _ = await data_plane.create_key(account)
    async with data_plane.database.transaction() as connection:
        await api_keys.revoke(connection, account.key_id)
    await data_plane.publish()
    assert (await data_plane.http.get("/v1/things/1", headers={"x-api-key": secret})).status_code == 200


async def test_key_is_disabled_and_enabled(data_plane: DataPlane, account: Account) -> None:
    for status, expected in ((KeyStatus.DISABLED, "key_disabled"), (KeyStatus.ACTIVE, None)) * 2:
        async with data_plane.database.transaction() as connection:
            await api_keys.patch(connection, account.key_id, status=status)
        await data_plane.publish()
        assert await code(data_plane, account) == expected


async def test_account_is_suspended_and_reactivated(data_plane: DataPlane, account: Account) -> None:
    for change, expected in ((users.suspend, "account_suspended"), (users.reactivate, None)) * 2:
        async with data_plane.database.transaction() as connection:
            await change(connection, account.user_id)
        await data_plane.publish()
        assert await code(data_plane, account) == expected


async def test_limits_of_a_plan_change(data_plane: DataPlane, account: Account) -> None:
    for limit, expected in ((1, "rate_limited"), (2, None), (2, "rate_limited"), (None, None)):
        await data_plane.change_plan(account, requests_per_minute=limit)
        await data_plane.publish()
        assert await code(data_plane, account) == expected


async def test_features_of_a_plan_change(data_plane: DataPlane, account: Account) -> None:
    features: tuple[tuple[dict[str, bool], str | None], ...] = (({}, "feature_not_in_plan"), ({"analysis": True}, None))
    for given, expected in features * 2:
        await data_plane.change_plan(account, features=given)
        await data_plane.publish()
        assert await code(data_plane, account, "/v1/featured") == expected


async def test_batch_size_of_a_plan_changes(data_plane: DataPlane, account: Account) -> None:
    for most, expected in ((1, "batch_too_large"), (2, None), (1, "batch_too_large"), (None, None)):
        await data_plane.change_plan(account, max_products_per_batch=most)
        await data_plane.publish()
        assert await code(data_plane, account, "/v1/generate", b'{"products": 2}') == expected


async def test_file_size_of_a_plan_changes(data_plane: DataPlane, account: Account) -> None:
    for most, expected in ((3, "payload_too_large"), (4, None), (3, "payload_too_large"), (None, None)):
        await data_plane.change_plan(account, max_file_size_bytes=most)
        await data_plane.publish()
        assert await code(data_plane, account, "/v1/things/1", b"1234") == expected


async def test_permissions_are_granted_and_withdrawn(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        if "analyze" not in {permission.name for permission in await permissions.list_all(connection)}:
            await permissions.create(connection, "analyze")
    for change, expected in ((plans.grant_permission, None), (plans.withdraw_permission, "permission_denied")) * 2:
        async with data_plane.database.transaction() as connection:
            await change(connection, account.plan.id, "analyze")
        await data_plane.publish()
        assert await code(data_plane, account, "/v1/restricted", b'{"products": 1}') == expected


async def test_subscription_ends_and_another_begins(data_plane: DataPlane, account: Account) -> None:
    assert account.subscription_id is not None
    async with data_plane.database.transaction() as connection:
        await lifecycle.cancel(connection, account.subscription_id, now=now(), at_period_end=False)
    await data_plane.publish()
    assert await code(data_plane, account) == "subscription_inactive"
    async with data_plane.database.transaction() as connection:
        await lifecycle.start(connection, account.user_id, plan_id=account.plan.id, now=now())
    await data_plane.publish()
    assert await code(data_plane, account) is None


async def test_credits_are_granted(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=1)
    assert await code(data_plane, account) is None
    assert await code(data_plane, account) == "insufficient_credits"
    await data_plane.grant_credits(account, 2)
    await data_plane.publish()
    answers = [await code(data_plane, account) for _ in range(3)]
    assert answers == [None, None, "insufficient_credits"]


async def test_change_right_after_another_is_not_lost(data_plane: DataPlane, account: Account) -> None:
    """Changes that were announced together are seen together."""
    async with data_plane.database.transaction() as connection:
        await users.suspend(connection, account.user_id)
        await api_keys.patch(connection, account.key_id, status=KeyStatus.DISABLED)
        await users.reactivate(connection, account.user_id)
    await data_plane.publish()
    assert await code(data_plane, account) == "key_disabled"


async def test_key_expires_by_the_clock_without_an_announcement(
    data_plane: DataPlane, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = now() + timedelta(hours=1)
    async with data_plane.database.transaction() as connection:
        await api_keys.patch(connection, account.key_id, expires_at=expires_at)
    await data_plane.publish()
    assert await code(data_plane, account) is None
    monkeypatch.setattr("gateway.proxy.admission.controller.now", lambda: expires_at - timedelta(microseconds=1))
    assert await code(data_plane, account) is None
    monkeypatch.setattr("gateway.proxy.admission.controller.now", lambda: expires_at)
    assert await code(data_plane, account) == "key_expired"


async def test_unknown_key_works_soon_after_it_is_created(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown keys are cached for a moment only; a client can hardly send a key before it exists."""
    account = await data_plane.create_account()
    unknown = digest(account.key.encode(), b"p" * 32)
    data_plane.handler._principals._cache_unknown(unknown)
    assert await code(data_plane, account) == "invalid_key"
    later = monotonic_seconds() + principal_cache.NEGATIVE_SECONDS
    monkeypatch.setattr("gateway.proxy.admission.principal_cache.monotonic_seconds", lambda: later)
    assert await code(data_plane, account) is None


async def test_account_not_loaded_is_loaded_with_its_balance(data_plane: DataPlane, account: Account) -> None:
    await data_plane.settled_state(account)
    assert await data_plane.stored_balance(account) == 99
    await data_plane.redis.delete(data_plane.meter.keys(account.user_id).account.decode())
    assert await code(data_plane, account) is None
    assert await data_plane.redis_state(account) == RedisState(98, 0, (2, 2, 2))


async def test_lost_announcement_heals_with_age(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        await api_keys.revoke(connection, account.key_id)
    assert await code(data_plane, account) is None
    data_plane.handler._principals._max_age_seconds, before = 0.0, data_plane.handler._principals._max_age_seconds
    try:
        assert await code(data_plane, account) == "key_revoked"
    finally:
        data_plane.handler._principals._max_age_seconds = before
    await data_plane.publish()


async def test_first_requests_of_a_key_load_it_once(data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    account = await data_plane.create_account()
    reads = []

    async def counted(connection: AsyncConnection, key_hash: bytes) -> Principal | None:
        reads.append(key_hash)
        return await find_principal(connection, key_hash)

    monkeypatch.setattr("gateway.ledger.accounts.principals.find_principal", counted)
    answers = await asyncio.gather(*(data_plane.get(account) for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len(reads) == 1


async def test_client_disconnect_does_not_cancel_the_principal_load_of_others(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as first, data_plane.connect() as second:
        await first.request(account, "GET /v1/things/1")
        await second.request(account, "GET /v1/things/2")
        first.disconnect()
        assert (await second.read_head())[0] == 200
    await eventually(lambda: not data_plane.handler._principals._loads)
    await data_plane.settled_state(account)


async def test_callers_beyond_the_cache_size_are_evicted(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plane.handler._principals, "_max_entries", 2)
    several = [await data_plane.create_account() for _ in range(4)]
    for account in several * 2:
        assert await code(data_plane, account) is None
    assert len(data_plane.handler._principals._callers) == 2


async def test_file_size_of_a_plan_changes_for_bodies_of_unknown_size(data_plane: DataPlane, account: Account) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"products": 1}'

    for most, expected in ((3, "payload_too_large"), (15, None), (3, "payload_too_large"), (None, None)):
        await data_plane.change_plan(account, max_file_size_bytes=most)
        await data_plane.publish()
        answer = await data_plane.http.post("/v1/generate", content=chunks(), headers=account.auth)
        assert answer.json().get("code") == expected
