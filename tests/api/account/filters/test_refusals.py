"""What is refused before the app is asked is refused in the app's own words."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.api import error_responses
from gateway.api.account.filters import bodies
from gateway.api.account.filters.bodies import BodyFilter
from gateway.api.account.filters.operations import OperationFilter, Operations
from gateway.api.account.login import recovery, sessions
from gateway.api.account.login.sessions import Login, Logout, Registration
from gateway.api.error_responses import MAX_ERRORS
from gateway.api.middleware import RequestIdMiddleware
from tests.api.account.conftest import AccountApi, client_of

JSON = "application/json"
BODIES: tuple[tuple[str | None, bytes], ...] = (
    (JSON, b""),
    (JSON, b"null"),
    (JSON, b"{}"),
    (JSON, b"[]"),
    (JSON, b'"text"'),
    (JSON, b"5"),
    (JSON, b"{"),
    (JSON, b"\xff"),
    (JSON, b"[" * 5_000),
    (JSON, b"1" * 5_000),
    (JSON, b'{"email": 1}'),
    (JSON, b'{"email": "ada", "password": "", "name": 5, "more": {"email": 1}}'),
    (JSON, b'{"email": "ada@example.com", "password": "correct horse battery"}'),
    (JSON, b'{"email": "\\ud800@example.com", "password": "\\u0000"}'),
    (JSON, b'{"refresh_token": 5}'),
    (JSON, json.dumps({f"x{number}": number for number in range(MAX_ERRORS + 5)}).encode()),
    (JSON, json.dumps({"email": 1, **{f"x{number}": number for number in range(300)}}).encode()),
    (JSON, json.dumps({"email": "ada@example.com", "password": '"\\,é' * 256}).encode()),
    ("application/json; charset=utf-8", b"{}"),
    ("application/vnd.gateway+json", b"{}"),
    ("Application/JSON", b"{}"),
    ("application/jsonp", b"{}"),
    ("text/plain", b"{}"),
    ("application/x-www-form-urlencoded", b"email=a"),
    (None, b"{}"),
)


@pytest.fixture
async def clients() -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of one app, with the filters and without."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.post("/registration")
    async def register(body: Registration) -> None: ...

    @app.post("/login")
    async def login(body: Login) -> None: ...

    app.post("/logout")(_log_out)
    error_responses.install(app)
    filtered = OperationFilter(BodyFilter(app), Operations(app, spelt_out={}))
    async with client_of(RequestIdMiddleware(filtered)) as one, client_of(RequestIdMiddleware(app)) as other:
        yield one, other


async def _log_out(body: Logout | None = None) -> None: ...


@pytest.mark.parametrize(("content_type", "body"), BODIES, ids=lambda value: repr(value)[:30])
async def test_body_is_refused_as_the_app_refuses_it(
    clients: tuple[httpx.AsyncClient, httpx.AsyncClient], content_type: str | None, body: bytes
) -> None:
    headers = {"x-request-id": "one"} | ({"content-type": content_type} if content_type else {})
    for path in ("/registration", "/login", "/logout"):
        filtered, plain = [await client.post(path, content=body, headers=headers) for client in clients]
        assert (filtered.status_code, _ordered(filtered)) == (plain.status_code, _ordered(plain))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"x{number}": number for number in range(1000)}),
        json.dumps({f"{number}\\": "\\" for number in range(500)}),
        json.dumps({"email": [0] * 5000}),
        "{" + '"email": "a", ' * 500,
    ],
)
async def test_crowded_body_is_refused_unparsed(
    clients: tuple[httpx.AsyncClient, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(bodies, "json", None)
    response = await clients[0].post("/login", content=body, headers={"content-type": JSON})
    assert (response.status_code, response.text.count("has more members than any request here takes")) == (422, 3)


def _ordered(response: httpx.Response) -> Any:
    """The document; unknown fields may be told in another order where some are left out."""
    document = response.json()
    if isinstance(document, dict) and "errors_omitted" in document:
        return document["errors_omitted"] + len(document["errors"])
    return document


async def test_only_operations_reach_the_app(account_api: AccountApi) -> None:
    one_key = "/me/keys/00000000-0000-4000-8000-000000000000"
    for method, path, status, allowed in (
        ("GET", "/me/nothing", 404, None),
        ("GET", "/me/keys/", 404, None),
        ("GET", f"{one_key}/y/z", 404, None),
        ("POST", "/problems/none", 404, None),
        ("GET", "/problems/none", 404, None),
        ("PUT", "/auth/login", 405, "POST"),
        ("HEAD", "/problems", 200, None),
        ("HEAD", "/auth/login", 405, "POST"),
        ("PATCH", "/plans", 405, "GET, HEAD"),
        ("DELETE", "/me/keys", 405, "GET, HEAD, POST"),
        ("PUT", "/me", 405, "DELETE, GET, HEAD, PATCH"),
        ("GET", f"{one_key}/revoke", 405, "POST"),
        ("PUT", "/problems/not_found", 405, "GET, HEAD"),
        ("PUT", "/subscriptions/me", 405, "GET, HEAD"),
        ("PUT", "/subscriptions/other", 405, "DELETE, POST"),
    ):
        response = await account_api.client.request(method, path)
        assert (response.status_code, response.headers.get("allow")) == (status, allowed), (method, path)


async def test_every_operation_of_the_document_is_found(account_api: AccountApi) -> None:
    document = (await account_api.client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method in methods:
            response = await account_api.client.request(method, re.sub("{.*}", "stripe", path))
            code = response.json().get("code", "") if response.content else ""
            assert response.status_code != 405, (method, path)
            assert response.status_code != 404 or "There is nothing at" not in response.text, (method, path, code)


async def test_refused_body_never_reaches_an_endpoint(account_api: AccountApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "sign_in", None)
    refused = await account_api.client.post("/auth/login", json={"email": 1})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_token_that_was_never_made_reaches_no_endpoint(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "read_one_time", None)
    for path, more in (("verify-email", {}), ("reset-password", {"password": "correct horse battery"})):
        response = await account_api.new_client().post(f"/auth/{path}", json={"token": "a" * 43, **more})
        assert (response.status_code, response.json()["errors"][0]["message"]) == (422, recovery.UNUSABLE_TOKEN)
