"""Who may do what, over every operation that the OpenAPI documents list: admin tokens of each scope, and strangers."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

from gateway.api.admin.scopes import PREFIX, SCOPES
from tests.api.conftest import Office, client_of

# What the contract gives to whom: independent of the table that the product reads.
WRITES = {
    "users": "users:write",
    "keys": "keys:write",
    "plans": "plans:write",
    "permissions": "plans:write",
    "products": "plans:write",
    "subscriptions": "subscriptions:write",
    "payments": "billing:write",
    "invoices": "billing:write",
    "refunds": "billing:write",
    "webhook-events": "billing:write",
    "reconcile": "admin:write",
    "admin-tokens": "admin:write",
}
JSON = {"content-type": "application/json"}
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(m.upper(), path, told) for path, methods in document["paths"].items() for m, told in methods.items()]


def due(method: str, path: str) -> str:
    nouns = path.removeprefix(PREFIX).split("/")
    if method == "GET" or nouns[:2] == ["keys", "verify"]:
        return "read"
    return "credits:write" if "credits" in nouns else WRITES[nouns[0]]


async def test_each_scope_opens_what_it_is_for_and_nothing_else(office: Office) -> None:
    document = (await office.client.get("/openapi.json")).json()
    tokens = {}
    for scope in sorted(SCOPES):
        made = await office.post("/admin-tokens", {"name": uuid4().hex, "scopes": [scope]}, status=201)
        tokens[scope] = made["token"]
    wrong = []
    for method, path, told in operations(document):
        if not path.startswith(PREFIX):
            continue
        assert told["security"] == [{"admin_token": [due(method, path)]}]
        target = re.sub(r"\{\w+\}", UNKNOWN_ID, path)
        for scope, token in tokens.items():
            async with client_of(office.app, token) as client:
                # No body of any operation, so that nothing is changed where the token may.
                answer = await client.request(method, target, content=b"[", headers=JSON)
            is_refused = answer.status_code == 403 and answer.json()["code"] == "insufficient_scope"
            if is_refused is (scope == due(method, path)):
                wrong.append(f"{scope}: {method} {path} {answer.status_code}")
    assert not wrong, "\n".join(wrong)


async def test_without_a_token_or_with_one_of_a_customer_the_admin_api_is_closed(office: Office) -> None:
    document = (await office.client.get("/openapi.json")).json()
    for token in (None, "eyJhbGciOiJIUzI1NiJ9.e30.x", "gw_live_" + "0" * 36):
        async with client_of(office.app, token) as stranger:
            for method, path, _ in operations(document):
                if path.startswith(PREFIX):
                    answer = await stranger.request(method, re.sub(r"\{\w+\}", UNKNOWN_ID, path), json={})
                    assert answer.status_code == 401, (method, path)
