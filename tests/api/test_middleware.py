"""Authentication, request ids and body limits, before any endpoint."""

from __future__ import annotations

import httpx
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from gateway.api.admin.auth import AdminAuthenticator
from tests.api.conftest import TOKEN, AdminApi, client_of


@pytest.mark.parametrize(
    "sent",
    [
        [],
        ["Bearer wrong"],
        ["Bearer "],
        ["Bearer"],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
    ],
)
async def test_request_without_the_admin_token_is_unauthorized_on_any_path(
    admin_api: AdminApi, sent: list[str]
) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        headers = [("authorization", value) for value in sent]
        for path in ("/admin/v1/users", "/admin/v1/nothing", "/nothing", "//admin/v1/users", "/docs/x", "/healthz/"):
            response = await stranger.get(path, headers=headers)
            assert response.status_code == 401
            assert response.json()["code"] == "unauthorized"
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["content-type"] == "application/problem+json"


async def test_bearer_scheme_has_no_case(admin_api: AdminApi) -> None:
    response = await admin_api.client.get("/admin/v1/plans", headers={"authorization": f"bearer {TOKEN}"})
    assert response.status_code == 200


def test_empty_admin_token_is_refused(admin_api: AdminApi) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        AdminAuthenticator(admin_api.database, "", key_prefix="gw", peppers={1: b"pepper"})


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/admin/v1/users/x", 404), ("/admin/v1/users?limit=x", 422), ("/x", 404)]
)
async def test_response_has_the_request_id(admin_api: AdminApi, path: str, status: int) -> None:
    response = await admin_api.client.get(path, headers={"x-request-id": "from.the_client-1"})
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["from.the_client-1"]
    assert response.headers.get_list("cache-control") == ["no-store"]
    if status >= 400:
        assert response.json()["request_id"] == "from.the_client-1"


async def test_log_lines_have_the_request_id(admin_api: AdminApi) -> None:
    admin_api.missing["redis"] = "away"
    with capture_logs(processors=[merge_contextvars]) as lines:
        try:
            response = await admin_api.client.get("/readyz")
        finally:
            admin_api.missing.clear()
    assert [line["request_id"] for line in lines] == [response.headers["x-request-id"]]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>"])
async def test_request_id_that_may_not_be_echoed_is_replaced(admin_api: AdminApi, sent: str) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        response = await stranger.get("/admin/v1/users", headers={"x-request-id": sent})
    assert len(response.headers["x-request-id"]) == 36
    assert response.json()["request_id"] == response.headers["x-request-id"] != sent


@pytest.mark.parametrize("announced", [True, False])
async def test_body_beyond_the_limit_is_not_read_to_its_end(admin_api: AdminApi, announced: bool) -> None:
    taken = 0

    async def endless() -> httpx.AsyncByteStream:  # type: ignore[misc] # an async generator is one
        nonlocal taken
        while taken < 64 * 1024 * 1024:
            taken += 64 * 1024
            yield b" " * 64 * 1024

    body = b" " * (1024 * 1024 + 1) if announced else endless()
    headers = {"content-type": "application/json"}
    response = await admin_api.client.post("/admin/v1/users", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert taken <= 2 * 1024 * 1024
