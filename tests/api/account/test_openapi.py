"""The OpenAPI document of the account API: its routes and their security."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.config.routes import is_reserved
from tests.api.account.conftest import AccountApi
from tests.api.test_openapi import assert_names_of_schemas, open_bodies
from tests.support.generated_clients import generated_client

# What anyone may call; a provider proves itself by a signature.
OPEN = {"/plans", "/auth/register", "/auth/login", "/auth/refresh", "/auth/forgot-password", "/auth/reset-password"} | {
    "/auth/verify-email",
    "/webhooks/{provider}",
}


async def test_document_lists_exactly_the_routes(account_api: AccountApi) -> None:
    published = {(path, method.upper()) for path, method, _ in await _operations(account_api)}
    served = set(_served(_app(account_api)))
    assert published == served
    assert all(is_reserved(path.encode()) for path, _ in published)


async def test_operation_names_its_token_unless_it_is_open(account_api: AccountApi) -> None:
    unsecured = {path for path, _, operation in await _operations(account_api) if not operation.get("security")}
    assert unsecured <= OPEN
    by_key = {path for path, _, each in await _operations(account_api) if {"api_key": []} in each.get("security", [])}
    assert by_key == {"/me/usage", "/me/limits", "/plans"}


async def test_operation_with_security_refuses_a_request_without_a_token(account_api: AccountApi) -> None:
    for path, method, operation in await _operations(account_api):
        if operation.get("security") and path not in ("/auth/logout", "/plans"):  # by the body; optional
            response = await account_api.client.request(method, path.replace("{", "").replace("}", ""), json={})
            assert response.status_code == 401, (method, path, response.text)


async def test_schemas_have_unique_titles_as_names(account_api: AccountApi) -> None:
    assert_names_of_schemas((await account_api.client.get("/openapi.json")).json())


async def test_no_body_may_have_fields_that_are_unknown(account_api: AccountApi) -> None:
    assert open_bodies((await account_api.client.get("/openapi.json")).json()) == set()


async def _operations(account_api: AccountApi) -> list[tuple[str, str, dict[str, Any]]]:
    document = (await account_api.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    return [(path, method, each) for path, item in document["paths"].items() for method, each in item.items()]


def _served(router: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, method) of all that answers, however deep it was included."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            if route.include_in_schema:
                yield from ((prefix + route.path_format, method) for method in route.methods or ())
        elif (included := getattr(route, "original_router", None)) is not None and included.include_in_schema:
            yield from _served(included, prefix + route.include_context.prefix)


def _app(account_api: AccountApi) -> FastAPI:
    app: Any = account_api.app
    while not isinstance(app, FastAPI):
        app = app._app
    return app


async def test_generated_client_reads_its_own_account(account_api: AccountApi, tmp_path: Path) -> None:
    customer = await account_api.customer()
    document = (await account_api.client.get("/openapi.json")).json()
    token = customer.tokens["access_token"]
    with generated_client(document, account_api.app, token=token, folder=tmp_path) as client:
        assert (await client.call("account.get_me")).email == customer.email
        assert (await client.call("limits.get_limits")).credits_.remaining == 0
