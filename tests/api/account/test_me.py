"""Profile, password and deletion of the caller."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.ledger.accounts import erasure, login_sessions, users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db import notifications
from gateway.ledger.subscriptions import lifecycle, subscriptions
from policies.access.tokens import Purpose, digest
from tests.api.account.conftest import PASSWORD, AccountApi
from tests.support.waiting import until_waiting

NEW = "another horse, another battery"


async def test_profile_changes_in_the_given_fields_and_is_audited(account_api: AccountApi) -> None:
    customer = await account_api.customer(name="Ada", company="Engines")
    before = await customer.get("/me")
    after = await customer.call("PATCH", "/me", json={"name": "Countess", "time_zone": "Europe/London"})
    assert after == before | {"name": "Countess", "time_zone": "Europe/London"}
    assert await customer.get("/me") == after
    assert (await account_api.audited(customer.id)) == ["account.change"]


@pytest.mark.parametrize("field", ["role", "status", "email_verified_at", "credits", "id", "metadata"])
async def test_profile_refuses_fields_of_the_operator(account_api: AccountApi, field: str) -> None:
    customer = await account_api.customer()
    refused = await customer.call("PATCH", "/me", json={field: "admin"}, status=422)
    assert refused["errors"] == [{"field": field, "message": "no such field"}]


async def test_new_address_needs_the_password_and_is_unverified(account_api: AccountApi) -> None:
    customer = await account_api.customer(email_verified_at=now())
    email = f"{uuid4().hex}@example.com"
    for body in ({"email": email}, {"email": email, "password": "guess"}):
        refused = await customer.call("PATCH", "/me", json=body, status=422)
        assert [each["field"] for each in refused["errors"]] == ["password"]
    after = await customer.call("PATCH", "/me", json={"email": email, "password": PASSWORD})
    assert (after["email"], after["email_verified_at"]) == (email, None)
    assert "account.verify_email" in await account_api.notifications_of(customer.id)


@pytest.mark.parametrize("was_verified", [True, False])
async def test_former_address_is_told_of_a_move_where_it_was_verified(
    account_api: AccountApi, was_verified: bool
) -> None:
    customer = await account_api.customer(email_verified_at=now() if was_verified else None)
    await customer.call("PATCH", "/me", json={"email": f"{uuid4().hex}@example.com", "password": PASSWORD})
    async with account_api.database.transaction() as connection:
        leased = await notifications.lease(connection, limit=500, lease_seconds=0)
    told = [each.email for each in leased if each.user_id == customer.id and each.kind == "account.email_changed"]
    assert told == ([customer.email] if was_verified else [])


async def test_new_addresses_are_as_few_as_the_mails_that_an_account_may_ask_for(account_api: AccountApi) -> None:
    """Each gets a mail, whoever has it, and each tells whether it has an account."""
    customer = await account_api.customer()
    for status in (*[200] * 5, 429):
        moved = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
        await customer.call("PATCH", "/me", json=moved, status=status)
    await customer.call("PATCH", "/me", json={"name": "Ada"})
    assert (await account_api.notifications_of(customer.id)).count("account.verify_email") == 5


async def test_account_is_not_deleted_without_its_password(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    for body in ({}, {"password": "guess"}):
        refused = await customer.call("DELETE", "/me", status=422, json=body)
        assert [each["field"] for each in refused["errors"]] == ["password"]
    await customer.get("/me")


async def test_taken_address_is_a_conflict(account_api: AccountApi) -> None:
    customer, other = await account_api.customer(), await account_api.customer()
    await customer.call("PATCH", "/me", json={"email": other.email.upper(), "password": PASSWORD}, status=409)


async def test_changed_password_ends_the_other_sessions_and_not_this_one(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    other = await account_api.log_in(customer.email)
    change = {"current_password": PASSWORD, "new_password": NEW}
    await customer.post("/me/password", change, status=204)
    assert (await customer.client.get("/me")).status_code == 200
    assert (await other.client.get("/me")).status_code == 401
    await account_api.call("/auth/login", {"email": customer.email, "password": PASSWORD}, status=401)
    await account_api.log_in(customer.email, NEW)
    assert "account.password_changed" in await account_api.notifications_of(customer.id)


async def test_password_change_needs_the_present_password(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    change = {"current_password": "guess", "new_password": NEW}
    refused = await customer.post("/me/password", change, status=422)
    assert refused["errors"] == [{"field": "current_password", "message": "is not your password"}]


async def test_deleted_account_has_no_personal_data_and_no_access(account_api: AccountApi) -> None:
    customer = await account_api.customer(name="Ada Lovelace", company="Engines")
    await customer.call("PATCH", "/me", json={"company": "Analytical"})  # which the audit log has
    key = await customer.post("/me/keys", {"name": "Ada's laptop", "allowed_ips": ["192.0.2.213"]}, status=201)
    await account_api.call("/auth/forgot-password", {"email": customer.email}, status=202)
    token = await account_api.mailed_token(customer.id, Purpose.RESET_PASSWORD)
    await customer.call("DELETE", "/me", status=204, json={"password": PASSWORD})
    assert (await customer.client.get("/me")).status_code == 401
    await account_api.call("/auth/login", {"email": customer.email, "password": PASSWORD}, status=401)
    await account_api.call("/auth/refresh", {"refresh_token": customer.tokens["refresh_token"]}, status=401)
    await account_api.call("/auth/reset-password", {"token": token, "password": NEW}, status=422)
    refused = await account_api.client.get("/me/limits", headers={"x-api-key": key["key"]})
    assert (refused.status_code, refused.json()["code"]) == (401, "key_revoked")
    assert await _mentions(account_api, customer.email, "Lovelace", "Analytical", "Ada's laptop", "192.0.2.213") == []


async def test_address_of_a_deleted_account_is_free_again(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await customer.call("DELETE", "/me", status=204, json={"password": PASSWORD})
    await account_api.call("/auth/register", {"email": customer.email, "password": PASSWORD}, status=201)


async def test_address_that_a_deleted_account_is_left_with_is_nobodys(account_api: AccountApi) -> None:
    """Or whoever has it keeps the account from being deleted."""
    customer = await account_api.customer()
    left_with = f"{customer.id}@Deleted.invalid"
    await account_api.call("/auth/register", {"email": left_with, "password": PASSWORD}, status=422)
    await customer.call("DELETE", "/me", status=204, json={"password": PASSWORD})


async def test_deleted_account_has_no_subscription_and_keeps_its_ledger(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        plan = await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(0), credits_per_period=7))
        begun = await lifecycle.start(connection, customer.id, plan_id=plan.id, now=now() - timedelta(days=1))
    await customer.call("DELETE", "/me", status=204, json={"password": PASSWORD})
    async with account_api.database.read() as connection:
        ended = await subscriptions.get(connection, begun.id)
        booked = text("SELECT count(*) FROM credit_ledger WHERE user_id = :id")
        assert (await connection.execute(booked, {"id": customer.id})).scalar_one() > 0
        assert await users.get(connection, customer.id) is None
    assert ended is not None
    assert ended.status == "canceled"
    assert await account_api.notifications_of(customer.id) == ["account.deleted"]


async def _mentions(account_api: AccountApi, *words: str) -> list[str]:
    """Where in the whole database any of these words stands."""
    async with account_api.database.read() as connection:
        listed = text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = (await connection.execute(listed)).scalars().all()
        found = []
        for table in tables:
            query = text(f"SELECT row_to_json(t)::text FROM {table} t")  # noqa: S608 - our own tables
            rows = (await connection.execute(query)).scalars()
            found += [f"{table}: {row}" for row in rows if any(word in row for word in words)]
    return found


async def test_password_that_is_reset_meanwhile_changes_nothing_any_more(account_api: AccountApi) -> None:
    moves = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    changes = {"current_password": PASSWORD, "new_password": NEW}
    for method, path, body in (
        ("POST", "/me/password", changes),
        ("PATCH", "/me", moves),
        ("DELETE", "/me", {"password": PASSWORD}),
    ):
        customer = await account_api.customer()
        async with account_api.database.transaction() as connection:
            await users.patch(connection, customer.id, password_hash="of the owner")
            sent = asyncio.create_task(customer.client.request(method, path, json=body))
            await until_waiting(account_api.database)
        assert (await sent).status_code == 422, path
        async with account_api.database.read() as connection:
            query = text("SELECT password_hash, email FROM users WHERE id = :id")
            row = (await connection.execute(query, {"id": customer.id})).one()
        assert tuple(row) == ("of the owner", customer.email)


async def test_subscription_that_meets_the_deletion_does_not_begin(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        plan = await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(0), credits_per_period=7))
    async with account_api.database.transaction() as connection:
        await erasure.erase(connection, customer.id, now=now())
        sent = asyncio.create_task(customer.client.post(f"/subscriptions/{plan.id}"))
        await until_waiting(account_api.database)
    assert (await sent).status_code == 404
    async with account_api.database.read() as connection:
        assert await subscriptions.get_current(connection, customer.id) is None


async def test_requests_that_meet_the_deletion_leave_no_personal_data(account_api: AccountApi) -> None:
    customer = await account_api.customer(name="Grace Hopper")
    async with account_api.database.transaction() as connection:
        await erasure.erase(connection, customer.id, now=now())
        sent = [
            asyncio.create_task(customer.client.patch("/me", json={"company": "Flow-Matic"})),
            asyncio.create_task(customer.client.post("/me/keys", json={"name": "Flow-Matic laptop"})),
        ]
        await until_waiting(account_api.database, 2)
    assert [(await each).status_code for each in sent] == [404, 404]
    assert await _mentions(account_api, customer.email, "Grace Hopper", "Flow-Matic") == []


async def test_every_session_is_listed_and_can_be_ended_however_many_there_are(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        for number in range(101):
            await login_sessions.create(
                connection,
                customer.id,
                token_hash=digest(f"{customer.id}{number}"),
                expires_at=now() + timedelta(days=1),
                address=None,
            )
    first = await customer.get("/me/sessions", limit=100)
    rest = await customer.get("/me/sessions", limit=100, cursor=first["next_cursor"])
    listed = first["data"] + rest["data"]
    assert (len(listed), rest["next_cursor"]) == (102, None)
    (current,) = [each["id"] for each in listed if each["is_current"]]
    await customer.call("DELETE", f"/me/sessions/{current}", status=204)
    await customer.get("/me", status=401)
