"""Probes and metrics: open to whoever reaches the listener."""

from __future__ import annotations

from tests.api.conftest import Office, client_of


async def test_a_live_process_says_so_to_anyone(office: Office) -> None:
    async with client_of(office.app, token=None) as stranger:
        answer = await stranger.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readiness_names_what_is_missing_but_not_where_it_is(office: Office) -> None:
    async with client_of(office.app, token=None) as stranger:
        assert (await stranger.get("/readyz")).status_code == 200
        office.missing.update(redis="refused at 10.0.0.7:6379", database="no route to db.internal")
        try:
            answer = await stranger.get("/readyz")
        finally:
            office.missing.clear()
    assert answer.status_code == 503
    assert answer.json() == {"status": "not_ready", "missing": ["database", "redis"]}


async def test_metrics_are_prometheus_text(office: Office) -> None:
    async with client_of(office.app, token=None) as stranger:
        answer = await stranger.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.content == b"gateway_build_info 1.0\n"
