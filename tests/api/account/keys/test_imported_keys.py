"""Keys taken over from another system read what keys made here read, and junk costs no query."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from secrets import token_hex
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import event

from gateway import paced_subjects
from gateway.ledger.accounts import api_keys, imported_keys, key_lookup, principals
from gateway.ledger.accounts.imported_keys import ForeignKey
from policies.access.keys import digest
from policies.access.throttling import UNKNOWN_KEYS_FROM_ADDRESS
from policies.model import KeyScheme
from tests.api.account.conftest import PEPPERS, AccountApi

HEADERS: list[Callable[[str], dict[str, str]]] = [
    lambda key: {"x-api-key": key},
    lambda key: {"x-goog-api-key": key},
    lambda key: {"api-key": key},
    lambda key: {"authorization": f"Bearer {key}"},
]
NAMES = ["x-api-key", "x-goog-api-key", "api-key", "bearer"]


@pytest.fixture(autouse=True)
def prefixes_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_lookup, "PREFIX_REFRESH_SECONDS", 0.0)


@pytest.mark.parametrize("headers", HEADERS, ids=NAMES)
@pytest.mark.parametrize("scheme", KeyScheme)
async def test_imported_key_reads_usage_limits_and_plans(
    account_api: AccountApi, scheme: KeyScheme, headers: Callable[[str], dict[str, str]]
) -> None:
    customer = await account_api.customer()
    secret, _ = await _import(account_api, customer.id, scheme=scheme)
    for path, status in (("/me/usage", 200), ("/me/limits", 200), ("/plans", 200), ("/me", 401), ("/me/keys", 401)):
        response = await account_api.client.get(path, headers=headers(secret))
        assert response.status_code == status, (path, response.text)


@pytest.mark.parametrize("headers", HEADERS, ids=NAMES)
async def test_key_made_here_is_read_from_every_field(
    account_api: AccountApi, headers: Callable[[str], dict[str, str]]
) -> None:
    customer = await account_api.customer()
    key = (await customer.post("/me/keys", {}, status=201))["key"]
    assert await _ask(account_api.client, headers(key)) == (200, None)


async def test_imported_key_is_rehashed_at_its_first_use(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    secret, _ = await _import(account_api, customer.id)
    for _ in range(2):
        assert await _ask(account_api.client, {"x-api-key": secret}) == (200, None)
    async with account_api.database.read() as connection:
        found = await principals.find_principal(connection, digest(secret.encode(), PEPPERS[1]))
    assert found is not None
    assert found.account.id == customer.id


async def test_revoked_imported_key_is_refused(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    secret, key_id = await _import(account_api, customer.id)
    async with account_api.database.transaction() as connection:
        await api_keys.revoke(connection, key_id)
    for headers in HEADERS:
        assert await _ask(account_api.client, headers(secret)) == (401, "key_revoked")


async def test_two_keys_that_differ_are_refused(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    one, other = [(await customer.post("/me/keys", {}, status=201))["key"] for _ in range(2)]
    assert await _ask(account_api.client, {"x-api-key": one, "api-key": other}) == (400, "bad_request")
    assert await _ask(account_api.client, {"x-api-key": one, "api-key": one}) == (200, None)
    assert await _ask(account_api.client, {"x-api-key": one, "api-key": "of-another"}) == (200, None)


async def test_plans_of_a_key_are_not_those_of_strangers(account_api: AccountApi) -> None:
    assert (await account_api.client.get("/plans", headers={"api-key": "gw_live_junk"})).status_code == 401


async def test_junk_of_unknown_prefixes_costs_no_look_up(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_lookup, "PREFIX_REFRESH_SECONDS", 60.0)
    customer = await account_api.customer()
    statements: list[Any] = []
    await _ask(account_api.client, {"api-key": "junk-0"})
    engine = account_api.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for number in range(100):
        for headers in HEADERS[:3]:
            for key in (f"junk-{number}", f"gw_live_{number}", "x" * (key_lookup.MAX_KEY_BYTES + 1)):
                assert await _ask(account_api.client, headers(key)) == (401, "invalid_key")
        assert await _ask(account_api.client, HEADERS[3](f"junk-{number}")) == (401, "unauthorized")
    assert statements == []
    assert (await customer.get("/me/limits"))["limits"] == []


async def test_unknown_keys_of_a_known_prefix_are_looked_up_at_a_pace(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_subjects, "monotonic_seconds", lambda: 1000.0)
    customer = await account_api.customer()
    secret, _ = await _import(account_api, customer.id)
    stranger, headers = account_api.new_client(), HEADERS[3]
    burst = UNKNOWN_KEYS_FROM_ADDRESS.burst
    statuses = [(await _ask(stranger, headers(f"acme-{token_hex(16)}")))[0] for _ in range(burst + 20)]
    assert statuses == [401] * burst + [429] * 20
    assert await _ask(account_api.new_client(), headers(secret)) == (200, None)


async def _import(account_api: AccountApi, user_id: UUID, *, scheme: KeyScheme = KeyScheme.SHA256) -> tuple[str, UUID]:
    secret = f"acme-{token_hex(16)}"
    key = secret.encode()
    known_by = hashlib.sha256(key).digest() if scheme is KeyScheme.SHA256 else digest(key, PEPPERS[1])
    foreign = ForeignKey(digest=known_by, prefix="acme-", last4=secret[-4:], scheme=scheme, pepper_version=1)
    async with account_api.database.transaction() as connection:
        made = await imported_keys.create(connection, user_id, key=foreign, own_prefix="gw")
    return secret, made.id


async def _ask(client: httpx.AsyncClient, headers: dict[str, str]) -> tuple[int, str | None]:
    response = await client.get("/me/limits", headers=headers)
    return response.status_code, response.json().get("code")
