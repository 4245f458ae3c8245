"""The order of the checks: a request that breaks several rules is refused by the first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from gateway.clock import now
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.catalogue import permissions, plans
from gateway.ledger.subscriptions import lifecycle
from policies.model import KeyStatus
from tests.proxy.data_plane import Account, DataPlane


async def test_first_failing_check_decides_the_response(data_plane: DataPlane) -> None:
    """One request that breaks every rule; its mistakes are repaired one by one from the front."""
    account = await data_plane.create_account(
        credits=0,
        subscribed=False,
        key={"allowed_ips": ["203.0.113.0/24"], "expires_at": now() - timedelta(hours=1), "permissions": []},
        max_file_size_bytes=60,
        max_products_per_batch=2,
        requests_per_minute=0,
        max_concurrent_requests=0,
    )
    await _key(data_plane, account, status=KeyStatus.DISABLED)
    await _suspend(data_plane, account)
    too_large, no_json, too_many = b"[" * 200, b"[" * 20, b'{"products": 5}'
    told = [
        await _code(data_plane, account, method="GET", path="/v1/none/../x", key="junk"),
        await _code(data_plane, account, method="GET", path="/v1/none", key="junk"),
        await _code(data_plane, account, method="GET", key="junk"),
        await _code(data_plane, account, key=""),
        await _code(data_plane, account, key="junk"),
        await _code(data_plane, account, content=too_large),
    ]
    assert told == [
        "bad_request",
        "route_not_found",
        "method_not_allowed",
        "missing_key",
        "invalid_key",
        "key_expired",
    ]
    await _key(data_plane, account, expires_at=None)
    assert await _code(data_plane, account, content=too_large) == "key_disabled"
    await _key(data_plane, account, status=KeyStatus.ACTIVE)
    assert await _code(data_plane, account, content=too_large) == "ip_not_allowed"
    await _key(data_plane, account, allowed_ips=[])
    assert await _code(data_plane, account, content=too_large) == "account_suspended"
    await _reactivate(data_plane, account)
    assert await _code(data_plane, account, content=too_large) == "subscription_inactive"
    await _subscribe(data_plane, account)
    assert await _code(data_plane, account, content=too_large) == "permission_denied"
    await _permit(data_plane, account)
    assert await _code(data_plane, account, content=too_large) == "feature_not_in_plan"
    await _change(data_plane, account, features={"analysis": True})
    assert await _code(data_plane, account, content=too_large) == "payload_too_large"
    assert await _code(data_plane, account, content=no_json) == "invalid_body"
    assert await _code(data_plane, account, content=too_many) == "batch_too_large"
    await _change(data_plane, account, max_products_per_batch=None)
    assert await _code(data_plane, account, content=too_many, idempotency_key="two words") == "bad_request"
    assert await _code(data_plane, account, content=too_many) == "rate_limited"
    await _change(data_plane, account, requests_per_minute=None)
    assert await _code(data_plane, account, content=too_many) == "too_many_in_flight"
    await _change(data_plane, account, max_concurrent_requests=None)
    assert await _code(data_plane, account, content=too_many) == "insufficient_credits"
    assert data_plane.upstream.exchanges == []
    await data_plane.grant_credits(account, 5)
    await data_plane.publish()
    assert await _code(data_plane, account, content=too_many) is None


async def _code(
    data_plane: DataPlane,
    account: Account,
    *,
    method: str = "POST",
    path: str = "/v1/restricted",
    key: str | None = None,
    content: bytes = b"",
    **fields: str,
) -> str | None:
    """The code of the refusal; None where the upstream responded."""
    sent = account.key if key is None else key
    as_it_is = {"target": path.encode()}  # httpx would normalise the path
    headers = {name.replace("_", "-"): value for name, value in fields.items()} | ({"x-api-key": sent} if sent else {})
    answer = await data_plane.http.request(method, path, content=content, headers=headers, extensions=as_it_is)
    code: str | None = answer.json().get("code")
    return code


async def _key(data_plane: DataPlane, account: Account, **changes: Any) -> None:
    async with data_plane.database.transaction() as connection:
        await api_keys.patch(connection, account.key_id, **changes)
    await data_plane.publish()


async def _suspend(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        await users.suspend(connection, account.user_id)


async def _reactivate(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        await users.reactivate(connection, account.user_id)
    await data_plane.publish()


async def _subscribe(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        await lifecycle.start(connection, account.user_id, plan_id=account.plan.id, now=now())
    await data_plane.publish()


async def _permit(data_plane: DataPlane, account: Account) -> None:
    await _key(data_plane, account, permissions=None)
    async with data_plane.database.transaction() as connection:
        if "analyze" not in {permission.name for permission in await permissions.list_all(connection)}:
            await permissions.create(connection, "analyze")
        await plans.grant_permission(connection, account.plan.id, "analyze")
    await data_plane.publish()


async def _change(data_plane: DataPlane, account: Account, **terms: Any) -> None:
    await data_plane.change_plan(account, **terms)
    await data_plane.publish()
