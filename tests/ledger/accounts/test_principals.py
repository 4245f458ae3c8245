"""The data that an admission is decided on is complete, current, and of one snapshot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import uuid4

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.principals import AccountBalance, Catalogue, find_principal, get_balance, get_catalogue
from gateway.ledger.catalogue import permissions, plans
from gateway.ledger.credits.grants import grant
from gateway.ledger.db import tables
from gateway.ledger.subscriptions import lifecycle
from policies.model import AccountStatus, KeyStatus, SubscriptionStatus
from tests.ledger.make import NOON, a_fingerprint, a_user

PRO = plans.PlanTerms(
    name="Professional",
    price=Decimal("29.99"),
    requests_per_minute=50,
    requests_per_hour=2000,
    features={"api_access": True},
)


async def test_principal_of_an_unknown_key_is_none(connection: AsyncConnection) -> None:
    assert await find_principal(connection, b"\0" * 32) is None


async def test_principal_without_subscription_has_no_plan(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    fingerprint = a_fingerprint()
    key = await api_keys.create(connection, user.id, fingerprint=fingerprint)
    principal = await find_principal(connection, fingerprint.key_hash)
    assert principal is not None
    assert principal.key.id == key.id
    assert principal.account.id == user.id
    assert principal.account.subscription is None


async def test_principal_has_key_account_subscription_and_plan(connection: AsyncConnection) -> None:
    await permissions.create(connection, "analyze")
    pro = await plans.create(connection, PRO, plan_id="pro", permissions=["analyze"])
    user = await a_user(connection)
    fingerprint, expires_at = a_fingerprint(), datetime(2030, 1, 1, tzinfo=UTC)
    await api_keys.create(
        connection,
        user.id,
        fingerprint=fingerprint,
        permissions=["analyze"],
        allowed_ips=["10.0.0.0/8"],
        expires_at=expires_at,
    )
    begun = await lifecycle.start(connection, user.id, plan_id=pro.id, now=NOON)
    principal = await find_principal(connection, fingerprint.key_hash)
    assert principal is not None
    assert principal.key.status is KeyStatus.ACTIVE
    assert principal.key.permissions == frozenset({"analyze"})
    assert principal.key.allowed_ips == ("10.0.0.0/8",)
    assert principal.key.expires_at == expires_at
    assert principal.account.status is AccountStatus.ACTIVE
    subscription = principal.account.subscription
    assert subscription is not None
    assert (subscription.id, subscription.status) == (begun.id, SubscriptionStatus.ACTIVE)
    assert subscription.current_period_end == begun.current_period_end
    assert (subscription.plan.id, subscription.plan.name, subscription.plan.version) == ("pro", "Professional", 1)
    assert subscription.plan.features["api_access"] is True
    assert subscription.plan.permissions == {"analyze"}
    assert (subscription.plan.requests_per_minute, subscription.plan.requests_per_hour) == (50, 2000)
    assert subscription.plan.max_api_calls_per_day is None


async def test_principal_has_the_current_subscription_before_a_newer_ended_one(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, plans.PlanTerms(name=uuid4().hex, price=Decimal(0)))
    user, fingerprint = await a_user(connection), a_fingerprint()
    await api_keys.create(connection, user.id, fingerprint=fingerprint)
    ended = await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    await lifecycle.cancel(connection, ended.id, now=NOON, at_period_end=False)
    assert await _status(connection, fingerprint.key_hash) is SubscriptionStatus.CANCELED
    await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON - timedelta(days=400))
    is_newer = update(tables.subscriptions).values(created_at=func.now() + timedelta(hours=1))
    await connection.execute(is_newer.where(tables.subscriptions.c.id == ended.id))
    assert await _status(connection, fingerprint.key_hash) is SubscriptionStatus.ACTIVE


async def test_account_version_grows_with_every_change(connection: AsyncConnection) -> None:
    plan = await plans.create(connection, plans.PlanTerms(name=uuid4().hex, price=Decimal(0)))
    user, fingerprint = await a_user(connection), a_fingerprint()
    key = await api_keys.create(connection, user.id, fingerprint=fingerprint)
    seen = [await _version(connection, fingerprint.key_hash)]
    for change in (
        users.patch(connection, user.id, name="Ada"),
        users.suspend(connection, user.id),
        users.reactivate(connection, user.id),
        api_keys.create(connection, user.id, fingerprint=a_fingerprint()),
        api_keys.patch(connection, key.id, status=KeyStatus.DISABLED),
        api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON),
        lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON),
        api_keys.revoke(connection, key.id),
        users.delete(connection, user.id),
    ):
        await change
        seen.append(await _version(connection, fingerprint.key_hash))
    assert all(later > earlier for earlier, later in pairwise(seen)), seen


async def test_plan_change_bumps_the_catalogue_and_is_in_the_next_principal(connection: AsyncConnection) -> None:
    terms = plans.PlanTerms(name=uuid4().hex, price=Decimal(0), features={"analysis": True})
    plan = await plans.create(connection, terms)
    before = await get_catalogue(connection)
    await plans.change(connection, plan.id, plans.PlanTerms(name=terms.name, price=terms.price, features={"x": 5}))
    after = await get_catalogue(connection)
    assert after.version == before.version + 1
    assert (before.features[terms.name], after.features[terms.name]) == ({"analysis": True}, {"x": 5})


async def test_catalogue_excludes_inactive_plans(connection: AsyncConnection) -> None:
    before = await get_catalogue(connection)
    await plans.create(connection, plans.PlanTerms(name="old", price=Decimal(0), is_active=False))
    assert await get_catalogue(connection) == Catalogue(before.version + 1, before.features)


async def test_balance_has_the_versions_of_its_snapshot(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    assert await get_balance(connection, user.id) == AccountBalance(1, 0, 0)
    await grant(connection, user.id, amount=25, source="promo", reason="welcome", actor="test")
    assert await get_balance(connection, user.id) == AccountBalance(1, 1, 25)
    assert await get_balance(connection, uuid4()) is None


async def _version(connection: AsyncConnection, key_hash: bytes) -> int:
    principal = await find_principal(connection, key_hash)
    assert principal is not None
    return principal.account_version


async def _status(connection: AsyncConnection, key_hash: bytes) -> SubscriptionStatus:
    principal = await find_principal(connection, key_hash)
    assert principal is not None
    assert principal.account.subscription is not None
    return principal.account.subscription.status
