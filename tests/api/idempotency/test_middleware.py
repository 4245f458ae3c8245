"""A POST that is repeated under its Idempotency-Key changes nothing and gets the first response."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from gateway.api.key_factory import DeterministicSecrets
from gateway.ledger.db.session import Database
from tests.api.conftest import TOKEN, AdminApi, admin_app, client_of


async def post(admin_api: AdminApi, path: str, body: dict[str, Any], key: str, **headers: str) -> httpx.Response:
    return await admin_api.client.post(f"/admin/v1{path}", json=body, headers={"idempotency-key": key, **headers})


def new_email() -> str:
    return f"{uuid4().hex}@example.com"


async def test_idempotent_replay_repeats_the_response_and_changes_nothing(admin_api: AdminApi) -> None:
    key, wanted = uuid4().hex, {"email": new_email()}
    first = await post(admin_api, "/users", wanted, key)
    again = await post(admin_api, "/users", wanted, f'"{key}"')
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert len(await admin_api.audit(first.json()["id"])) == 1


async def test_idempotent_replay_shows_a_new_key_that_is_not_stored(admin_api: AdminApi) -> None:
    user, key = await admin_api.create_user(), uuid4().hex
    first = await post(admin_api, "/keys", {"user_id": user["id"]}, key)
    again = await post(admin_api, "/keys", {"user_id": user["id"]}, key)
    secret = first.json()["key"]
    assert again.json()["key"] == secret
    assert (await post(admin_api, "/keys", {"user_id": user["id"]}, uuid4().hex)).json()["key"] != secret
    async with admin_api.database.read() as connection:
        rows = (await connection.scalars(text("SELECT encode(body, 'escape') FROM idempotent_requests"))).all()
    assert rows
    assert not any(secret in (row or "") or key in (row or "") for row in rows)
    assert len((await admin_api.get("/keys", user_id=user["id"]))["data"]) == 2


async def test_what_is_stored_of_a_request_tells_nothing_to_whoever_lacks_its_key(admin_api: AdminApi) -> None:
    """Its body may have a password, which a digest of the body alone lets guess."""
    user, keys = await admin_api.create_user(), [uuid4().hex, uuid4().hex]
    for key in keys:
        assert (await post(admin_api, "/keys", {"user_id": user["id"]}, key)).status_code == 201
    stored = text("SELECT fingerprint FROM idempotent_requests WHERE key_hash = ANY(:hashes)")
    async with admin_api.database.read() as connection:
        hashes = [sha256(key.encode()).digest() for key in keys]
        found = (await connection.scalars(stored, {"hashes": hashes})).all()
    assert len(found) == len(set(found)) == len(keys)


async def test_idempotency_key_of_another_request_is_refused(admin_api: AdminApi) -> None:
    key, wanted = uuid4().hex, {"email": new_email()}
    assert (await post(admin_api, "/users", wanted, key)).status_code == 201
    for path, body in (("/users", {"email": new_email()}), ("/keys", wanted)):
        response = await post(admin_api, path, body, key)
        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")


async def test_failed_request_leaves_its_idempotency_key_free(admin_api: AdminApi) -> None:
    key, user = uuid4().hex, await admin_api.create_user()
    taken = await post(admin_api, "/users", {"email": user["email"]}, key)
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
    assert (await post(admin_api, "/users", {"email": new_email()}, key)).status_code == 201


async def test_concurrent_requests_with_one_idempotency_key_run_once(admin_api: AdminApi) -> None:
    key, wanted = uuid4().hex, {"email": new_email()}
    responses = await asyncio.gather(*(post(admin_api, "/users", wanted, key) for _ in range(5)))
    result = sorted(response.status_code for response in responses)
    assert result[0] == 201
    assert set(result) <= {201, 409}
    assert all(
        response.json()["code"] == "idempotency_in_progress" for response in responses if response.status_code == 409
    )
    assert len({response.json()["id"] for response in responses if response.status_code == 201}) == 1
    assert len((await admin_api.get("/users", email=wanted["email"]))["data"]) == 1


async def test_idempotency_keys_of_two_callers_are_separate(admin_api: AdminApi) -> None:
    key, body = uuid4().hex, {"name": uuid4().hex, "scopes": ["users:write"]}
    token = (await admin_api.post("/admin-tokens", body, status=201))["token"]
    wanted = {"email": new_email()}
    assert (await post(admin_api, "/users", wanted, key)).status_code == 201
    async with client_of(admin_api.app, token) as other:
        response = await other.post("/admin/v1/users", json=wanted, headers={"idempotency-key": key})
    assert response.status_code == 409
    assert response.json()["code"] == "conflict"


async def test_request_whose_body_breaks_off_changes_nothing_and_leaves_its_idempotency_key_free(
    admin_api: AdminApi,
) -> None:
    """All of this body is optional: the rest of it, or none, is another request."""
    user, key = await admin_api.create_user(), uuid4().hex
    made = await admin_api.post("/keys", {"user_id": user["id"]}, status=201)
    path, wanted = f"/keys/{made['id']}/rotate", {"grace_seconds": 3600}
    messages = [{"type": "http.request", "body": b" ", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    fields = {"host": "admin", "authorization": f"Bearer {TOKEN}", "idempotency-key": key, "content-length": "23"}
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "state": {}}
    scope |= {"path": f"/admin/v1{path}", "raw_path": b"", "query_string": b"", "root_path": "", "client": ("::1", 1)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in fields.items()]
    await admin_api.app(scope, receive, send)
    assert sent == []
    assert [each["status"] for each in (await admin_api.get("/keys", user_id=user["id"]))["data"]] == ["active"]
    assert (await post(admin_api, path, wanted, key)).status_code == 201


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, '"', "é"])
async def test_malformed_idempotency_key_is_refused(admin_api: AdminApi, key: str) -> None:
    headers = {b"idempotency-key": key.encode()}
    response = await admin_api.client.post("/admin/v1/users", json={"email": new_email()}, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_idempotent_change_is_in_redis_before_the_response(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    known = await admin_api.load_account(user["id"])
    assert (await post(admin_api, f"/users/{user['id']}/suspend", {}, uuid4().hex)).status_code == 200
    assert (await admin_api.admit(user["id"], known)).verdict.name == "STALE"


async def test_idempotent_request_without_the_database_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")

    async def nothing() -> None:
        return None

    async with client_of(admin_app(database, nothing, missing={})) as client:
        headers = {"idempotency-key": "k"}
        response = await client.post("/admin/v1/users", json={"email": new_email()}, headers=headers)
    await database.close()
    assert (response.status_code, response.json()["code"]) == (503, "accounts_unavailable")


def test_deterministic_secrets_need_the_idempotency_key_and_the_pepper() -> None:
    peppers, nonce = {1: b"pepper"}, bytes(16)
    first = DeterministicSecrets(peppers, nonce=nonce, key=b"k")
    body = f'{{"key": "{first.create("gw")}", "other": "{first.create("gwadm")}"}}'.encode()
    kept = first.redact(body)
    assert b"_live_" not in kept
    rotated = {1: b"pepper", 2: b"newer"}
    assert DeterministicSecrets(rotated, nonce=nonce, key=b"k").restore(kept) == body
    assert DeterministicSecrets(peppers, nonce=nonce, key=b"l").restore(kept) != body
    assert DeterministicSecrets({1: b"other"}, nonce=nonce, key=b"k").restore(kept) != body


async def test_idempotent_replay_covers_detached_operations(admin_api: AdminApi) -> None:
    key = uuid4().hex
    first = await post(admin_api, "/reconcile", {}, key)
    again = await post(admin_api, "/reconcile", {}, key)
    assert (first.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    free = uuid4().hex
    for _ in range(2):
        assert (await post(admin_api, "/reconcile", {"x": 1}, free)).status_code == 422
    assert "idempotency-replayed" not in (await post(admin_api, "/reconcile", {}, free)).headers
