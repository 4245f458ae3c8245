"""The OpenAPI document of the admin API: complete, resolvable, with examples that work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute

from gateway.api.admin import app as admin
from gateway.api.admin import health, scopes
from tests.api.conftest import TOKEN, AdminApi, client_of
from tests.support.generated_clients import generated_client

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def document(admin_api: AdminApi) -> dict[str, Any]:
    async with client_of(admin_api.app, token=None) as stranger:
        found: dict[str, Any] = (await stranger.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, result)
        for path, methods in document["paths"].items()
        for method, result in methods.items()
    ]


async def test_document_lists_exactly_the_routes(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    nouns = [("/admin/v1", module.router) for module in admin.ENDPOINTS]
    existing = {
        (method, prefix + route.path_format)
        for prefix, router in [*nouns, ("", health.router)]
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert {(method, path) for method, path, _ in operations(document)} == existing


async def test_documented_operation_is_routed(admin_api: AdminApi, document: dict[str, Any]) -> None:
    for method, path, _ in operations(document):
        response = await admin_api.client.request(method, re.sub(r"\{\w+\}", UNKNOWN_ID, path), json={})
        assert response.status_code != 405
        if response.status_code == 404:
            assert not response.json()["detail"].startswith("There is nothing at")


async def test_documented_operation_says_what_it_does_and_how_it_fails(document: dict[str, Any]) -> None:
    names = [result["operationId"] for _, _, result in operations(document)]
    assert len(names) == len(set(names))
    for method, path, result in operations(document):
        assert result["summary"]
        if path.startswith("/admin/"):
            assert {"401", "403", "422", "503"} <= result["responses"].keys()
            assert ("404" in result["responses"]) >= ("{" in path)
            assert result["security"] == [{"admin_token": [scopes.scope_of(method, path)]}]
            failures = [response for status, response in result["responses"].items() if int(status) >= 400]
            assert all("application/problem+json" in response["content"] for response in failures)


async def test_document_references_resolve(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))
    assert references <= schemas.keys()
    assert "HTTPValidationError" not in schemas


async def test_schemas_have_unique_titles_as_names(document: dict[str, Any]) -> None:
    assert_names_of_schemas(document)


async def test_document_examples_are_accepted(admin_api: AdminApi, document: dict[str, Any]) -> None:
    for method, path, result in operations(document):
        if method == "POST" and "requestBody" in result:
            body = example_of(result["requestBody"]["content"]["application/json"]["schema"], document)
            response = await admin_api.client.post(re.sub(r"\{\w+\}", UNKNOWN_ID, path), json=body)
            assert response.status_code in (200, 201, 404, 409), response.text  # what it names may be here, or not


async def test_document_tells_that_posts_can_be_repeated(document: dict[str, Any]) -> None:
    assert "Every POST takes an `Idempotency-Key` header" in document["info"]["description"]


async def test_each_list_takes_limit_and_cursor(document: dict[str, Any]) -> None:
    lists = {path: result for _, path, result in operations(document) if 'Page"' in json.dumps(result["responses"])}
    ranked = "/admin/v1/search"  # the best hits, not a list that goes on
    for path in lists.keys() - {ranked}:
        assert {"limit", "cursor"} <= {each["name"] for each in lists[path]["parameters"]}, path


async def test_docs_page_loads_nothing_from_elsewhere(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        page = await stranger.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=\"(?!/openapi\.json)|https?://|@import|url\(", page.text)


def assert_names_of_schemas(document: dict[str, Any]) -> None:
    """Generators of clients make a class of each schema: titles are unique, and no suffix tells reading from writing.

    Names of time zones are a checked string: an enum of them has members that differ in case and punctuation only.
    """
    schemas = document["components"]["schemas"]
    assert {name: schema.get("title", name) for name, schema in schemas.items()} == {name: name for name in schemas}
    assert not [name for name in schemas if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name)]
    assert not [name for name in schemas if name.endswith(("Input", "Output"))]
    assert "Europe/Paris" not in str(document)


def example_of(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The fields of the schema that carry an example, and an id wherever one is asked for."""
    reference = schema.get("$ref") or schema["anyOf"][0]["$ref"]
    fields = document["components"]["schemas"][reference.rpartition("/")[2]]["properties"].items()
    examples = {name: field["examples"][0] for name, field in fields if "examples" in field}
    return examples | {name: UNKNOWN_ID for name, field in fields if field.get("format") == "uuid"}


async def test_no_body_may_have_fields_that_are_unknown(document: dict[str, Any]) -> None:
    assert open_bodies(document) == set()


def open_bodies(document: dict[str, Any]) -> set[str]:
    """The schemas with members that a request's body may have, and that take others too, which would be ignored."""
    schemas, seen, found = document["components"]["schemas"], set(), set()
    waiting = [
        (content["schema"], f"{method} {path}")
        for method, path, each in operations(document)
        for content in each.get("requestBody", {}).get("content", {}).values()
    ]
    assert len(waiting) > 10
    while waiting:
        schema, name = waiting.pop()
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in seen:
                continue
            seen.add(name)
            schema = schemas[name]
        if "properties" in schema and "type" in schema and schema.get("additionalProperties") is not False:
            found.add(name)
        parts = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("properties", {}).values()]
        parts += [schema["items"]] if "items" in schema else []
        waiting += [(part, f"{name}/") for part in parts]
    return found


async def test_generated_client_makes_a_user_and_reads_a_refusal(
    admin_api: AdminApi, document: dict[str, Any], tmp_path: Path
) -> None:
    with generated_client(document, admin_api.app, token=TOKEN, folder=tmp_path) as client:
        email = f"{uuid4().hex}@example.com"
        body = client.model("NewUser")(email=email, time_zone="Europe/Berlin")
        made = await client.call("users.create_user", body=body)
        assert (made.email, made.time_zone) == (email, "Europe/Berlin")
        assert [each.id for each in (await client.call("users.list_users", email=email)).data] == [made.id]
        refused = await client.call("users.create_user", body=body)
        assert (refused.status, refused.code) == (409, "conflict")
