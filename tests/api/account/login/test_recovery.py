"""One-time tokens by e-mail work once, for a while, and for their purpose only."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from gateway.api.account.login.password_hashing import PasswordHasher
from gateway.ledger.accounts import users
from policies.access.tokens import Purpose, one_time
from tests.api.account.conftest import PASSWORD, SECRET, AccountApi, Customer
from tests.support.waiting import until_waiting

NEW = "another horse, another battery"


async def test_mailed_token_verifies_the_address_once(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await customer.post("/me/verify-email", status=202)
    token = await account_api.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    await account_api.call("/auth/verify-email", {"token": token}, status=204)
    assert (await customer.get("/me"))["email_verified_at"] is not None
    await _refused(account_api, "/auth/verify-email", token)


async def test_first_verification_ends_the_keys_made_before_and_a_later_one_none(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await customer.post("/me/keys", {"name": "before"}, status=201)
    await _verify(account_api, customer)
    await customer.post("/me/keys", {"name": "after"}, status=201)
    moved = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    await customer.call("PATCH", "/me", json=moved)
    await _verify(account_api, customer)
    keys = (await customer.get("/me/keys"))["data"]
    assert {key["name"]: key["status"] for key in keys} == {"before": "revoked", "after": "active"}


async def test_first_verification_ends_what_a_stranger_has_opened_and_not_the_session_of_its_owner(
    account_api: AccountApi,
) -> None:
    """Somebody registers the address of another, logs in, makes a key and waits; the owner follows the link."""
    given = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    made = await account_api.call("/auth/register", given, status=201)
    stranger, owner = [await account_api.log_in(given["email"]) for _ in range(2)]
    key = (await stranger.post("/me/keys", {"name": "stranger's"}, status=201))["key"]
    token = await account_api.mailed_token(UUID(made["id"]), Purpose.VERIFY_EMAIL)
    await owner.post("/auth/verify-email", {"token": token}, status=204)
    await stranger.get("/me", status=401)
    refreshed = {"refresh_token": stranger.tokens["refresh_token"]}
    assert (await account_api.client.post("/auth/refresh", json=refreshed)).status_code == 401
    with_key = await account_api.client.get("/me/usage", headers={"authorization": f"Bearer {key}"})
    assert with_key.status_code == 401
    assert (await owner.get("/me"))["email_verified_at"] is not None
    # A later verification of another address ends nothing.
    elsewhere = await account_api.log_in(given["email"])
    moved = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    await owner.call("PATCH", "/me", json=moved)
    token = await account_api.mailed_token(UUID(made["id"]), Purpose.VERIFY_EMAIL)
    await owner.post("/auth/verify-email", {"token": token}, status=204)
    await elsewhere.get("/me")


async def test_keys_that_the_operator_made_outlive_the_first_password(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await customer.post("/me/keys", {"name": "operator's"}, status=201)
    async with account_api.database.transaction() as connection:
        await users.patch(connection, customer.id, password_hash=None)
    token = await _asked(account_api, customer)
    await account_api.call("/auth/reset-password", {"token": token, "password": NEW}, status=204)
    owner = await account_api.log_in(customer.email, NEW)
    assert [key["status"] for key in (await owner.get("/me/keys"))["data"]] == ["active"]


async def test_registration_mails_a_verification(account_api: AccountApi) -> None:
    given = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    made = await account_api.call("/auth/register", given, status=201)
    # Notifications of one transaction have one time, so their order says nothing.
    assert sorted(await account_api.notifications_of(UUID(made["id"]))) == [
        "account.registered",
        "account.verify_email",
    ]


async def test_verified_address_is_not_mailed_again(account_api: AccountApi) -> None:
    customer = await _verified(account_api)
    before = await account_api.notifications_of(customer.id)
    await customer.post("/me/verify-email", status=202)
    assert await account_api.notifications_of(customer.id) == before


async def test_mailed_token_verifies_only_the_address_it_was_sent_to(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await customer.post("/me/verify-email", status=202)
    token = await account_api.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    new = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    await customer.call("PATCH", "/me", json=new)
    await _refused(account_api, "/auth/verify-email", token)


async def test_password_reset_ends_every_session(account_api: AccountApi) -> None:
    customer, other = await account_api.customer(), await account_api.customer()
    token = await _asked(account_api, customer)
    await account_api.call("/auth/reset-password", {"token": token, "password": NEW}, status=204)
    assert (await customer.client.get("/me")).status_code == 401
    assert (await _refresh(account_api, customer)).status_code == 401
    assert (await other.client.get("/me")).status_code == 200
    again = await account_api.log_in(customer.email, NEW)
    assert (await again.get("/me"))["email_verified_at"] is not None  # who got the mail has the address
    assert (await account_api.notifications_of(customer.id))[-1] == "account.password_changed"
    assert (await account_api.audited(customer.id))[-1] == "account.reset_password"


async def test_reset_token_of_before_a_changed_password_is_refused(account_api: AccountApi) -> None:
    """Whoever reads the owner's mail may have asked for it."""
    customer = await account_api.customer()
    token = await _asked(account_api, customer)
    await customer.post("/me/password", {"current_password": PASSWORD, "new_password": NEW}, status=204)
    refused = {"token": token, "password": "a third horse, a third battery"}
    await account_api.call("/auth/reset-password", refused, status=422)
    await account_api.log_in(customer.email, NEW)


