"""No body makes the process that serves calls parse, or tell, more than a bounded amount."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.api.account.app import MAX_BODY_BYTES, MAX_EVENT_BYTES, MAX_LOGIN_BODY_BYTES, max_body_bytes
from gateway.api.error_responses import MAX_ERRORS
from tests.api.account.conftest import AccountApi

LOGIN_PATHS = ("register", "login", "refresh", "logout", "forgot-password", "reset-password", "verify-email")
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", LOGIN_PATHS)
async def test_login_body_of_one_byte_chunks_is_read_to_its_limit_only(account_api: AccountApi, path: str) -> None:
    taken = 0

    async def drops() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(10 * MAX_LOGIN_BODY_BYTES):
            taken += 1
            yield b" "

    response = await account_api.client.post(f"/auth/{path}", content=drops(), headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert taken == MAX_LOGIN_BODY_BYTES + 1


@pytest.mark.parametrize("path", LOGIN_PATHS)
async def test_login_body_announced_too_large_is_not_read(account_api: AccountApi, path: str) -> None:
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        taken += 1
        yield b" " * (MAX_LOGIN_BODY_BYTES + 1)

    headers = JSON | {"content-length": str(MAX_LOGIN_BODY_BYTES + 1)}
    response = await account_api.client.post(f"/auth/{path}", content=body(), headers=headers)
    assert (response.status_code, taken) == (413, 0)


def _members(member: Any) -> bytes:
    members: list[str] = []
    size = 2
    while size + len(member(len(members))) + 1 <= MAX_LOGIN_BODY_BYTES:
        members.append(member(len(members)))
        size += len(members[-1]) + 1
    return ("{" + ",".join(members) + "}").encode()


HOSTILE_BODIES: dict[str, bytes] = {
    "unknown fields": _members(lambda number: f'"{number:x}":0'),
    "unknown objects": _members(lambda number: f'"{number:x}":{{}}'),
    "unknown names of one great length": json.dumps({"x" * 15_000: 0}).encode(),
    "duplicate names": _members(lambda _: '"email":0'),
    "depth": b'{"email":' * 1500 + b"0" + b"}" * 1500,
    "arrays": b"[" * MAX_LOGIN_BODY_BYTES,
    "a great number": b'{"email":' + b"9" * 15_000 + b"}",
    "a list in place of a text": b'{"email":[' + b"0," * 7_500 + b"0]}",
    "escapes": b'{"email":"' + b"\\u0000" * 2_500 + b'","password":"x"}',
    "signs": b'{"email":"' + b"a@" * 7_500 + b'","password":"x"}',
}


@pytest.mark.parametrize("name", HOSTILE_BODIES)
async def test_response_to_a_hostile_body_is_short(account_api: AccountApi, name: str) -> None:
    body = HOSTILE_BODIES[name]
    assert len(body) <= MAX_LOGIN_BODY_BYTES
    response = await account_api.client.post("/auth/login", content=body, headers=JSON)
    assert response.status_code in (400, 422)
    assert len(response.content) < 4 * 1024
    assert len(response.json().get("errors", ())) <= MAX_ERRORS


async def test_errors_beyond_the_limit_are_counted(account_api: AccountApi) -> None:
    body = {f"unknown_{number}": 0 for number in range(30)}
    problem = await account_api.call("/auth/login", body, status=422)
    assert len(problem["errors"]) == MAX_ERRORS
    assert problem["errors_omitted"] == 30 + 2 - MAX_ERRORS  # email and password are missing too
    assert problem["detail"].endswith("; and 27 more")
    few = await account_api.call("/auth/login", {"unknown": 0}, status=422)
    assert "errors_omitted" not in few


def test_every_path_has_a_limit() -> None:
    assert max_body_bytes("/auth/anything") == MAX_LOGIN_BODY_BYTES == 16 * 1024
    assert max_body_bytes("/me/keys") == MAX_BODY_BYTES <= 32 * 1024
    assert max_body_bytes("/webhooks/stripe") == MAX_EVENT_BYTES


async def test_openapi_document_is_rendered_once(account_api: AccountApi) -> None:
    first, second = [(await account_api.client.get("/openapi.json")).content for _ in range(2)]
    assert first == second
    assert json.loads(first)["openapi"].startswith("3.1")
