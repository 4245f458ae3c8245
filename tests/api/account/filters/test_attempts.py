"""Strangers who are refused again and again are refused before PostgreSQL is asked; nobody else is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest

from gateway import paced_subjects
from gateway.clock import monotonic_seconds
from gateway.ledger.accounts import login_sessions
from gateway.ledger.accounts.stored_digests import StoredDigests
from policies.access.keys import ENTROPY_BYTES, compose
from policies.access.throttling import (
    ATTEMPTS_FROM_ADDRESS,
    ATTEMPTS_FROM_NETWORK,
    UNKNOWN_KEYS_FROM_ADDRESS,
)
from tests.api.account.conftest import PASSWORD, AccountApi, client_at

JUNK_TOKEN = "gwr_" + "a" * 43


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the look-ups of refresh tokens, sessions and keys."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        async def look_up(*arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            return await real(*arguments, **options)

        monkeypatch.setattr(owner, name, look_up)

    count(StoredDigests, "has_any")
    count(login_sessions, "find_user")
    return counted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [monotonic_seconds()]  # others count by it after this test
    monkeypatch.setattr(paced_subjects, "monotonic_seconds", lambda: now[0])
    return now


async def _refresh(client: httpx.AsyncClient, token: str = JUNK_TOKEN) -> int:
    return (await client.post("/auth/refresh", json={"refresh_token": token})).status_code


async def test_refused_attempts_of_an_address_are_paced_before_a_query(
    account_api: AccountApi, queries: Counter[str], clock: list[float]
) -> None:
    async with client_at(account_api.app, "203.0.113.7") as stranger:
        statuses = Counter([await _refresh(stranger) for _ in range(ATTEMPTS_FROM_ADDRESS.burst + 50)])
        assert statuses == {401: ATTEMPTS_FROM_ADDRESS.burst, 429: 50}
        assert queries["has_any"] == ATTEMPTS_FROM_ADDRESS.burst
        refused = await stranger.post("/auth/login", json={"email": "ada@example.com", "password": PASSWORD})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        clock[0] += 1.0
        later = Counter([await _refresh(stranger) for _ in range(20)])
    assert later == {401: 10, 429: 10}  # in any second, so many of its requests cost a query and no more
    assert await _refresh(account_api.new_client()) == 401


async def test_refused_attempts_of_a_network_are_paced(account_api: AccountApi, clock: list[float]) -> None:
    statuses: Counter[int] = Counter()
    for host in range(1, 14):
        async with client_at(account_api.app, f"203.0.114.{host}") as stranger:
            statuses.update([await _refresh(stranger) for _ in range(ATTEMPTS_FROM_ADDRESS.burst)])
    assert statuses[401] == ATTEMPTS_FROM_NETWORK.burst, clock


async def test_what_succeeds_costs_its_address_nothing(account_api: AccountApi, clock: list[float]) -> None:
    customer = await account_api.customer()
    token = customer.tokens["refresh_token"]
    async with client_at(account_api.app, "203.0.115.7") as client:
        for _ in range(ATTEMPTS_FROM_ADDRESS.burst + 10):
            response = await client.post("/auth/refresh", json={"refresh_token": token})
            assert response.status_code == 200, clock
            token = response.json()["refresh_token"]


async def test_body_that_is_refused_is_no_attempt(account_api: AccountApi, clock: list[float]) -> None:
    async with client_at(account_api.app, "203.0.116.7") as client:
        for _ in range(ATTEMPTS_FROM_ADDRESS.burst + 10):
            assert (await client.post("/auth/refresh", json={})).status_code == 422, clock
        assert await _refresh(client) == 401


async def test_token_that_was_never_made_costs_no_query(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_api.database, "_connection", None)
    monkeypatch.setattr(account_api.database, "_driver", None)
    for path, more in (("verify-email", {}), ("reset-password", {"password": PASSWORD})):
        response = await account_api.new_client().post(f"/auth/{path}", json={"token": "a" * 43, **more})
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "token"), response.text


async def test_throttled_login_writes_nothing(account_api: AccountApi, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = await account_api.customer()
    stranger = account_api.new_client()
    wrong = {"email": customer.email, "password": "wrong"}
    statuses = [(await stranger.post("/auth/login", json=wrong)).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    monkeypatch.setattr(account_api.database, "transaction", None)
    assert (await stranger.post("/auth/login", json=wrong)).status_code == 429


async def test_unknown_keys_of_an_address_are_looked_up_at_a_pace(
    account_api: AccountApi, queries: Counter[str], clock: list[float]
) -> None:
    customer = await account_api.customer()
    known = (await customer.post("/me/keys", {"name": "known"}, status=201))["key"]
    async with client_at(account_api.app, "203.0.117.7") as stranger:

        async def ask(key: str) -> int:
            return (await stranger.get("/me/limits", headers={"x-api-key": key})).status_code

        assert await ask(known) == 200
        guesses = [compose("gw", number.to_bytes(ENTROPY_BYTES, "big")).secret for number in range(300)]
        statuses = Counter([await ask(guess) for guess in guesses])
        assert statuses == {401: UNKNOWN_KEYS_FROM_ADDRESS.burst, 429: 300 - UNKNOWN_KEYS_FROM_ADDRESS.burst}
        before = queries["has_any"]
        assert [await ask(guesses[5]), await ask(guesses[5])] == [401, 401]  # known to be unknown
        assert queries["has_any"] == before
        assert await ask(known) == 200, clock  # known lately, so never paced


async def test_session_that_is_over_is_looked_up_once(account_api: AccountApi, queries: Counter[str]) -> None:
    customer = await account_api.customer()
    await customer.get("/me")
    await customer.post("/auth/logout", status=204)
    await customer.get("/me", status=401)
    before = queries["find_user"]
    for _ in range(20):
        await customer.get("/me", status=401)
    assert queries["find_user"] == before
