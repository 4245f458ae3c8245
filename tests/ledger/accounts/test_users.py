"""Users have unique addresses, and every change bumps the version; deleted users keep their usage."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys, login_sessions, user_lists, users
from gateway.ledger.accounts.throttles import record_attempts
from gateway.ledger.credits.grants import get_balance
from gateway.ledger.db.errors import AlreadyExists, InvalidValue, NotFound
from gateway.ledger.db.rows import InvalidCursor
from gateway.ledger.db.session import Database
from gateway.ledger.usage.ingestion import IngestResult, ingest
from policies.access.throttling import Pace, neighbourhood, subject
from policies.model import AccountStatus, KeyStatus
from tests.ledger.make import a_key, a_line, a_user


async def test_new_user_is_active_without_credits(connection: AsyncConnection) -> None:
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


async def test_address_is_unique_without_regard_to_case(connection: AsyncConnection) -> None:
    user = await users.create(connection, "ada@example.com")
    with pytest.raises(AlreadyExists, match="uq_users_email_lower"):
        await users.create(connection, "ADA@example.com")
    assert await users.get_by_email(connection, "Ada@Example.com") == user


async def test_taken_address_is_refused_and_changes_nothing(connection: AsyncConnection) -> None:
    first, second = await a_user(connection), await a_user(connection)
    with pytest.raises(AlreadyExists):
        await users.patch(connection, second.id, email=first.email.upper())
    found = await users.get(connection, second.id)
    assert found is not None
    assert found.email == second.email


async def test_invalid_value_is_named_by_its_constraint(connection: AsyncConnection) -> None:
    with pytest.raises(InvalidValue, match="ck_users_role"):
        await users.create(connection, "ada@example.com", role="king")


async def test_user_is_suspended_and_reactivated(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    assert (await users.suspend(connection, user.id)).status is AccountStatus.SUSPENDED
    assert (await users.reactivate(connection, user.id)).status is AccountStatus.ACTIVE


async def test_password_hash_is_in_no_repr(database: Database) -> None:
    email = f"{uuid4().hex}@example.com"
    async with database.transaction() as connection:
        user = await users.create(connection, email, password_hash="$argon2id$x")
    account = await _login_account(database, email.upper())
    assert account == login_sessions.LoginAccount(user.id, AccountStatus.ACTIVE, False, (), "$argon2id$x")
    assert "argon2" not in repr(user) + repr(account)


async def test_deleted_user_has_no_login(database: Database) -> None:
    email = f"{uuid4().hex}@example.com"
    async with database.transaction() as connection:
        user = await users.create(connection, email, password_hash="x")
    assert await _login_account(database, email) is not None
    async with database.transaction() as connection:
        await users.delete(connection, user.id)
    assert await _login_account(database, email) is None


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::7"])
async def test_login_account_comes_with_the_throttles_of_its_attempts(database: Database, address: str) -> None:
    email, pace, at = f"{uuid4().hex}@example.com", Pace(5, 60), datetime(2030, 1, 1, tzinfo=UTC)
    async with database.transaction() as connection:
        account = str((await users.create(connection, email)).id)
        stranger, unrelated = subject("mail-from", email, pace), subject("mail-from", account, pace)
        concerned = [
            subject("mail", account, pace),
            subject("mail", f"{account}|{neighbourhood(address)}", pace),
            stranger,
        ]
        await record_attempts(connection, [*concerned, unrelated, subject("login", account, pace)], at)

    found = await login_sessions.find_account(
        database, email, address=address, action="mail", subjects=[stranger, subject("mail", email, pace)]
    )

    assert found.free_at == {each.digest: at + pace.each for each in concerned}
    nobody = await login_sessions.find_account(
        database, uuid4().hex, address=address, action="mail", subjects=[stranger, unrelated]
    )
    assert nobody == (None, {each.digest: at + pace.each for each in (stranger, unrelated)})


async def _login_account(database: Database, email: str) -> login_sessions.LoginAccount | None:
    found = await login_sessions.find_account(database, email, address="192.0.2.1", action="login", subjects=())
    assert found.free_at == {}
    return found.account


async def test_deleted_user_has_no_personal_data_and_no_working_key(connection: AsyncConnection) -> None:
    user = await users.create(connection, "ada@example.com", name="Ada", external_id="42", password_hash="x")
    key = await a_key(connection, user.id)
    await users.delete(connection, user.id)
    assert await users.get(connection, user.id) is None
    assert await users.get_by_email(connection, "ada@example.com") is None
    revoked = await api_keys.get(connection, key.id)
    assert revoked is not None
    assert revoked.status is KeyStatus.REVOKED
    again = await users.create(connection, "ada@example.com", external_id="42")
    assert again.id != user.id


async def test_deleted_users_last_calls_are_recorded(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await users.delete(connection, user.id)
    assert await ingest(connection, [a_line(user.id)]) == IngestResult(rows=1, accounts=1)


async def test_unknown_user_is_not_found(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await users.delete(connection, user.id)
    for missing in (uuid4(), user.id):
        assert await users.get(connection, missing) is None
        for change in (users.suspend, users.reactivate, users.delete, users.patch):
            with pytest.raises(NotFound):
                await change(connection, missing)


async def test_users_are_listed_newest_first_by_cursor(connection: AsyncConnection) -> None:
    made = [await a_user(connection) for _ in range(5)]
    first = await user_lists.list_users(connection, limit=3)
    second = await user_lists.list_users(connection, limit=2, cursor=first.next_cursor)
    newest_first = sorted(made, key=lambda user: (user.created_at, user.id), reverse=True)
    assert [each.user for each in first.data + second.data] == newest_first
    assert second.next_cursor is None


@pytest.mark.parametrize("sort", [None, *user_lists.SORTABLE, "-email"])
@pytest.mark.parametrize("first", [0, 3, 2000])
@pytest.mark.parametrize("limit", [2, 9])
async def test_users_with_a_word_are_listed_whole_wherever_they_are_found(
    connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch, first: int, limit: int, sort: str | None
) -> None:
    monkeypatch.setattr(user_lists, "_FIRST", first)
    made = [
        await users.create(connection, f"w{number}@words.example", company="Lumen Labs" if number % 3 else None)
        for number in range(8)
    ]
    wanted = user_lists.UserFilter(words="lumen", status=AccountStatus.ACTIVE)
    listed: list[users.User] = []
    cursor = None
    while True:
        page = await user_lists.list_users(connection, wanted, sort=sort, cursor=cursor, limit=limit)
        listed += [each.user for each in page.data]
        if (cursor := page.next_cursor) is None:
            break

    with_the_word = [user for user in made if user.company]
    assert len(listed) == len({user.id for user in listed}) == len(with_the_word)
    unordered = sorted(with_the_word, key=lambda user: (user.created_at, user.id), reverse=True)
    assert (listed if sort is None else sorted(listed, key=unordered.index)) == unordered
    if sort is not None and "email" in sort:
        assert listed == sorted(with_the_word, key=lambda user: user.email, reverse=sort.startswith("-"))


@pytest.mark.parametrize("cursor", ["", "x", "====", "bm90IGE", "ü", "MjAyNi0wMS0wMXxub3BlIQ"])
async def test_malformed_cursor_is_refused(connection: AsyncConnection, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await user_lists.list_users(connection, cursor=cursor)
