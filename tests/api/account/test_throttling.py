"""Guessing is slowed down by account, by address and for all together; an owner gets in all the same."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx
from sqlalchemy import text

from policies.access import throttling
from policies.access.throttling import subject
from tests.api.account.conftest import PASSWORD, Shop

BURST = throttling.LOGIN_OF_ACCOUNT.burst


async def test_guessing_at_an_account_is_slowed_down_from_many_addresses_together(shop: Shop) -> None:
    customer = await shop.customer()
    await _exhaust(shop, customer.email)
    refused = await _login(shop.from_elsewhere(), customer.email, PASSWORD)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["retry_after"] == int(refused.headers["retry-after"])


async def test_an_unknown_account_is_slowed_down_the_same(shop: Shop) -> None:
    email = f"{uuid4().hex}@example.com"
    await _exhaust(shop, email)
    assert (await _login(shop.from_elsewhere(), email, "guess")).status_code == 429


async def test_an_owner_logs_in_from_where_they_did_before_while_others_guess(shop: Shop) -> None:
    customer = await shop.customer()
    home = shop.from_elsewhere()
    assert (await _login(home, customer.email, PASSWORD)).status_code == 200
    await _exhaust(shop, customer.email)
    assert (await _login(home, customer.email, PASSWORD)).status_code == 200


async def test_an_address_is_slowed_down_over_many_accounts(shop: Shop) -> None:
    guesser = shop.from_elsewhere()
    await _take(shop, "login-from", _address(guesser), throttling.LOGIN_FROM_ADDRESS.burst)
    customer = await shop.customer()
    assert (await _login(guesser, customer.email, "guess")).status_code == 429
    assert (await _login(shop.from_elsewhere(), customer.email, "guess")).status_code == 401


async def test_logins_that_succeed_count_for_nothing(shop: Shop) -> None:
    customer = await shop.customer()
    await _take(shop, "login", customer.email, BURST - 1)
    answers = [await _login(shop.from_elsewhere(), customer.email, PASSWORD) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}


async def test_of_many_guesses_at_once_no_more_pass_than_one_after_the_other(shop: Shop) -> None:
    customer = await shop.customer()
    await _take(shop, "login", customer.email, BURST - 2)
    guesses = (_login(shop.from_elsewhere(), customer.email, "guess") for _ in range(6))
    answers = await asyncio.gather(*guesses)
    assert sorted(answer.status_code for answer in answers) == [401] * 2 + [429] * 4


async def test_mails_to_one_account_are_bounded(shop: Shop) -> None:
    customer = await shop.customer()
    body = {"email": customer.email}
    answers = [await shop.from_elsewhere().post("/auth/forgot-password", json=body) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * throttling.MAIL_TO_ACCOUNT.burst + [429]
    assert (await shop.told(customer.id)).count("account.reset_password") == throttling.MAIL_TO_ACCOUNT.burst


async def test_registrations_from_an_address_are_bounded(shop: Shop) -> None:
    crowd = shop.from_elsewhere()
    await _take(shop, "register-from", _address(crowd), throttling.REGISTRATION_FROM_ADDRESS.burst)
    given = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    assert (await crowd.post("/auth/register", json=given)).status_code == 429
    assert (await shop.from_elsewhere().post("/auth/register", json=given)).status_code == 201


async def test_a_throttle_says_nothing_of_whom_it_slows_down(shop: Shop) -> None:
    customer = await shop.customer()
    await _login(shop.client, customer.email, "guess")
    async with shop.database.read() as connection:
        rows = (await connection.execute(text("SELECT row_to_json(t)::text FROM throttles t"))).scalars().all()
    assert rows
    assert not any(customer.email in row or customer.email.encode().hex() in row for row in rows)


async def _exhaust(shop: Shop, email: str) -> None:
    """Wrong guesses from as many addresses, without hashing them."""
    await _take(shop, "login", email, BURST)


async def _take(shop: Shop, action: str, named: str, times: int) -> None:
    digest = subject(action, named, throttling.LOGIN_OF_ACCOUNT).digest
    seconds = {"login": 60, "login-from": 5, "register-from": 10}[action] * times
    taken = text("""
        INSERT INTO throttles VALUES (:subject, now() + :seconds * interval '1 second')
        ON CONFLICT (subject) DO UPDATE SET free_at = excluded.free_at
    """)
    async with shop.database.transaction() as connection:
        await connection.execute(taken, {"subject": digest, "seconds": seconds})


def _address(client: httpx.AsyncClient) -> str:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    return transport.client[0]


async def _login(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post("/auth/login", json={"email": email, "password": password})
