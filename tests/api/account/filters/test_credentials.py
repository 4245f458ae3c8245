"""Tokens that nobody has and attempts that a throttle holds back are refused before the app is asked, in its words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from gateway.api.account.filters.credentials import CredentialFilter
from gateway.api.account.login import throttling
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.account.login.throttling import of_login, of_mail, of_registration
from gateway.clock import monotonic_seconds
from gateway.ledger.db.session import DatabaseUnavailable
from policies.access.throttling import Subject
from tests.api.account.conftest import PASSWORD, SECRET, AccountApi, client_at

JUNK = "gwr_" + "a" * 43
FORGED = AccessTokens("another secret", lifetime=timedelta(hours=1)).issue(uuid4(), uuid4())
EXPIRED = AccessTokens(SECRET, lifetime=timedelta(hours=-1)).issue(uuid4(), uuid4())

# Path, body, access token.
UNKNOWN: tuple[tuple[str, dict[str, Any] | None, str | None], ...] = (
    ("/auth/refresh", {"refresh_token": JUNK}, None),
    ("/auth/refresh", {"refresh_token": "x"}, None),
    ("/auth/logout", {"refresh_token": JUNK}, None),
    ("/auth/logout", {"refresh_token": None}, None),
    ("/auth/logout", None, None),
    ("/auth/logout", None, FORGED),
    ("/auth/logout", {}, EXPIRED),
)


async def _ask(account_api: AccountApi, path: str, body: Any, token: str | None = None) -> httpx.Response:
    headers = {"x-request-id": "one"} | ({} if token is None else {"authorization": f"Bearer {token}"})
    return await account_api.new_client().post(path, json=body, headers=headers)


def _filter(account_api: AccountApi) -> CredentialFilter:
    app: Any = account_api.app
    while not isinstance(app, CredentialFilter):
        app = app._app
    return app


def _cut_off(account_api: AccountApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves neither the app nor the pool within reach."""
    monkeypatch.setattr(_filter(account_api), "_app", None)
    monkeypatch.setattr(account_api.database, "_connection", None)


async def _hold_back(account_api: AccountApi, subjects: list[Subject]) -> None:
    query = text("""
        INSERT INTO throttles VALUES (:subject, now() + interval '1 hour')
        ON CONFLICT (subject) DO UPDATE SET free_at = excluded.free_at
    """)
    async with account_api.database.transaction() as connection:
        await connection.execute(query, {"subject": subjects[0].digest})


@pytest.mark.parametrize(("path", "body", "token"), UNKNOWN)
async def test_unknown_token_is_refused_in_the_words_of_the_app_without_the_pool(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch, path: str, body: Any, token: str | None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_filter(account_api), "_checks", {})
        by_app = await _ask(account_api, path, body, token)
    _cut_off(account_api, monkeypatch)
    refused = await _ask(account_api, path, body, token)
    assert (refused.status_code, refused.json()) == (by_app.status_code, by_app.json()) == (401, refused.json())


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("path", ["/auth/login", "/auth/forgot-password"])
async def test_throttled_attempt_is_refused_in_the_words_of_the_app_without_the_pool(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch, path: str, is_known: bool
) -> None:
    email = f"{uuid4().hex}@example.com"
    named = str((await account_api.customer(email=email)).id) if is_known else email
    await _hold_back(account_api, of_login(named, "192.0.2.1", is_known=False))
    await _hold_back(account_api, of_mail(named, "192.0.2.1"))
    body = {"email": email.upper(), **({"password": PASSWORD} if path == "/auth/login" else {})}
    with monkeypatch.context() as patch:
        patch.setattr(_filter(account_api), "_checks", {})
        by_app = await _ask(account_api, path, body)
    _cut_off(account_api, monkeypatch)
    refused = await _ask(account_api, path, body)
    assert refused.status_code == by_app.status_code == 429
    assert 0 <= by_app.json().pop("retry_after") - refused.json()["retry_after"] <= 60
    assert refused.json()["code"] == by_app.json()["code"] == "rate_limited"
    assert refused.headers["retry-after"] == str(refused.json()["retry_after"])