async def test_reset_token_works_once_even_for_two_at_once(account_api: AccountApi) -> None:
    token = await _asked(account_api, await account_api.customer())
    body = {"token": token, "password": NEW}
    responses = await asyncio.gather(*(account_api.client.post("/auth/reset-password", json=body) for _ in range(4)))
    assert sorted(response.status_code for response in responses) == [204, 422, 422, 422]


async def test_newer_token_makes_the_older_one_void(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    older, newer = await _asked(account_api, customer), await _asked(account_api, customer)
    await _refused(account_api, "/auth/reset-password", older, password=NEW)
    await account_api.call("/auth/reset-password", {"token": newer, "password": NEW}, status=204)


async def test_old_token_is_refused(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    token = await _asked(account_api, customer)
    async with account_api.database.transaction() as connection:
        late = text("UPDATE one_time_tokens SET expires_at = now() WHERE user_id = :id")
        await connection.execute(late, {"id": customer.id})
    await _refused(account_api, "/auth/reset-password", token, password=NEW)


async def test_stored_token_id_is_no_token(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    token = await _asked(account_api, customer)
    async with account_api.database.read() as connection:
        for table in ("one_time_tokens", "notices"):
            query = text(f"SELECT row_to_json(t)::text FROM {table} t")  # noqa: S608 - two names of ours
            rows = (await connection.execute(query)).scalars().all()
            assert rows
            assert not any(token in row for row in rows)


@pytest.mark.parametrize("forged", ["x", "", "é", "A" * 43, "A" * 200])
async def test_malformed_token_is_refused(account_api: AccountApi, forged: str) -> None:
    response = await account_api.client.post("/auth/verify-email", json={"token": forged})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "token"


async def test_token_serves_its_purpose_only(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    token_id = await _token_id(account_api, customer)
    for_verifying = one_time(SECRET, Purpose.VERIFY_EMAIL, token_id)
    await _refused(account_api, "/auth/verify-email", for_verifying)
    await _refused(account_api, "/auth/reset-password", for_verifying, password=NEW)
    await _refused(
        account_api, "/auth/reset-password", one_time("guessed", Purpose.RESET_PASSWORD, token_id), password=NEW
    )


async def test_forgotten_password_gets_the_same_response_for_any_address(
    account_api: AccountApi,
) -> None:
    customer = await account_api.customer()
    known = await account_api.new_client().post("/auth/forgot-password", json={"email": customer.email})
    unknown = await account_api.new_client().post("/auth/forgot-password", json={"email": "nobody@example.com"})
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content) == (202, b"null")


async def _asked(account_api: AccountApi, customer: Customer) -> str:
    await account_api.call("/auth/forgot-password", {"email": customer.email}, status=202)
    return await account_api.mailed_token(customer.id, Purpose.RESET_PASSWORD)


async def _token_id(account_api: AccountApi, customer: Customer) -> UUID:
    await _asked(account_api, customer)
    async with account_api.database.read() as connection:
        newest = text("SELECT id FROM one_time_tokens WHERE user_id = :id")
        found: UUID = (await connection.execute(newest, {"id": customer.id})).scalar_one()
    return found


async def _verified(account_api: AccountApi) -> Customer:
    customer = await account_api.customer()
    await customer.post("/me/verify-email", status=202)
    token = await account_api.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    await account_api.call("/auth/verify-email", {"token": token}, status=204)
    return customer


async def _refresh(account_api: AccountApi, customer: Customer) -> httpx.Response:
    return await account_api.client.post("/auth/refresh", json={"refresh_token": customer.tokens["refresh_token"]})


async def _refused(account_api: AccountApi, path: str, token: str, **more: str) -> None:
    refused = await account_api.call(path, {"token": token, **more}, status=422)
    assert [each["field"] for each in refused["errors"]] == ["token"]


async def test_unusable_token_is_refused_before_anything_is_hashed(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hash_nothing(*_: object, **__: object) -> str:
        raise AssertionError("hashed")

    customer = await account_api.customer()
    used = await _asked(account_api, customer)
    await account_api.call("/auth/reset-password", {"token": used, "password": NEW}, status=204)
    monkeypatch.setattr(PasswordHasher, "hash", hash_nothing)
    for token in (used, "x", one_time("guessed", Purpose.RESET_PASSWORD, customer.id)):
        await _refused(account_api, "/auth/reset-password", token, password=NEW)


async def test_owner_who_resets_a_never_verified_account_gets_it_without_foreign_keys(account_api: AccountApi) -> None:
    squatter = await account_api.customer()
    await squatter.post("/me/keys", {"name": "mine"}, status=201)
    token = await _asked(account_api, squatter)
    await account_api.call("/auth/reset-password", {"token": token, "password": NEW}, status=204)
    owner = await account_api.log_in(squatter.email, NEW)
    assert [key["status"] for key in (await owner.get("/me/keys"))["data"]] == ["revoked"]
    await owner.post("/me/keys", {"name": "mine"}, status=201)
    token = await _asked(account_api, owner)
    await account_api.call("/auth/reset-password", {"token": token, "password": PASSWORD}, status=204)
    again = await account_api.log_in(squatter.email, PASSWORD)
    # The address was verified when the second key was made: a forgotten password costs no keys.
    assert sorted(key["status"] for key in (await again.get("/me/keys"))["data"]) == ["active", "revoked"]


async def _verify(account_api: AccountApi, customer: Customer) -> None:
    if "account.verify_email" not in await account_api.notifications_of(customer.id):
        await customer.post("/me/verify-email", status=202)
    token = await account_api.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    await account_api.call("/auth/verify-email", {"token": token}, status=204)


async def test_reset_verifies_no_address_that_the_account_moves_to_meanwhile(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    token = await _asked(account_api, customer)
    moved = f"{uuid4().hex}@example.com"
    async with account_api.database.transaction() as connection:
        await users.patch(connection, customer.id, email=moved, email_verified_at=None)
        body = {"token": token, "password": NEW}
        resetting = asyncio.create_task(account_api.client.post("/auth/reset-password", json=body))
        await until_waiting(account_api.database)
    assert (await resetting).status_code == 422
    async with account_api.database.read() as connection:
        found = await users.get(connection, customer.id)
    assert found is not None
    assert (found.email, found.email_verified_at) == (moved, None)
