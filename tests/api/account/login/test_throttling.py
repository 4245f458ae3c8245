"""Guesses are throttled per account, per address and in total, and the owner still gets in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway.api.account.login.password_hashing import MAX_WAITING
from gateway.api.errors import Busy
from policies.access import throttling
from policies.access.throttling import subject
from tests.api.account.conftest import PASSWORD, AccountApi

BURST = throttling.LOGIN_OF_ACCOUNT.burst


async def test_guesses_at_an_account_are_throttled_over_all_addresses(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _exhaust(account_api, str(customer.id))
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
    await _exhaust(account_api, str(customer.id))
    assert (await _login(home, customer.email, PASSWORD)).status_code == 200


async def test_address_is_throttled_over_all_accounts(account_api: AccountApi) -> None:
    guesser = account_api.new_client()
    await _take(account_api, "login-from", _address(guesser), throttling.LOGIN_FROM_ADDRESS.burst)
    customer = await account_api.customer()
    assert (await _login(guesser, customer.email, "guess")).status_code == 429
    assert (await _login(account_api.new_client(), customer.email, "guess")).status_code == 401


async def test_successful_logins_do_not_count(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _take(account_api, "login", str(customer.id), BURST - 1)
    responses = [await _login(account_api.new_client(), customer.email, PASSWORD) for _ in range(3)]
    assert {response.status_code for response in responses} == {200}


async def test_concurrent_guesses_pass_no_more_than_sequential_ones(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await _take(account_api, "login", str(customer.id), BURST - 2)
    guesses = (_login(account_api.new_client(), customer.email, "guess") for _ in range(6))
    responses = await asyncio.gather(*guesses)
    assert sorted(response.status_code for response in responses) == [401] * 2 + [429] * 4


@pytest.mark.parametrize("spelling", [str.upper, str.title, lambda email: f"  {email} "])
async def test_guesses_are_throttled_under_any_spelling_of_the_address(
    account_api: AccountApi, spelling: Callable[[str], str]
) -> None:
    customer = await account_api.customer()
    await _exhaust(account_api, str(customer.id))
    assert (await _login(account_api.new_client(), spelling(customer.email), PASSWORD)).status_code == 429


async def test_busy_gateway_counts_nothing_against_the_owner(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    crowd = [asyncio.create_task(_hash_from(account_api, number)) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    body = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    for _ in range(2 * BURST):
        assert (await _login(account_api.new_client(), customer.email, PASSWORD)).status_code in (200, 503)
    assert (await account_api.new_client().post("/auth/register", json=body)).status_code in (201, 503)
    await asyncio.wait(crowd)
    assert (await _login(account_api.new_client(), customer.email, PASSWORD)).status_code == 200


async def test_mails_that_strangers_ask_for_leave_others_theirs(account_api: AccountApi) -> None:
    for number in range(34):  # once the allowance of all together
        await _take(account_api, "mail-from", f"203.0.113.{number}", throttling.MAIL_FROM_ADDRESS.burst)
    await _take(account_api, "mail-network", "203.0.113.0/24", throttling.MAIL_FROM_NETWORK.burst)
    customer = await account_api.customer()
    await account_api.call("/auth/forgot-password", {"email": customer.email}, status=202)
    assert "account.reset_password" in await account_api.notifications_of(customer.id)


async def test_failed_login_is_counted_and_logged_without_what_was_sent(account_api: AccountApi) -> None:
    customer, before = await account_api.customer(), _failed("password")
    with capture_logs() as lines:
        await _login(account_api.client, customer.email, "a guess close to it")
    assert _failed("password") == before + 1
    (line,) = [line for line in lines if line["event"] == "sign_in_failed"]
    assert (line["kind"], line["user_id"], line["address"]) == (
        "password",
        str(customer.id),
        _address(account_api.client),
    )
    assert "guess" not in str(line)


async def test_mails_to_an_account_are_limited(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    body = {"email": customer.email}
    responses = [await account_api.new_client().post("/auth/forgot-password", json=body) for _ in range(6)]
    assert [response.status_code for response in responses] == [202] * throttling.MAIL_TO_ACCOUNT.burst + [429]
    assert (await account_api.notifications_of(customer.id)).count(
        "account.reset_password"
    ) == throttling.MAIL_TO_ACCOUNT.burst


async def test_moves_to_other_addresses_are_limited_whatever_strangers_ask_for(account_api: AccountApi) -> None:
    """Each sends a mail to somebody who may not have asked for it."""
    customer = await account_api.customer()
    for _ in range(throttling.MAIL_TO_ACCOUNT.burst):
        await account_api.call("/auth/forgot-password", {"email": customer.email}, status=202)
    for status in [200] * throttling.MAIL_TO_ACCOUNT.burst + [429]:
        moves = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
        await customer.call("PATCH", "/me", json=moves, status=status)
    assert (await customer.call("PATCH", "/me", json={"name": "Ada"}))["name"] == "Ada"


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


async def _exhaust(account_api: AccountApi, account: str) -> None:
    """Wrong guesses from as many addresses, without hashing them."""
    await _take(account_api, "login", account, BURST)


async def _take(account_api: AccountApi, action: str, named: str, times: int) -> None:
    digest = subject(action, named, throttling.LOGIN_OF_ACCOUNT).digest
    seconds = {"login": 60, "login-from": 5, "register-from": 10, "mail-from": 60, "mail-network": 5}[action] * times
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


def _failed(kind: str) -> float:
    return REGISTRY.get_sample_value("gateway_failed_sign_ins_total", {"kind": kind}) or 0


async def _hash_from(account_api: AccountApi, number: int) -> None:
    """One hash of an address of its own."""
    app: Any = account_api.app
    while not hasattr(app, "state"):
        app = app._app
    with suppress(Busy):
        await app.state.dependencies.hasher.hash(PASSWORD, address=f"203.0.113.{number}")