@pytest.mark.parametrize("path", ["/auth/login", "/auth/forgot-password"])
async def test_throttled_account_is_refused_for_a_moment_without_a_statement(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    customer, other = await account_api.customer(), await account_api.customer()
    home = account_api.new_client()
    login = {"email": customer.email, "password": PASSWORD}
    assert (await home.post("/auth/login", json=login)).status_code == 200
    await _hold_back(account_api, of_login(str(customer.id), "192.0.2.1", is_known=False))
    await _hold_back(account_api, of_mail(str(customer.id), "192.0.2.1"))
    body = login if path == "/auth/login" else {"email": customer.email}
    first = await _ask(account_api, path, body)
    assert first.status_code == 429
    clock = [monotonic_seconds()]
    monkeypatch.setattr(throttling, "monotonic_seconds", lambda: clock[0])
    with monkeypatch.context() as patch:
        patch.setattr(account_api.database, "_driver", None)
        _cut_off(account_api, patch)
        refused = await _ask(account_api, path, body)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 0 <= int(first.headers["retry-after"]) - int(refused.headers["retry-after"]) <= 60
    assert (await home.post("/auth/login", json=login)).status_code == 200, "its owner is let in"
    assert (await _ask(account_api, "/auth/forgot-password", {"email": other.email})).status_code == 202
    async with account_api.database.transaction() as connection:
        await connection.execute(text("DELETE FROM throttles WHERE free_at > now() + interval '50 minutes'"))
    assert (await _ask(account_api, path, body)).status_code == 429
    clock[0] += throttling.HELD_BACK_SECONDS
    assert (await _ask(account_api, path, body)).status_code in (200, 202)


@pytest.mark.parametrize(("password", "status"), [("Passw0rd!", 422), ("iloveyou2", 422), (PASSWORD, 429)])
async def test_registration_is_refused_in_the_words_of_the_app_without_the_pool(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch, password: str, status: int
) -> None:
    async with client_at(account_api.app, "203.0.118.7") as stranger:
        await _hold_back(account_api, of_registration("203.0.118.7"))
        body, headers = {"email": "ada@example.com", "password": password}, {"x-request-id": "one"}
        with monkeypatch.context() as patch:
            patch.setattr(_filter(account_api), "_checks", {})
            by_app = await stranger.post("/auth/register", json=body, headers=headers)
        _cut_off(account_api, monkeypatch)
        refused = await stranger.post("/auth/register", json=body, headers=headers)
    assert (refused.status_code, by_app.status_code) == (status, status)
    assert refused.json()["code"] == by_app.json()["code"]
    assert refused.json().get("errors") == by_app.json().get("errors")


async def test_credentials_are_not_judged_while_postgresql_is_away(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(*_: object) -> None:
        raise DatabaseUnavailable("away")

    customer = await account_api.customer()
    monkeypatch.setattr(account_api.database, "fetch", fetch)
    for path, body in (
        ("/auth/register", {"email": customer.email, "password": PASSWORD}),
        ("/auth/login", {"email": customer.email, "password": PASSWORD}),
        ("/auth/forgot-password", {"email": customer.email}),
        ("/auth/refresh", {"refresh_token": customer.tokens["refresh_token"]}),
        ("/auth/logout", {"refresh_token": customer.tokens["refresh_token"]}),
    ):
        response = await _ask(account_api, path, body)
        assert (response.status_code, response.json()["code"]) == (503, "accounts_unavailable"), path


async def test_known_refresh_tokens_reach_the_app(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    token = customer.tokens["refresh_token"]
    renewed = await _ask(account_api, "/auth/refresh", {"refresh_token": token})
    assert renewed.status_code == 200
    ended = await _ask(account_api, "/auth/logout", {"refresh_token": renewed.json()["refresh_token"]})
    assert ended.status_code == 204
    assert (await _ask(account_api, "/auth/refresh", {"refresh_token": token})).status_code == 401
