"""Settings of keys change, revocation is final, and rotation neither prolongs nor widens a key."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys
from gateway.ledger.db.errors import AlreadyExists, InvalidValue, NotFound
from policies.model import KeyStatus
from tests.ledger.make import NOON, a_fingerprint, a_key, a_user


async def test_key_stores_its_settings(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    key = await api_keys.create(
        connection,
        user.id,
        fingerprint=a_fingerprint(),
        name="ci",
        permissions=["analyze"],
        allowed_ips=["10.0.0.0/8", "::1/128"],
        credit_cap=5,
        expires_at=NOON,
    )
    assert (key.name, key.permissions, key.credit_cap, key.expires_at) == ("ci", ("analyze",), 5, NOON)
    assert (key.allowed_ips, key.status, key.prefix, key.last4) == (
        ("10.0.0.0/8", "::1/128"),
        KeyStatus.ACTIVE,
        "gw_live_ab",
        "wxyz",
    )
    assert await api_keys.get(connection, key.id) == key


async def test_key_with_no_permissions_differs_from_all(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    none = await api_keys.create(connection, user.id, fingerprint=a_fingerprint(), permissions=[])
    every = await api_keys.create(connection, user.id, fingerprint=a_fingerprint(), permissions=None)
    assert (none.permissions, every.permissions) == ((), None)


async def test_key_of_a_known_hash_is_refused(connection: AsyncConnection) -> None:
    user, fingerprint = await a_user(connection), a_fingerprint()
    await api_keys.create(connection, user.id, fingerprint=fingerprint)
    with pytest.raises(AlreadyExists, match="uq_api_keys_key_hash"):
        await api_keys.create(connection, user.id, fingerprint=fingerprint)


async def test_key_of_an_unknown_user_is_refused(connection: AsyncConnection) -> None:
    with pytest.raises(NotFound):
        await api_keys.create(connection, uuid4(), fingerprint=a_fingerprint())


async def test_key_patch_changes_only_given_fields(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    key = await api_keys.create(connection, user.id, fingerprint=a_fingerprint(), name="ci", credit_cap=5)
    changed = await api_keys.patch(connection, key.id, status=KeyStatus.DISABLED, credit_cap=None)
    assert (changed.name, changed.status, changed.credit_cap) == ("ci", KeyStatus.DISABLED, None)


async def test_key_with_a_negative_cap_is_refused(connection: AsyncConnection) -> None:
    key = await a_key(connection, (await a_user(connection)).id)
    with pytest.raises(InvalidValue, match="credit_cap_not_negative"):
        await api_keys.patch(connection, key.id, credit_cap=-1)


async def test_revoked_key_stays_revoked(connection: AsyncConnection) -> None:
    key = await a_key(connection, (await a_user(connection)).id)
    revoked = await api_keys.revoke(connection, key.id)
    assert revoked.status is KeyStatus.REVOKED
    assert revoked.revoked_at is not None
    assert await api_keys.revoke(connection, key.id) == revoked
    with pytest.raises(NotFound):
        await api_keys.patch(connection, key.id, status=KeyStatus.ACTIVE)
    with pytest.raises(NotFound):
        await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON)


async def test_key_patch_cannot_revoke(connection: AsyncConnection) -> None:
    key = await a_key(connection, (await a_user(connection)).id)
    with pytest.raises(ValueError, match="revoke"):
        await api_keys.patch(connection, key.id, status=KeyStatus.REVOKED)


async def test_rotated_key_passes_on_its_settings_and_expires(connection: AsyncConnection) -> None:
    user, expires_at = await a_user(connection), NOON + timedelta(days=30)
    given = api_keys.KeySettings(
        name="ci", permissions=["a"], allowed_ips=["::1/128"], credit_cap=9, expires_at=expires_at
    )
    key = await api_keys.create(connection, user.id, fingerprint=a_fingerprint(), **given)
    old, new = await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON)
    assert (old.id, old.expires_at, old.status) == (key.id, NOON, KeyStatus.ACTIVE)
    assert (new.rotated_from, new.user_id, new.name, new.permissions) == (key.id, user.id, "ci", ("a",))
    assert (new.allowed_ips, new.credit_cap, new.expires_at) == (("::1/128",), 9, expires_at)


async def test_rotation_never_prolongs_the_old_key(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    expires_at = NOON + timedelta(hours=1)
    key = await api_keys.create(connection, user.id, fingerprint=a_fingerprint(), expires_at=expires_at)
    old, _ = await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON, grace=timedelta(days=1))
    assert old.expires_at == expires_at


async def test_last_use_never_goes_back(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    first, second = await a_key(connection, user.id), await a_key(connection, user.id)
    await api_keys.touch_last_used(connection, {first.id: NOON, second.id: NOON, uuid4(): NOON})
    await api_keys.touch_last_used(
        connection, {first.id: NOON - timedelta(hours=1), second.id: NOON + timedelta(hours=1)}
    )
    await api_keys.touch_last_used(connection, {})
    used = {key.id: key.last_used_at for key in (await api_keys.list_keys(connection, user_id=user.id)).data}
    assert used == {first.id: NOON, second.id: NOON + timedelta(hours=1)}


async def test_keys_are_listed_per_user(connection: AsyncConnection) -> None:
    user, other = await a_user(connection), await a_user(connection)
    mine, theirs = await a_key(connection, user.id), await a_key(connection, other.id)
    assert (await api_keys.list_keys(connection, user_id=user.id)).data == (mine,)
    assert {key.id for key in (await api_keys.list_keys(connection)).data} == {theirs.id, mine.id}


async def test_key_rotated_twice_passes_on_its_own_expiry_and_no_grace(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    for expires_at in (None, NOON + timedelta(days=30)):
        key = await api_keys.create(connection, user.id, fingerprint=a_fingerprint(), expires_at=expires_at)
        for grace in (timedelta(hours=2), timedelta(hours=1)):
            old, new = await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON, grace=grace)
            assert (old.expires_at, new.expires_at) == (NOON + grace, expires_at)


async def test_expiry_that_is_set_after_a_rotation_is_passed_on(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    key = await a_key(connection, user.id)
    await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON)
    await api_keys.patch(connection, key.id, expires_at=NOON + timedelta(days=9))
    _, new = await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=NOON)
    assert new.expires_at == NOON + timedelta(days=9)
