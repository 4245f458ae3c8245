"""403: the caller is known, and the call is not allowed."""

from __future__ import annotations

import pytest

from gateway.ledger.accounts import api_keys, users
from gateway.ledger.catalogue import permissions, plans
from policies.model import KeyStatus
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.problems import assert_problem


async def test_disabled_key_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.database.transaction() as connection:
        await api_keys.patch(connection, account.key_id, status=KeyStatus.DISABLED)
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 403, "key_disabled")


@pytest.mark.parametrize("allowed", [["203.0.113.0/24"], ["2001:db8::/32", "127.0.0.2/32"]])
async def test_key_with_allowed_ips_is_refused_elsewhere(data_plane: DataPlane, allowed: list[str]) -> None:
    account = await data_plane.create_account(key={"allowed_ips": allowed})
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 403, "ip_not_allowed")


async def test_forged_client_address_does_not_pass_allowed_ips(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(key={"allowed_ips": ["203.0.113.0/24"]})
    answer = await data_plane.get(
        account, x_forwarded_for="203.0.113.9", x_real_ip="203.0.113.9", forwarded="for=203.0.113.9"
    )
    assert_problem(answer, 403, "ip_not_allowed")


async def test_key_with_allowed_ips_serves_there(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(key={"allowed_ips": ["127.0.0.0/8"]})
    assert (await data_plane.get(account)).status_code == 200


async def test_suspended_account_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.database.transaction() as connection:
        await users.suspend(connection, account.user_id)
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 403, "account_suspended")


async def test_missing_feature_is_named_with_the_plans_that_have_it(data_plane: DataPlane) -> None:
    await data_plane.create_account(features={"analysis": True})
    richer = await data_plane.create_account(features={"analysis": "deep"})
    account = await data_plane.create_account(features={"analysis": False})
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.get(account, "/v1/featured")
    named = answer.json()["plans_with_feature"]
    assert_problem(
        answer,
        403,
        "feature_not_in_plan",
        feature="analysis",
        plan=account.plan.terms.name,
        plans_with_feature=named,
    )
    assert richer.plan.terms.name in named
    assert account.plan.terms.name not in named


async def test_permission_that_the_plan_lacks_is_denied(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True})
    await _assert_denied(data_plane, account)


async def test_key_without_the_permission_is_denied_though_the_plan_has_it(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True}, key={"permissions": ["read"]})
    await _permit(data_plane, account)
    await _assert_denied(data_plane, account)


async def test_key_permission_that_its_plan_lacks_is_denied(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True}, key={"permissions": ["analyze"]})
    await _assert_denied(data_plane, account)


async def test_key_with_the_permission_serves(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True}, key={"permissions": ["analyze"]})
    await _permit(data_plane, account)
    answer = await data_plane.post(account, "/v1/restricted", b'{"products": [1]}')
    assert answer.status_code == 200


async def _assert_denied(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.post(account, "/v1/restricted", b'{"products": [1]}')
    assert_problem(answer, 403, "permission_denied", permission="analyze")


async def _permit(data_plane: DataPlane, account: Account) -> None:
    async with data_plane.database.transaction() as connection:
        if "analyze" not in {permission.name for permission in await permissions.list_all(connection)}:
            await permissions.create(connection, "analyze")
        await plans.grant_permission(connection, account.plan.id, "analyze")
