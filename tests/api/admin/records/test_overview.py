"""Overview, system and poison entries: what they count, and where from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.api.admin.records.series import Series
from gateway.clock import now
from gateway.ledger.db.session import Database
from gateway.ledger.usage import ingestion, poison, refusals
from gateway.ledger.usage.refusals import RefusedIn
from tests.api.conftest import AdminApi
from tests.ledger.make import a_line

EXPOSITION = """
# TYPE gateway_process_ready gauge
gateway_process_ready{process="proxy-0"} 1.0
gateway_process_ready{process="admin"} 0.0
# TYPE gateway_upstream_requests counter
gateway_upstream_requests_total{upstream="main",outcome="succeeded"} 5.0
gateway_upstream_requests_total{upstream="main",outcome="upstream_error"} 2.0
gateway_upstream_requests_total{upstream="other",outcome="succeeded"} 1.0
"""


async def test_overview_counts_the_calls_of_today(admin_api: AdminApi, ledger: Database) -> None:
    before = await admin_api.get("/overview")
    user = await admin_api.create_user()
    instant = now()
    lines = [
        a_line(UUID(user["id"]), at=instant, credits_charged=3, usage_source="reported", cost_usd="0.00001"),
        a_line(UUID(user["id"]), at=instant, credits_charged=2, usage_source="missing"),
        a_line(UUID(user["id"]), at=instant, credits_charged=0, outcome="upstream_timeout", status_code=504),
        a_line(UUID(user["id"]), at=instant - timedelta(days=1), credits_charged=100),
    ]
    async with ledger.transaction() as connection:
        await ingestion.ingest(connection, lines)
    after = await admin_api.get("/overview")
    grown = {name: after[name] - before[name] for name in ("calls", "succeeded", "credits_charged", "usage_missing")}
    assert grown == {"calls": 3, "succeeded": 2, "credits_charged": 5, "usage_missing": 1}
    assert _errors(after).get("upstream_timeout", 0) - _errors(before).get("upstream_timeout", 0) == 1
    assert after["revenue_usd"] is not None


async def test_overview_counts_refusals_by_code(admin_api: AdminApi, ledger: Database) -> None:
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    code = f"code_{uuid4().hex[:8]}"
    minute = now().replace(second=0, microsecond=0)
    async with ledger.transaction() as connection:
        await refusals.add(connection, {RefusedIn(UUID(key["id"]), "chat", code, minute): 4})
    assert (await admin_api.get("/overview"))["refusals"][code] == 4


async def test_overview_names_what_is_missing(admin_api: AdminApi) -> None:
    admin_api.missing["redis"] = "away"
    try:
        trouble = (await admin_api.get("/overview"))["trouble"]
    finally:
        admin_api.missing.clear()
    assert trouble["not_ready"] == ["redis"]
    assert trouble["journal_lag_seconds"] is None  # nobody writes the series here


async def test_system_names_stores_and_upstreams(admin_api: AdminApi) -> None:
    system = await admin_api.get("/system")
    assert system["stores"]["postgresql"]
    (upstream,) = system["upstreams"]
    assert upstream["name"] == "main"
    assert upstream["targets"] == ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]


def test_series_are_summed_by_label() -> None:
    series = Series(EXPOSITION)
    assert series.value("gateway_upstream_requests_total") == 8
    assert series.value("gateway_holds_open") is None
    assert series.by("gateway_process_ready", "process") == {"admin": 0, "proxy-0": 1}
    assert len(series.matching("gateway_upstream_requests_total", upstream="main")) == 2


@pytest.mark.parametrize("limit", [1, 50])
async def test_poison_entries_are_listed(admin_api: AdminApi, ledger: Database, limit: int) -> None:
    entries = [f"{uuid4().int % 10**12}-0", f"{uuid4().int % 10**12}-1"]
    async with ledger.transaction() as connection:
        for entry_id in entries:
            await poison.quarantine(connection, partition=1, entry_id=entry_id, line=b"a\xff\tb", reason="no date")
    listed = await admin_api.pages("/poison-entries", limit=limit)
    assert [entry["entry_id"] for entry in listed[:2]] == list(reversed(entries))
    assert listed[0]["line"] == "a\\xff\tb"


async def test_audit_chain_is_reported(admin_api: AdminApi) -> None:
    await admin_api.create_user()
    chain = await admin_api.get("/audit-log/chain")
    assert set(chain) == {"is_whole", "entries", "anchor", "broken_at", "reason"}
    assert chain["entries"] > 0


def _errors(overview: dict[str, Any]) -> dict[str, int]:
    errors: dict[str, int] = {}
    for upstream in overview["upstreams"]:
        for outcome, count in upstream["errors"].items():
            errors[outcome] = errors.get(outcome, 0) + count
    return errors
