"""Over every operation of the admin API: tokens of each scope, and requests without one."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

from gateway.api.admin.scopes import PREFIX, SCOPES
from tests.api.conftest import AdminApi, client_of

# What the contract gives to whom: independent of the table that the product reads.
WRITES = {
    "users": "users:write",
    "keys": "keys:write",
    "plans": "plans:write",
    "permissions": "plans:write",
    "products": "plans:write",
    "experiments": "plans:write",
    "subscriptions": "subscriptions:write",
    "coupons": "billing:write",
    "payments": "billing:write",
    "invoices": "billing:write",
    "refunds": "billing:write",
    "webhook-events": "billing:write",
    "reconcile": "admin:write",
    "imports": "admin:write",
    "admin-tokens": "admin:write",
    "portal-sessions": "admin:write",
    "usage": "read",  # an export reads
}
JSON = {"content-type": "application/json"}
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(m.upper(), path, result) for path, methods in document["paths"].items() for m, result in methods.items()]


def due(method: str, path: str) -> str:
    nouns = path.removeprefix(PREFIX).split("/")
    if method == "GET" or nouns[:2] in (["keys", "verify"], ["prices", "quote"]):
        return "read"
    return "credits:write" if "credits" in nouns else WRITES[nouns[0]]


async def test_scope_admits_its_operations_only(admin_api: AdminApi) -> None:
    document = (await admin_api.client.get("/openapi.json")).json()
    tokens = {}
    for scope in sorted(SCOPES):
        made = await admin_api.post("/admin-tokens", {"name": uuid4().hex, "scopes": [scope]}, status=201)
        tokens[scope] = made["token"]
    wrong = []
    for method, path, result in operations(document):
        if not path.startswith(PREFIX):
            continue
        assert result["security"] == [{"admin_token": [due(method, path)]}]
        target = re.sub(r"\{\w+\}", UNKNOWN_ID, path)
        for scope, token in tokens.items():
            async with client_of(admin_api.app, token) as client:
                # No body of any operation, so that nothing is changed where the token may.
                response = await client.request(method, target, content=b"[", headers=JSON)
            is_refused = response.status_code == 403 and response.json()["code"] == "insufficient_scope"
            if is_refused is (scope == due(method, path)):
                wrong.append(f"{scope}: {method} {path} {response.status_code}")
    assert not wrong, "\n".join(wrong)


async def test_admin_api_refuses_requests_without_an_admin_token(admin_api: AdminApi) -> None:
    document = (await admin_api.client.get("/openapi.json")).json()
    for token in (None, "eyJhbGciOiJIUzI1NiJ9.e30.x", "gw_live_" + "0" * 36):
        async with client_of(admin_api.app, token) as stranger:
            for method, path, _ in operations(document):
                if path.startswith(PREFIX):
                    response = await stranger.request(method, re.sub(r"\{\w+\}", UNKNOWN_ID, path), json={})
                    assert response.status_code == 401, (method, path)
