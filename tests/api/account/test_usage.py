"""Usage of the caller: receipts, aggregates, CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.ledger.credits import grants
from gateway.ledger.usage import ingestion
from tests.api.account.conftest import AccountApi, Customer
from tests.ledger.make import a_line

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


@pytest.fixture
async def caller(account_api: AccountApi) -> Customer:
    """Somebody who made five calls on two days, beside somebody else who made one."""
    customer, other = await account_api.customer(), await account_api.customer()
    lines = [
        a_line(customer.id, at=NOON, credits_charged=1, usage_type="analysis"),
        a_line(
            customer.id,
            at=NOON + timedelta(hours=1),
            endpoint="generate",
            credits_charged=6,
            product_count=3,
            balance_after=43,
        ),
        a_line(customer.id, at=NOON + timedelta(hours=2), credits_charged=9),
        a_line(customer.id, at=NOON + timedelta(days=1), credits_charged=0, outcome="upstream_error", status_code=502),
        a_line(customer.id, at=NOON + timedelta(days=1, hours=1), endpoint="gone", credits_charged=4, batch_id="=1+1"),
        a_line(other.id, at=NOON, credits_charged=100),
    ]
    async with account_api.database.transaction() as connection:
        await grants.grant(connection, customer.id, amount=50, source="promo", reason="hello", actor="test")
        await ingestion.ingest(connection, lines)
    return customer


async def test_call_has_its_receipt(caller: Customer) -> None:
    calls = (await caller.get("/me/usage"))["data"]
    assert [(call["endpoint"], call["credits_charged"], call["computed"]) for call in calls] == [
        ("gone", 4, "4 credits, as recorded"),
        ("analyze", 0, "nothing, the call ended as upstream_error"),
        ("analyze", 9, "9 credits, as the service itself priced the call or the price was at the time"),
        ("generate", 6, "2 credits per item x 3 items"),
        ("analyze", 1, "1 credit per call"),
    ]
    assert [call["balance_after"] for call in calls] == [None, None, None, 43, None]
    assert not any({"user_id", "cost_usd"} & call.keys() for call in calls)


async def test_calls_are_filtered_and_paged(caller: Customer) -> None:
    first = await caller.get("/me/usage", limit=2, endpoint="analyze")
    rest = await caller.get("/me/usage", limit=2, endpoint="analyze", cursor=first["next_cursor"])
    assert [call["credits_charged"] for call in first["data"] + rest["data"]] == [0, 9, 1]
    assert rest["next_cursor"] is None
    failed = await caller.get("/me/usage", outcome="upstream_error")
    assert [call["status_code"] for call in failed["data"]] == [502]
    within: dict[str, Any] = {"from": "2026-03-15T13:00:00Z", "to": "2026-03-15T14:00:00Z"}
    assert [call["endpoint"] for call in (await caller.get("/me/usage", **within))["data"]] == ["generate"]


async def test_calls_are_summed_by_day_and_endpoint(caller: Customer) -> None:
    span: dict[str, Any] = {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
    sums = (await caller.get("/me/usage", group_by="day,endpoint", **span))["data"]
    assert [(each["day"], each["endpoint"], each["requests"], each["credits_charged"]) for each in sums] == [
        ("2026-03-15", "analyze", 2, 10),
        ("2026-03-15", "generate", 1, 6),
        ("2026-03-16", "analyze", 1, 0),
        ("2026-03-16", "gone", 1, 4),
    ]
    assert not any("cost_usd" in each for each in sums)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"group_by": "user"}, "group_by"),
        ({"group_by": "day", "from": "2020-01-01T00:00:00Z"}, "from"),
        ({"user_id": "someone"}, "user_id"),
        ({"cursor": "x"}, "cursor"),
        ({"format": "xml"}, "format"),
        ({"limit": "501"}, "limit"),
    ],
)
async def test_invalid_query_names_its_field(caller: Customer, params: dict[str, str], field: str) -> None:
    refused = await caller.get("/me/usage", status=422, **params)
    assert [each["field"] for each in refused["errors"]] == [field]


@pytest.mark.parametrize("asked", [{"params": {"format": "csv"}}, {"headers": {"accept": "text/csv, */*;q=0.1"}}])
async def test_csv_holds_all_calls_and_no_formulae(caller: Customer, asked: dict[str, Any]) -> None:
    response = await caller.client.get("/me/usage", **asked)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["credits_charged"] for row in rows] == ["4", "0", "9", "6", "1"]
    assert rows[0]["batch_id"] == "'=1+1"
    assert rows[0]["tokens_used"] == ""


async def test_csv_has_no_page_limit(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    lines = [a_line(customer.id, at=NOON + timedelta(seconds=number)) for number in range(1100)]
    async with account_api.database.transaction() as connection:
        await ingestion.ingest(connection, lines)
    response = await customer.client.get("/me/usage", params={"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == len({row["request_id"] for row in rows}) == 1100


async def test_aggregates_come_as_csv_too(caller: Customer) -> None:
    asked = {"format": "csv", "group_by": "endpoint", "from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
    response = await caller.client.get("/me/usage", params=asked)
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [(row["endpoint"], row["requests"]) for row in rows] == [("analyze", "3"), ("generate", "1"), ("gone", "1")]


async def test_history_holds_analyses_only(caller: Customer) -> None:
    (analysis,) = (await caller.get("/me/history"))["data"]
    assert (analysis["analysis_type"], analysis["status"], analysis["credits_charged"]) == ("analyze", "succeeded", 1)
    response = await caller.client.get("/me/history", params={"format": "csv"})
    assert len(list(csv.DictReader(io.StringIO(response.text)))) == 1


async def test_ledger_adds_up(caller: Customer) -> None:
    entries = (await caller.get("/me/ledger"))["data"]
    assert [(entry["kind"], entry["amount"], entry["balance_after"]) for entry in entries] == [
        ("usage", -20, 30),
        ("grant", 50, 50),
    ]
    assert not any("actor" in entry for entry in entries)
    response = await caller.client.get("/me/ledger", headers={"accept": "text/csv"})
    assert [row["amount"] for row in csv.DictReader(io.StringIO(response.text))] == ["-20", "50"]


async def test_key_reads_the_usage_of_its_account(account_api: AccountApi, caller: Customer) -> None:
    key = (await caller.post("/me/keys", {}, status=201))["key"]
    response = await account_api.client.get("/me/usage", headers={"x-api-key": key})
    assert len(response.json()["data"]) == 5
