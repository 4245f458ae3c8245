"""Guesses are throttled per account, per address and in total, and the owner still gets in."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx
from sqlalchemy import text

from policies.access import throttling
from policies.access.throttling import subject
from tests.api.account.conftest import PASSWORD, AccountApi

BURST = throttling.LOGIN_OF_ACCOUNT.burst


async def test_guesses_at_an_account_are_throttled_over_all_addresses(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _exhaust(account_api, customer.email)
    refused = await _login(account_api.new_client(), customer.email, PASSWORD)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["retry_after"] == int(refused.headers["retry-after"])


async def test_unknown_account_is_throttled_alike(account_api: AccountApi) -> None:
    email = f"{uuid4().hex}@example.com"
    await _exhaust(account_api, email)
    assert (await _login(account_api.new_client(), email, "guess")).status_code == 429


async def test_owner_logs_in_from_a_known_address_during_guesses(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    home = account_api.new_client()
    assert (await _login(home, customer.email, PASSWORD)).status_code == 200
    await _exhaust(account_api, customer.email)
    assert (await _login(home, customer.email, PASSWORD)).status_code == 200


async def test_address_is_throttled_over_all_accounts(account_api: AccountApi) -> None:
    guesser = account_api.new_client()
    await _take(account_api, "login-from", _address(guesser), throttling.LOGIN_FROM_ADDRESS.burst)
    customer = await account_api.customer()
    assert (await _login(guesser, customer.email, "guess")).status_code == 429
    assert (await _login(account_api.new_client(), customer.email, "guess")).status_code == 401


async def test_successful_logins_do_not_count(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _take(account_api, "login", customer.email, BURST - 1)
    responses = [await _login(account_api.new_client(), customer.email, PASSWORD) for _ in range(3)]
    assert {response.status_code for response in responses} == {200}


async def test_concurrent_guesses_pass_no_more_than_sequential_ones(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _take(account_api, "login", customer.email, BURST - 2)
    guesses = (_login(account_api.new_client(), customer.email, "guess") for _ in range(6))
    responses = await asyncio.gather(*guesses)
    assert sorted(response.status_code for response in responses) == [401] * 2 + [429] * 4


async def test_mails_to_an_account_are_limited(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    body = {"email": customer.email}
    responses = [await account_api.new_client().post("/auth/forgot-password", json=body) for _ in range(6)]
    assert [response.status_code for response in responses] == [202] * throttling.MAIL_TO_ACCOUNT.burst + [429]
    assert (await account_api.notifications_of(customer.id)).count(
        "account.reset_password"
    ) == throttling.MAIL_TO_ACCOUNT.burst


async def test_registrations_from_an_address_are_limited(account_api: AccountApi) -> None:
    crowd = account_api.new_client()
    await _take(account_api, "register-from", _address(crowd), throttling.REGISTRATION_FROM_ADDRESS.burst)
    given = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    assert (await crowd.post("/auth/register", json=given)).status_code == 429
    assert (await account_api.new_client().post("/auth/register", json=given)).status_code == 201


async def test_throttle_rows_reveal_no_account_and_no_address(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _login(account_api.client, customer.email, "guess")
    async with account_api.database.read() as connection:
        rows = (await connection.execute(text("SELECT row_to_json(t)::text FROM throttles t"))).scalars().all()
    assert rows
    assert not any(customer.email in row or customer.email.encode().hex() in row for row in rows)


async def _exhaust(account_api: AccountApi, email: str) -> None:
    """Wrong guesses from as many addresses, without hashing them."""
    await _take(account_api, "login", email, BURST)


async def _take(account_api: AccountApi, action: str, named: str, times: int) -> None:
    digest = subject(action, named, throttling.LOGIN_OF_ACCOUNT).digest
    seconds = {"login": 60, "login-from": 5, "register-from": 10}[action] * times
    taken = text("""
        INSERT INTO throttles VALUES (:subject, now() + :seconds * interval '1 second')
        ON CONFLICT (subject) DO UPDATE SET free_at = excluded.free_at
    """)
    async with account_api.database.transaction() as connection:
        await connection.execute(taken, {"subject": digest, "seconds": seconds})


def _address(client: httpx.AsyncClient) -> str:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    return transport.client[0]


async def _login(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post("/auth/login", json={"email": email, "password": password})
