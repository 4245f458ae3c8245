"""Probes and metrics need no token."""

from __future__ import annotations

from tests.api.conftest import AdminApi, client_of


async def test_liveness_needs_no_token(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        response = await stranger.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_readiness_names_missing_stores_without_addresses(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        assert (await stranger.get("/readyz")).status_code == 200
        admin_api.missing.update(redis="refused at 10.0.0.7:6379", database="no route to db.internal")
        try:
            response = await stranger.get("/readyz")
        finally:
            admin_api.missing.clear()
    assert response.status_code == 503
    assert response.json() == {"status": "not_ready", "missing": ["database", "redis"]}


async def test_metrics_are_prometheus_text(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        response = await stranger.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert response.content == b"gateway_build_info 1.0\n"
