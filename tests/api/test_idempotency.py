"""A POST that is repeated under its Idempotency-Key changes nothing more and is told the first answer."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from gateway.api.key_factory import DeterministicSecrets
from gateway.ledger.db.session import Database
from tests.api.conftest import Office, admin_app, client_of


async def post(office: Office, path: str, body: dict[str, Any], key: str, **headers: str) -> httpx.Response:
    return await office.client.post(f"/admin/v1{path}", json=body, headers={"idempotency-key": key, **headers})


def an_email() -> str:
    return f"{uuid4().hex}@example.com"


async def test_the_first_answer_is_told_again_and_nothing_is_done_twice(office: Office) -> None:
    key, wanted = uuid4().hex, {"email": an_email()}
    first = await post(office, "/users", wanted, key)
    again = await post(office, "/users", wanted, f'"{key}"')
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert len(await office.audit(first.json()["id"])) == 1


async def test_a_new_key_is_told_again_though_it_was_never_kept(office: Office) -> None:
    user, key = await office.a_user(), uuid4().hex
    first = await post(office, "/keys", {"user_id": user["id"]}, key)
    again = await post(office, "/keys", {"user_id": user["id"]}, key)
    secret = first.json()["key"]
    assert again.json()["key"] == secret
    assert (await post(office, "/keys", {"user_id": user["id"]}, uuid4().hex)).json()["key"] != secret
    async with office.database.read() as connection:
        rows = (await connection.scalars(text("SELECT encode(body, 'escape') FROM idempotent_requests"))).all()
    assert rows
    assert not any(secret in (row or "") or key in (row or "") for row in rows)
    assert len((await office.get("/keys", user_id=user["id"]))["data"]) == 2


async def test_another_request_under_the_same_key_is_refused(office: Office) -> None:
    key, wanted = uuid4().hex, {"email": an_email()}
    assert (await post(office, "/users", wanted, key)).status_code == 201
    for path, body in (("/users", {"email": an_email()}), ("/keys", wanted)):
        answer = await post(office, path, body, key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_request_that_failed_leaves_its_key_free(office: Office) -> None:
    key, user = uuid4().hex, await office.a_user()
    taken = await post(office, "/users", {"email": user["email"]}, key)
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
    assert (await post(office, "/users", {"email": an_email()}, key)).status_code == 201


async def test_what_is_sent_at_once_runs_once(office: Office) -> None:
    key, wanted = uuid4().hex, {"email": an_email()}
    answers = await asyncio.gather(*(post(office, "/users", wanted, key) for _ in range(5)))
    told = sorted(answer.status_code for answer in answers)
    assert told[0] == 201
    assert set(told) <= {201, 409}
    assert all(answer.json()["code"] == "idempotency_in_progress" for answer in answers if answer.status_code == 409)
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len((await office.get("/users", email=wanted["email"]))["data"]) == 1


async def test_keys_of_two_callers_never_meet(office: Office) -> None:
    key, body = uuid4().hex, {"name": uuid4().hex, "scopes": ["users:write"]}
    token = (await office.post("/admin-tokens", body, status=201))["token"]
    wanted = {"email": an_email()}
    assert (await post(office, "/users", wanted, key)).status_code == 201
    async with client_of(office.app, token) as other:
        answer = await other.post("/admin/v1/users", json=wanted, headers={"idempotency-key": key})
    assert answer.status_code == 409
    assert answer.json()["code"] == "conflict"


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, '"', "é"])
async def test_a_key_that_is_none_is_refused(office: Office, key: str) -> None:
    headers = {b"idempotency-key": key.encode()}
    answer = await office.client.post("/admin/v1/users", json={"email": an_email()}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_redis_is_told_of_a_change_under_a_key_before_the_answer(office: Office) -> None:
    user = await office.a_user()
    known = await office.heat(user["id"])
    assert (await post(office, f"/users/{user['id']}/suspend", {}, uuid4().hex)).status_code == 200
    assert (await office.admit(user["id"], known)).verdict.name == "STALE"


async def test_without_the_database_nothing_is_promised() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")

    async def nothing() -> None:
        return None

    async with client_of(admin_app(database, nothing, missing={})) as client:
        headers = {"idempotency-key": "k"}
        answer = await client.post("/admin/v1/users", json={"email": an_email()}, headers=headers)
    await database.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "accounts_unavailable")


def test_secrets_come_out_the_same_for_whoever_has_the_key_and_for_nobody_else() -> None:
    peppers, nonce = {1: b"pepper"}, bytes(16)
    first = DeterministicSecrets(peppers, nonce=nonce, key=b"k")
    body = f'{{"key": "{first.create("gw")}", "other": "{first.create("gwadm")}"}}'.encode()
    kept = first.redact(body)
    assert b"_live_" not in kept
    rotated = {1: b"pepper", 2: b"newer"}
    assert DeterministicSecrets(rotated, nonce=nonce, key=b"k").restore(kept) == body
    assert DeterministicSecrets(peppers, nonce=nonce, key=b"l").restore(kept) != body
    assert DeterministicSecrets({1: b"other"}, nonce=nonce, key=b"k").restore(kept) != body


async def test_what_reaches_beyond_one_transaction_is_told_again_too(office: Office) -> None:
    key = uuid4().hex
    first = await post(office, "/reconcile", {}, key)
    again = await post(office, "/reconcile", {}, key)
    assert (first.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    free = uuid4().hex
    for _ in range(2):
        assert (await post(office, "/reconcile", {"x": 1}, free)).status_code == 422
    assert "idempotency-replayed" not in (await post(office, "/reconcile", {}, free)).headers
