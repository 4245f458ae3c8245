"""Registration, login, refresh, logout."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import argon2
import httpx
import jwt
import pytest
from sqlalchemy import text

from gateway.ledger.accounts import users
from policies.access.tokens import Purpose, derive, digest
from tests.api.account.conftest import PASSWORD, SECRET, AccountApi


def new_email() -> str:
    return f"{uuid4().hex}@example.com"


async def test_registered_user_can_log_in_and_sees_the_profile(account_api: AccountApi) -> None:
    given = {"email": new_email(), "name": "Ada", "company": "Engines"}
    made = await account_api.call("/auth/register", given | {"password": PASSWORD}, status=201)
    assert made.items() >= {**given, "status": "active", "email_verified_at": None}.items()
    customer = await account_api.log_in(given["email"])
    assert customer.tokens.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert customer.tokens["token_type"] == "Bearer"
    assert customer.tokens["expires_in"] == 900
    assert await customer.get("/me") == made


async def test_password_is_stored_only_as_argon2id_of_the_present_parameters(account_api: AccountApi) -> None:
    email = new_email()
    made = await account_api.call("/auth/register", {"email": email, "password": PASSWORD}, status=201)
    async with account_api.database.read() as connection:
        kept = await connection.scalar(text("SELECT password_hash FROM users WHERE id = :id"), {"id": made["id"]})
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_registration_does_not_tell_who_has_an_account(account_api: AccountApi) -> None:
    owner = await account_api.customer(name="Ada")
    answers = [
        await account_api.call("/auth/register", {"email": email, "password": PASSWORD, "name": "Eve"}, status=201)
        for email in (new_email(), owner.email.upper(), owner.email)
    ]
    for answer in answers:
        assert answer.keys() == answers[0].keys()
        constant = {name: answer[name] for name in ("name", "company", "status", "time_zone", "email_verified_at")}
        assert constant == {name: answers[0][name] for name in constant}
        assert UUID(answer["id"]).version == 7
    assert (await owner.get("/me"))["name"] == "Ada"
    # The owner is told, once a day.
    assert await account_api.notifications_of(owner.id) == ["account.registered_again"]


@pytest.mark.parametrize("password", ["Corvette", "samantha", "1234qwer", "\uff53amantha"])
async def test_passwords_of_the_list_are_refused(account_api: AccountApi, password: str) -> None:
    refused = await account_api.call("/auth/register", {"email": new_email(), "password": password}, status=422)
    assert refused["errors"] == [
        {"field": "password", "message": "is among the first that are guessed; choose another"}
    ]


async def test_two_tabs_that_refresh_at_once_both_go_on(verifying_api: AccountApi) -> None:
    customer = await verifying_api.customer()
    used = customer.tokens["refresh_token"]
    first, second = await asyncio.gather(*(_refresh(verifying_api, used) for _ in range(2)))
    kept = [answer.json()["refresh_token"] for answer in (first, second)]
    assert kept[0] != kept[1]
    assert [(await _refresh(verifying_api, token)).status_code for token in kept] == [200, 200]
    assert "account.token_reused" not in await verifying_api.notifications_of(customer.id)
    # Ten seconds after its first use it is a theft, however often it was used meanwhile.
    async with verifying_api.database.transaction() as connection:
        earlier = text("UPDATE refresh_tokens SET used_at = used_at - interval '10 seconds' WHERE token_hash = :token")
        await connection.execute(earlier, {"token": digest(used)})
    assert (await _refresh(verifying_api, used)).status_code == 401
    await customer.get("/me", status=401)
    assert "account.token_reused" in await verifying_api.notifications_of(customer.id)


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "nobody"), ("password", "short"), ("password", "x" * 129), ("name", ""), ("role", "admin"), ("id", 1)],
)
async def test_bad_field_is_named(account_api: AccountApi, field: str, value: object) -> None:
    given = {"email": new_email(), "password": PASSWORD, field: value}
    refused = await account_api.call("/auth/register", given, status=422)
    assert [each["field"] for each in refused["errors"]] == [field]


async def test_password_that_is_the_address_is_refused(account_api: AccountApi) -> None:
    email = new_email()
    refused = await account_api.call("/auth/register", {"email": email, "password": email}, status=422)
    assert refused["errors"] == [{"field": "password", "message": "must not be the e-mail address"}]


async def test_wrong_password_and_an_unknown_address_get_the_same_answer(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    wrong = await _login(account_api.new_client(), customer.email, "wrong password")
    unknown = await _login(account_api.new_client(), new_email(), "wrong password")
    without = new_email()
    async with account_api.database.transaction() as connection:
        await users.create(connection, without)
    passwordless = await _login(account_api.new_client(), without, "nobody has this password")
    assert wrong.status_code == unknown.status_code == passwordless.status_code == 401
    assert _without_id(wrong) == _without_id(unknown) == _without_id(passwordless)


async def test_suspended_account_cannot_log_in_refresh_or_act(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        await users.suspend(connection, customer.id)
    for response in (
        await _login(account_api.new_client(), customer.email, PASSWORD),
        await _refresh(account_api, customer.tokens["refresh_token"]),
        await customer.client.get("/me"),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "account_suspended")
    assert (await _login(account_api.new_client(), customer.email, "wrong")).status_code == 401


async def test_refresh_token_gives_the_next_pair_once(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    first = customer.tokens["refresh_token"]
    second = (await _refresh(account_api, first)).json()
    assert second["refresh_token"] != first
    response = await account_api.client.get("/me", headers={"authorization": f"Bearer {second['access_token']}"})
    assert response.json()["id"] == str(customer.id)


async def test_refresh_token_sent_twice_ends_the_session(account_api: AccountApi) -> None:
    customer, other = await account_api.customer(), await account_api.customer()
    first = customer.tokens["refresh_token"]
    second = (await _refresh(account_api, first)).json()["refresh_token"]
    third = (await _refresh(account_api, second)).json()
    assert (await _refresh(account_api, first)).status_code == 401
    assert (await _refresh(account_api, third["refresh_token"])).status_code == 401
    for token in (customer.tokens["access_token"], third["access_token"]):
        assert (await account_api.client.get("/me", headers={"authorization": f"Bearer {token}"})).status_code == 401
    assert "account.token_reused" in await account_api.notifications_of(customer.id)
    assert (await _refresh(account_api, other.tokens["refresh_token"])).status_code == 200


async def test_refresh_token_sent_twice_at_once_is_good_at_most_once(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    responses = await asyncio.gather(*(_refresh(account_api, customer.tokens["refresh_token"]) for _ in range(8)))
    assert sorted(response.status_code for response in responses) == [200] + [401] * 7
    (good,) = [response.json() for response in responses if response.status_code == 200]
    assert (await _refresh(account_api, good["refresh_token"])).status_code == 401


async def test_refresh_token_is_not_in_the_database(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.read() as connection:
        rows = (await connection.execute(text("SELECT row_to_json(t)::text FROM refresh_tokens t"))).scalars().all()
    raw = customer.tokens["refresh_token"].removeprefix("gwr_")
    hexed = base64.urlsafe_b64decode(raw + "=").hex()
    assert rows
    assert not any(raw in row or hexed in row for row in rows)


async def test_expired_session_neither_refreshes_nor_acts(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    async with account_api.database.transaction() as connection:
        past = text("UPDATE sessions SET expires_at = now() WHERE user_id = :id")
        await connection.execute(past, {"id": customer.id})
    assert (await _refresh(account_api, customer.tokens["refresh_token"])).status_code == 401
    assert (await customer.client.get("/me")).status_code == 401


@pytest.mark.parametrize("by", ["refresh token", "access token"])
async def test_logout_ends_this_session_at_once_and_no_other(account_api: AccountApi, by: str) -> None:
    customer = await account_api.customer()
    other = await account_api.log_in(customer.email)
    if by == "refresh token":
        body = {"refresh_token": customer.tokens["refresh_token"]}
        await account_api.call("/auth/logout", body, status=204)
    else:
        await customer.post("/auth/logout", status=204)
    assert (await customer.client.get("/me")).status_code == 401
    assert (await _refresh(account_api, customer.tokens["refresh_token"])).status_code == 401
    assert (await other.client.get("/me")).status_code == 200


async def test_logout_without_a_session_is_refused(account_api: AccountApi) -> None:
    await account_api.call("/auth/logout", {"refresh_token": "gwr_none"}, status=401)
    assert (await account_api.client.post("/auth/logout")).status_code == 401


async def test_access_token_names_issuer_audience_subject_and_expiry(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    claims = jwt.decode(customer.tokens["access_token"], options={"verify_signature": False})
    assert claims["sub"] == str(customer.id)
    assert (claims["iss"], claims["aud"]) == ("gateway", "gateway:account")
    assert claims["exp"] - claims["iat"] == 900
    assert (
        claims["jti"]
        != jwt.decode(
            (await account_api.log_in(customer.email)).tokens["access_token"], options={"verify_signature": False}
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
    "not yet issued": {"iat": datetime.now(UTC) + timedelta(days=1)},  # collected long before it is tested
    "no expiry": {"exp": None},
    "no session": {"sid": None},
    "a session that is no id": {"sid": "1"},
    "a session that is a number": {"sid": 1},
    "no id": {"jti": None},
}


# The forger signs by an algorithm that wants a longer key.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forged_access_token_is_refused(account_api: AccountApi, forgery: str) -> None:
    customer = await account_api.customer()
    changes = dict(FORGERIES[forgery])
    algorithm, key = changes.pop("algorithm", "HS256"), changes.pop("key", derive(SECRET, Purpose.ACCESS))
    claims = jwt.decode(customer.tokens["access_token"], options={"verify_signature": False}) | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(claims, "" if algorithm == "none" else key, algorithm=algorithm)
    response = await account_api.client.get("/me", headers={"authorization": f"Bearer {token}"})
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_forged_token_differs_from_a_valid_one_in_its_forgery_only(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    claims = jwt.decode(customer.tokens["access_token"], options={"verify_signature": False})
    token = jwt.encode(claims, derive(SECRET, Purpose.ACCESS), algorithm="HS256")
    assert (await account_api.client.get("/me", headers={"authorization": f"Bearer {token}"})).status_code == 200


@pytest.mark.parametrize("sent", [None, "Bearer", "Bearer x", "Basic eDp5", "Bearer a.b.c", "Bearer \u00e9"])
async def test_request_without_a_token_learns_what_to_send(account_api: AccountApi, sent: str | None) -> None:
    headers = {} if sent is None else {b"authorization": sent.encode("latin-1")}
    response = await account_api.client.get("/me", headers=headers)
    assert response.status_code == 401
    assert response.json()["code"] == "unauthorized"


async def _login(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post("/auth/login", json={"email": email, "password": password})


async def _refresh(account_api: AccountApi, token: str) -> httpx.Response:
    return await account_api.client.post("/auth/refresh", json={"refresh_token": token})


def _without_id(response: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in json.loads(response.text).items() if name != "request_id"}


async def test_logins_at_once_that_replace_a_weaker_hash_all_succeed(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    weaker = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    async with account_api.database.transaction() as connection:
        await users.patch(connection, customer.id, password_hash=weaker)
    body = {"email": customer.email, "password": PASSWORD}
    answers = await asyncio.gather(*(account_api.new_client().post("/auth/login", json=body) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
