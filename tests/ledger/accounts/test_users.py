"""Users: one per address, changed only with a new version, and never gone while usage points to them."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys, login_sessions, users
from gateway.ledger.credits.grants import get_balance
from gateway.ledger.db.errors import AlreadyExists, InvalidValue, NotFound
from gateway.ledger.db.rows import InvalidCursor
from gateway.ledger.usage.ingestion import Ingested, ingest
from policies.model import AccountStatus, KeyStatus
from tests.ledger.make import a_key, a_line, a_user


async def test_a_new_user_is_active_and_has_no_credits(connection: AsyncConnection) -> None:
    user = await users.create(connection, " Ada@Example.com ", name="Ada", metadata={"team": 1})
    assert (user.email, user.status, user.role, user.metadata) == (
        "Ada@Example.com",
        AccountStatus.ACTIVE,
        "user",
        {"team": 1},
    )
    found = await get_balance(connection, user.id)
    assert found is not None
    assert found.current_credits == 0
    assert await users.get(connection, user.id) == user


async def test_two_spellings_of_an_address_are_one_user(connection: AsyncConnection) -> None:
    user = await users.create(connection, "ada@example.com")
    with pytest.raises(AlreadyExists, match="uq_users_email_lower"):
        await users.create(connection, "ADA@example.com")
    assert await users.get_by_email(connection, "Ada@Example.com") == user


async def test_taking_anothers_address_is_refused_and_changes_nothing(connection: AsyncConnection) -> None:
    first, second = await a_user(connection), await a_user(connection)
    with pytest.raises(AlreadyExists):
        await users.patch(connection, second.id, email=first.email.upper())
    found = await users.get(connection, second.id)
    assert found is not None
    assert found.email == second.email


async def test_an_invalid_value_is_named_by_its_rule(connection: AsyncConnection) -> None:
    with pytest.raises(InvalidValue, match="ck_users_role"):
        await users.create(connection, "ada@example.com", role="king")


async def test_suspending_and_reactivating(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    assert (await users.suspend(connection, user.id)).status is AccountStatus.SUSPENDED
    assert (await users.reactivate(connection, user.id)).status is AccountStatus.ACTIVE


async def test_a_password_hash_is_only_in_what_a_login_is_checked_against_and_not_in_what_that_prints(
    connection: AsyncConnection,
) -> None:
    user = await users.create(connection, "ada@example.com", password_hash="$argon2id$x")
    account = await login_sessions.find_account(connection, "ADA@example.com", address="192.0.2.1")
    assert account == login_sessions.LoginAccount(user.id, AccountStatus.ACTIVE, False, "$argon2id$x")
    assert "argon2" not in repr(user) + repr(account)


async def test_a_deleted_user_leaves_no_personal_data_and_no_working_key(connection: AsyncConnection) -> None:
    user = await users.create(connection, "ada@example.com", name="Ada", external_id="42", password_hash="x")
    key = await a_key(connection, user.id)
    await users.delete(connection, user.id)
    assert await users.get(connection, user.id) is None
    assert await login_sessions.find_account(connection, "ada@example.com", address="192.0.2.1") is None
    revoked = await api_keys.get(connection, key.id)
    assert revoked is not None
    assert revoked.status is KeyStatus.REVOKED
    again = await users.create(connection, "ada@example.com", external_id="42")
    assert again.id != user.id


async def test_a_deleted_users_last_calls_are_still_recorded(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await users.delete(connection, user.id)
    assert await ingest(connection, [a_line(user.id)]) == Ingested(rows=1, accounts=1)


async def test_what_is_not_there_is_not_found(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await users.delete(connection, user.id)
    for missing in (uuid4(), user.id):
        assert await users.get(connection, missing) is None
        for change in (users.suspend, users.reactivate, users.delete, users.patch):
            with pytest.raises(NotFound):
                await change(connection, missing)


async def test_users_are_listed_newest_first_by_cursor(connection: AsyncConnection) -> None:
    made = [await a_user(connection) for _ in range(5)]
    first = await users.list_users(connection, limit=3)
    second = await users.list_users(connection, limit=2, cursor=first.next_cursor)
    newest_first = sorted(made, key=lambda user: (user.created_at, user.id), reverse=True)
    assert first.data + second.data == tuple(newest_first)
    assert second.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "====", "bm90IGE", "ü", "MjAyNi0wMS0wMXxub3BlIQ"])
async def test_a_cursor_of_somebody_elses_making_is_refused(connection: AsyncConnection, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await users.list_users(connection, cursor=cursor)
