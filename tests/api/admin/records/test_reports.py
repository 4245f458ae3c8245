"""Reports over the admin API: rows and CSV of a span of months, and of the months themselves."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from gateway.ledger.db.session import Database
from gateway.ledger.reports.rows import KINDS, Report
from gateway.ledger.usage.ingestion import ingest
from tests.api.conftest import AdminApi
from tests.ledger.make import a_line

AT = datetime(2025, 2, 10, tzinfo=UTC)  # no other test has calls then
SPAN = {"from": "2025-02", "to": "2025-03"}


async def _a_call(database: Database, user_id: str, **columns: Any) -> None:
    async with database.transaction() as connection:
        await ingest(connection, [a_line(UUID(user_id), at=AT, credits_charged=5, cost_usd="0.5", **columns)])


async def test_report_is_of_a_span_of_months_as_rows_and_as_csv(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    for endpoint in ("reported", "told"):
        await _a_call(admin_api.database, user["id"], endpoint=endpoint)
    page = await admin_api.get("/reports/outcomes", **SPAN, limit=1)
    (first,) = page["data"]
    assert first == {
        "month": "2025-02-01",
        "endpoint": "reported",
        "outcome": "succeeded",
        "requests": 1,
        "share": "1.0000",
        "credits_charged": 5,
    }
    rest = await admin_api.get("/reports/outcomes", **SPAN, cursor=page["next_cursor"])
    assert [row["endpoint"] for row in rest["data"]] == ["told"]
    answer = await admin_api.client.get("/admin/v1/reports/outcomes?from=2025-02&to=2025-03&format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="outcomes.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["endpoint"] for row in rows] == ["reported", "told"]
    (top,) = (await admin_api.get("/reports/top-users", **SPAN))["data"]
    assert (top["email"], top["requests"], top["credits_charged"], top["cost_usd"]) == (
        user["email"],
        2,
        10,
        "1.000000",
    )


@pytest.mark.parametrize("report", Report)
async def test_every_report_answers_for_the_current_month_by_its_model(admin_api: AdminApi, report: Report) -> None:
    document = await admin_api.client.get("/openapi.json")
    operation = document.json()["paths"][f"/admin/v1/reports/{report}"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    row = document.json()["components"]["schemas"][schema.removesuffix("Page")]
    assert set(row["properties"]) == set(KINDS[report].__dataclass_fields__)
    assert {row["month"] for row in (await admin_api.get(f"/reports/{report}"))["data"]} <= {
        f"{datetime.now(UTC):%Y-%m}-01"
    }


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "2025-13"}, "from"),
        ({"to": "2025-1"}, "to"),
        ({"to": "2098-01"}, "to"),
        ({"from": "2025-03", "to": "2025-02"}, "from"),
        ({"from": "2001-01", "to": "2025-02"}, "from"),
    ],
)
async def test_months_that_are_none_are_refused(admin_api: AdminApi, params: dict[str, str], field: str) -> None:
    answer = await admin_api.client.get("/admin/v1/reports/revenue", params=params)
    assert answer.status_code in (400, 422)
    assert field in answer.text


async def test_months_are_listed_from_the_first_with_anything_to_report(
    admin_api: AdminApi,
) -> None:
    user = await admin_api.create_user()
    await _a_call(admin_api.database, user["id"])
    listed = (await admin_api.get("/reports/months", limit=500))["data"]
    assert listed[0]["month"] == f"{datetime.now(UTC):%Y-%m}-01"
    assert {row["month"]: row["closed_at"] for row in listed}["2025-02-01"] is None
