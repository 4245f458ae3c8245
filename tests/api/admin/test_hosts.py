"""The admin listener answers for its own names: a page whose name leads to it (DNS rebinding) reads nothing."""

from __future__ import annotations

import pytest

from tests.api.conftest import AdminApi, admin_app, client_of


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/docs", "/admin/v1/users", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8081", "localhost.evil.example", "1.2.3", "[::1", "a b", "x@[::1]"]
)
async def test_another_host_is_refused_everywhere(admin_api: AdminApi, path: str, host: str) -> None:
    answer = await admin_api.client.get(path, headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "server.admin_hosts" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8081", "10.1.2.3", "[::1]:8081", "[fe80::1]", "LOCALHOST:9", "localhost.", "a.localhost"),
        *("gateway:8081", "Admin.Example.com", "admin.example.com.:443"),
    ],
)
async def test_addresses_local_and_configured_names_are_answered(admin_api: AdminApi, host: str) -> None:
    async def nothing() -> None:
        """Publishes to nobody."""

    app = admin_app(admin_api.database, nothing, missing={}, hosts=("admin.example.COM",))
    async with client_of(app, token=None) as prober:
        assert (await prober.get("/healthz", headers={"host": host})).status_code == 200
        assert (await prober.get("/metrics", headers={"host": host})).status_code == 200


async def test_one_of_two_hosts_is_enough_to_refuse(admin_api: AdminApi) -> None:
    answer = await admin_api.client.get("/metrics", headers=[("host", "localhost"), ("host", "evil.example")])
    assert answer.status_code == 400
