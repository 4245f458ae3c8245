"""Every failure is a problem document that says what is wrong and reveals nothing internal."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from gateway import metrics
from gateway.api.admin.auth import AdminAuthenticator
from gateway.ledger.db.session import Database
from tests.api.conftest import AdminApi, admin_app, client_of


async def test_unknown_path_is_a_problem_document(admin_api: AdminApi) -> None:
    for path in ("/nothing", "/admin/v1/nothing", "/admin/v1/users/", "/admin/v1/users/x/nothing"):
        response = await admin_api.client.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/admin/v1/users", "GET, HEAD, POST"),
        ("POST", "/admin/v1/users/x", "DELETE, GET, HEAD, PATCH"),
        ("GET", "/admin/v1/keys/00000000-0000-4000-8000-000000000000/revoke", "POST"),
        ("PATCH", "/admin/v1/keys/import", "POST"),
        ("DELETE", "/healthz", "GET, HEAD"),
    ],
)
async def test_unsupported_method_names_the_supported_ones(
    admin_api: AdminApi, method: str, path: str, allowed: str
) -> None:
    response = await admin_api.client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("body", [b"{", b"{'a': 1}", b"\xff", b"[" * 100_000])
async def test_body_that_is_not_json_is_invalid(admin_api: AdminApi, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await admin_api.client.post("/admin/v1/users", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_body")


@pytest.mark.parametrize("options", [{"json": []}, {"json": 5}, {"data": {"email": "a@b"}}, {"content": b"{}"}])
async def test_body_that_is_no_object_is_invalid(admin_api: AdminApi, options: dict[str, Any]) -> None:
    response = await admin_api.client.post("/admin/v1/users", **options)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == "body"
    assert "JSON object" in error["message"]


async def test_validation_names_every_wrong_field(admin_api: AdminApi) -> None:
    response = await admin_api.client.post("/admin/v1/users", json={"emial": "a@b", "name": 5})
    found = {error["field"]: error["message"] for error in response.json()["errors"]}
    assert found.keys() == {"email", "emial", "name"}
    assert (found["email"], found["emial"]) == ("required", "no such field")


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("admin-tokens", {"scopes": ["read"]}),
        ("experiments", {"variants": [{"name": "a", "plans": ["one"]}, {"name": "b", "plans": ["two"]}]}),
        ("permissions", {}),
        ("plans", {"price": "1.00"}),
        ("products", {}),
    ],
)
async def test_conflict_says_that_the_name_is_taken(admin_api: AdminApi, path: str, more: dict[str, Any]) -> None:
    if path == "experiments":
        for variant in more["variants"]:
            variant["plans"] = [(await admin_api.post("/plans", {"name": uuid4().hex, "price": 0}, status=201))["id"]]
    named = {"name": uuid4().hex, **more}
    await admin_api.post(f"/{path}", named, status=201)
    refused = await admin_api.post(f"/{path}", named | ({"id": uuid4().hex} if path == "plans" else {}), status=409)
    assert "this name" in refused["detail"], refused["detail"]


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        ("users", {"email": "ada"}, "email", "must be an email address, as ada@example.com"),
        ("plans", {"name": "x", "price": 1, "currency": "usd"}, "currency", "must be a currency of ISO 4217, as USD"),
    ],
)
async def test_validation_of_a_pattern_speaks_in_words(
    admin_api: AdminApi, path: str, body: dict[str, Any], field: str, message: str
) -> None:
    response = await admin_api.client.post(f"/admin/v1/{path}", json=body)
    assert response.json()["errors"] == [{"field": field, "message": message}]


async def test_missing_database_is_accounts_unavailable_and_the_process_lives() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    app = admin_app(database, _nothing, missing={})
    async with client_of(app) as client:
        for response in (
            await client.get("/admin/v1/users"),
            await client.post("/admin/v1/users", json={"email": "a@b"}),
        ):
            assert (response.status_code, response.json()["code"]) == (503, "accounts_unavailable")
            assert response.headers["retry-after"] == "1"
            assert "127.0.0.1" not in response.text
        assert (await client.get("/healthz")).status_code == 200
    await database.close()


async def test_internal_error_reveals_nothing_internal(ledger: Database) -> None:
    async def broken() -> None:
        raise RuntimeError("SELECT secret FROM inside")

    async with client_of(admin_app(ledger, broken, missing={})) as client:
        response = await client.post("/admin/v1/permissions", json={"name": "made-before-the-bug"})
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize("place", ["an endpoint", "authentication"])
async def test_fault_of_the_api_is_answered_and_counted(
    ledger: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("SELECT secret FROM inside")

    if place == "authentication":
        monkeypatch.setattr(AdminAuthenticator, "authenticate", broken)
    counted = metrics.REQUESTS.labels(metrics.OTHER, metrics.OTHER, "500")
    before = counted._value.get()
    async with client_of(admin_app(ledger, broken, missing={})) as client:
        response = await client.post(
            "/admin/v1/permissions", json={"name": f"made-before-a-bug-of-{place.replace(' ', '-')}"}
        )
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert response.headers["cache-control"] == "no-store"
    assert counted._value.get() == before + 1


async def _nothing() -> None:
    """Publishes to nobody."""
