"""What a mail proves, once, for a while, and to nobody who did not get it."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from policies.access.tokens import Purpose, one_time
from tests.api.account.conftest import PASSWORD, SECRET, Customer, Shop

NEW = "another horse, another battery"


async def test_a_mailed_token_verifies_the_address_once(shop: Shop) -> None:
    customer = await shop.customer()
    await customer.post("/me/verify-email", status=202)
    token = await shop.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    await shop.call("/auth/verify-email", {"token": token}, status=204)
    assert (await customer.get("/me"))["email_verified_at"] is not None
    await _refused(shop, "/auth/verify-email", token)


async def test_registering_asks_to_verify_the_address(shop: Shop) -> None:
    given = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    made = await shop.call("/auth/register", given, status=201)
    assert await shop.told(UUID(made["id"])) == ["account.verify_email", "account.registered"]


async def test_a_verified_address_is_not_mailed_again(shop: Shop) -> None:
    customer = await _verified(shop)
    before = await shop.told(customer.id)
    await customer.post("/me/verify-email", status=202)
    assert await shop.told(customer.id) == before


async def test_a_token_proves_the_address_it_was_sent_to_and_no_other(shop: Shop) -> None:
    customer = await shop.customer()
    await customer.post("/me/verify-email", status=202)
    token = await shop.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    new = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    await customer.call("PATCH", "/me", json=new)
    await _refused(shop, "/auth/verify-email", token)


async def test_a_new_password_by_mail_ends_every_session(shop: Shop) -> None:
    customer, other = await shop.customer(), await shop.customer()
    token = await _asked(shop, customer)
    await shop.call("/auth/reset-password", {"token": token, "password": NEW}, status=204)
    assert (await customer.client.get("/me")).status_code == 401
    assert (await _refresh(shop, customer)).status_code == 401
    assert (await other.client.get("/me")).status_code == 200
    again = await shop.logged_in(customer.email, NEW)
    assert (await again.get("/me"))["email_verified_at"] is not None  # who got the mail has the address
    assert (await shop.told(customer.id))[-1] == "account.password_changed"
    assert (await shop.audited(customer.id))[-1] == "account.reset_password"


async def test_a_reset_token_works_once_even_for_two_at_once(shop: Shop) -> None:
    token = await _asked(shop, await shop.customer())
    body = {"token": token, "password": NEW}
    answers = await asyncio.gather(*(shop.client.post("/auth/reset-password", json=body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [204, 422, 422, 422]


async def test_a_newer_token_makes_the_older_one_void(shop: Shop) -> None:
    customer = await shop.customer()
    older, newer = await _asked(shop, customer), await _asked(shop, customer)
    await _refused(shop, "/auth/reset-password", older, password=NEW)
    await shop.call("/auth/reset-password", {"token": newer, "password": NEW}, status=204)


async def test_an_old_token_is_refused(shop: Shop) -> None:
    customer = await shop.customer()
    token = await _asked(shop, customer)
    async with shop.database.transaction() as connection:
        late = text("UPDATE one_time_tokens SET expires_at = now() WHERE user_id = :id")
        await connection.execute(late, {"id": customer.id})
    await _refused(shop, "/auth/reset-password", token, password=NEW)


async def test_what_is_stored_is_no_token(shop: Shop) -> None:
    customer = await shop.customer()
    token = await _asked(shop, customer)
    async with shop.database.read() as connection:
        for table in ("one_time_tokens", "notices"):
            query = text(f"SELECT row_to_json(t)::text FROM {table} t")  # noqa: S608 - two names of ours
            rows = (await connection.execute(query)).scalars().all()
            assert rows
            assert not any(token in row for row in rows)


@pytest.mark.parametrize("forged", ["x", "", "é", "A" * 43, "A" * 200])
async def test_junk_is_no_token(shop: Shop, forged: str) -> None:
    answer = await shop.client.post("/auth/verify-email", json={"token": forged})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "token"


async def test_a_token_of_one_purpose_serves_no_other(shop: Shop) -> None:
    customer = await shop.customer()
    token_id = await _token_id(shop, customer)
    for_verifying = one_time(SECRET, Purpose.VERIFY_EMAIL, token_id)
    await _refused(shop, "/auth/verify-email", for_verifying)
    await _refused(shop, "/auth/reset-password", for_verifying, password=NEW)
    await _refused(shop, "/auth/reset-password", one_time("guessed", Purpose.RESET_PASSWORD, token_id), password=NEW)


async def test_a_forgotten_password_gets_the_same_answer_for_known_and_unknown_addresses(shop: Shop) -> None:
    customer = await shop.customer()
    known = await shop.from_elsewhere().post("/auth/forgot-password", json={"email": customer.email})
    unknown = await shop.from_elsewhere().post("/auth/forgot-password", json={"email": "nobody@example.com"})
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content) == (202, b"null")


async def _asked(shop: Shop, customer: Customer) -> str:
    await shop.call("/auth/forgot-password", {"email": customer.email}, status=202)
    return await shop.mailed_token(customer.id, Purpose.RESET_PASSWORD)


async def _token_id(shop: Shop, customer: Customer) -> UUID:
    await _asked(shop, customer)
    async with shop.database.read() as connection:
        newest = text("SELECT id FROM one_time_tokens WHERE user_id = :id")
        found: UUID = (await connection.execute(newest, {"id": customer.id})).scalar_one()
    return found


async def _verified(shop: Shop) -> Customer:
    customer = await shop.customer()
    await customer.post("/me/verify-email", status=202)
    token = await shop.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
    await shop.call("/auth/verify-email", {"token": token}, status=204)
    return customer


async def _refresh(shop: Shop, customer: Customer) -> httpx.Response:
    return await shop.client.post("/auth/refresh", json={"refresh_token": customer.tokens["refresh_token"]})


async def _refused(shop: Shop, path: str, token: str, **more: str) -> None:
    refused = await shop.call(path, {"token": token, **more}, status=422)
    assert [each["field"] for each in refused["errors"]] == ["token"]
