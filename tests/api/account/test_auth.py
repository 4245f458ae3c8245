"""Registering, logging in, staying logged in, logging out."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from sqlalchemy import text

from gateway.ledger.accounts import users
from policies.access.tokens import Purpose, derive
from tests.api.account.conftest import PASSWORD, SECRET, Shop


def an_email() -> str:
    return f"{uuid4().hex}@example.com"


async def test_who_registers_can_log_in_and_is_shown_as_registered(shop: Shop) -> None:
    given = {"email": an_email(), "name": "Ada", "company": "Engines"}
    made = await shop.call("/auth/register", given | {"password": PASSWORD}, status=201)
    assert made.items() >= {**given, "status": "active", "email_verified_at": None}.items()
    customer = await shop.logged_in(given["email"])
    assert customer.tokens.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert customer.tokens["token_type"] == "Bearer"
    assert customer.tokens["expires_in"] == 900
    assert await customer.get("/me") == made


async def test_a_password_is_kept_as_argon2id_of_todays_terms_only(shop: Shop) -> None:
    email = an_email()
    made = await shop.call("/auth/register", {"email": email, "password": PASSWORD}, status=201)
    async with shop.database.read() as connection:
        kept = await connection.scalar(text("SELECT password_hash FROM users WHERE id = :id"), {"id": made["id"]})
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_a_taken_address_is_a_conflict_in_any_case(shop: Shop) -> None:
    customer = await shop.customer()
    refused = await shop.call("/auth/register", {"email": customer.email.upper(), "password": PASSWORD}, status=409)
    assert refused["code"] == "conflict"
    assert "email" in refused["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "nobody"), ("password", "short"), ("password", "x" * 129), ("name", ""), ("role", "admin"), ("id", 1)],
)
async def test_a_bad_field_is_named(shop: Shop, field: str, value: object) -> None:
    given = {"email": an_email(), "password": PASSWORD, field: value}
    refused = await shop.call("/auth/register", given, status=422)
    assert [each["field"] for each in refused["errors"]] == [field]


async def test_the_address_is_no_password(shop: Shop) -> None:
    email = an_email()
    refused = await shop.call("/auth/register", {"email": email, "password": email}, status=422)
    assert refused["errors"] == [{"field": "password", "message": "must not be the e-mail address"}]


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(shop: Shop) -> None:
    customer = await shop.customer()
    wrong = await _login(shop.from_elsewhere(), customer.email, "wrong password")
    unknown = await _login(shop.from_elsewhere(), an_email(), "wrong password")
    without = an_email()
    async with shop.database.transaction() as connection:
        await users.create(connection, without)
    passwordless = await _login(shop.from_elsewhere(), without, "nobody has this password")
    assert wrong.status_code == unknown.status_code == passwordless.status_code == 401
    assert _without_id(wrong) == _without_id(unknown) == _without_id(passwordless)


async def test_a_suspended_account_cannot_log_in_refresh_or_act(shop: Shop) -> None:
    customer = await shop.customer()
    async with shop.database.transaction() as connection:
        await users.suspend(connection, customer.id)
    for answer in (
        await _login(shop.from_elsewhere(), customer.email, PASSWORD),
        await _refresh(shop, customer.tokens["refresh_token"]),
        await customer.client.get("/me"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "account_suspended")
    assert (await _login(shop.from_elsewhere(), customer.email, "wrong")).status_code == 401


async def test_a_refresh_token_gives_the_next_pair_once(shop: Shop) -> None:
    customer = await shop.customer()
    first = customer.tokens["refresh_token"]
    second = (await _refresh(shop, first)).json()
    assert second["refresh_token"] != first
    answer = await shop.client.get("/me", headers={"authorization": f"Bearer {second['access_token']}"})
    assert answer.json()["id"] == str(customer.id)


async def test_a_refresh_token_that_comes_twice_ends_the_whole_session(shop: Shop) -> None:
    customer, other = await shop.customer(), await shop.customer()
    first = customer.tokens["refresh_token"]
    second = (await _refresh(shop, first)).json()["refresh_token"]
    third = (await _refresh(shop, second)).json()
    assert (await _refresh(shop, first)).status_code == 401
    assert (await _refresh(shop, third["refresh_token"])).status_code == 401
    for token in (customer.tokens["access_token"], third["access_token"]):
        assert (await shop.client.get("/me", headers={"authorization": f"Bearer {token}"})).status_code == 401
    assert "account.token_reused" in await shop.told(customer.id)
    assert (await _refresh(shop, other.tokens["refresh_token"])).status_code == 200


async def test_of_two_that_come_with_one_token_at_once_one_at_most_goes_on(shop: Shop) -> None:
    customer = await shop.customer()
    answers = await asyncio.gather(*(_refresh(shop, customer.tokens["refresh_token"]) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    (good,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await _refresh(shop, good["refresh_token"])).status_code == 401


async def test_no_refresh_token_stands_in_the_database(shop: Shop) -> None:
    customer = await shop.customer()
    async with shop.database.read() as connection:
        rows = (await connection.execute(text("SELECT row_to_json(t)::text FROM refresh_tokens t"))).scalars().all()
    raw = customer.tokens["refresh_token"].removeprefix("gwr_")
    hexed = base64.urlsafe_b64decode(raw + "=").hex()
    assert rows
    assert not any(raw in row or hexed in row for row in rows)


async def test_an_expired_session_neither_refreshes_nor_acts(shop: Shop) -> None:
    customer = await shop.customer()
    async with shop.database.transaction() as connection:
        past = text("UPDATE sessions SET expires_at = now() WHERE user_id = :id")
        await connection.execute(past, {"id": customer.id})
    assert (await _refresh(shop, customer.tokens["refresh_token"])).status_code == 401
    assert (await customer.client.get("/me")).status_code == 401


@pytest.mark.parametrize("by", ["refresh token", "access token"])
async def test_a_logout_ends_this_session_at_once_and_no_other(shop: Shop, by: str) -> None:
    customer = await shop.customer()
    other = await shop.logged_in(customer.email)
    if by == "refresh token":
        body = {"refresh_token": customer.tokens["refresh_token"]}
        await shop.call("/auth/logout", body, status=204)
    else:
        await customer.post("/auth/logout", status=204)
    assert (await customer.client.get("/me")).status_code == 401
    assert (await _refresh(shop, customer.tokens["refresh_token"])).status_code == 401
    assert (await other.client.get("/me")).status_code == 200


async def test_a_logout_of_nothing_is_refused(shop: Shop) -> None:
    await shop.call("/auth/logout", {"refresh_token": "gwr_none"}, status=401)
    assert (await shop.client.post("/auth/logout")).status_code == 401


async def test_an_access_token_says_who_for_whom_and_until_when(shop: Shop) -> None:
    customer = await shop.customer()
    claims = jwt.decode(customer.tokens["access_token"], options={"verify_signature": False})
    assert claims["sub"] == str(customer.id)
    assert (claims["iss"], claims["aud"]) == ("gateway", "gateway:account")
    assert claims["exp"] - claims["iat"] == 900
    assert (
        claims["jti"]
        != jwt.decode(
            (await shop.logged_in(customer.email)).tokens["access_token"], options={"verify_signature": False}
        )["jti"]
    )


FORGERIES: dict[str, dict[str, Any]] = {
    "no algorithm": {"algorithm": "none"},
    "another algorithm": {"algorithm": "HS512"},
    "another key": {"key": derive("another", Purpose.ACCESS)},
    "the secret itself": {"key": SECRET.encode() + b"." * 32},
    "another issuer": {"iss": "someone"},
    "another audience": {"aud": "someone"},
    "expired": {"exp": datetime.now(UTC) - timedelta(minutes=1)},
    "not yet issued": {"iat": datetime.now(UTC) + timedelta(minutes=5)},
    "no expiry": {"exp": None},
    "no session": {"sid": None},
    "a session that is no id": {"sid": "1"},
    "a session that is a number": {"sid": 1},
    "no id": {"jti": None},
}


# The forger signs by an algorithm that wants a longer key.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_access_token_opens_nothing(shop: Shop, forgery: str) -> None:
    customer = await shop.customer()
    changes = dict(FORGERIES[forgery])
    algorithm, key = changes.pop("algorithm", "HS256"), changes.pop("key", derive(SECRET, Purpose.ACCESS))
    claims = jwt.decode(customer.tokens["access_token"], options={"verify_signature": False}) | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(claims, "" if algorithm == "none" else key, algorithm=algorithm)
    answer = await shop.client.get("/me", headers={"authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_forger_would_succeed_with_the_true_claims(shop: Shop) -> None:
    customer = await shop.customer()
    claims = jwt.decode(customer.tokens["access_token"], options={"verify_signature": False})
    token = jwt.encode(claims, derive(SECRET, Purpose.ACCESS), algorithm="HS256")
    assert (await shop.client.get("/me", headers={"authorization": f"Bearer {token}"})).status_code == 200


@pytest.mark.parametrize("sent", [None, "Bearer", "Bearer x", "Basic eDp5", "Bearer a.b.c", "Bearer \u00e9"])
async def test_what_is_no_token_is_told_what_to_send(shop: Shop, sent: str | None) -> None:
    headers = {} if sent is None else {b"authorization": sent.encode("latin-1")}
    answer = await shop.client.get("/me", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorized"


async def _login(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post("/auth/login", json={"email": email, "password": password})


async def _refresh(shop: Shop, token: str) -> httpx.Response:
    return await shop.client.post("/auth/refresh", json={"refresh_token": token})


def _without_id(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in json.loads(answer.text).items() if name != "request_id"}
