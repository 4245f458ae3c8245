"""Usage and the analysis history over the admin API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.ledger.usage import ingestion, refusals
from gateway.ledger.usage.refusals import RefusedIn
from tests.api.conftest import AdminApi
from tests.ledger.make import NOON, a_line


async def _ingest(admin_api: AdminApi, *lines: bytes) -> None:
    async with admin_api.database.transaction() as connection:
        await ingestion.ingest(connection, lines)


async def _a_user_with(admin_api: AdminApi, count: int, **columns: Any) -> str:
    user_id: str = (await admin_api.create_user())["id"]
    await _ingest(admin_api, *(a_line(UUID(user_id), at=NOON + timedelta(minutes=n), **columns) for n in range(count)))
    return user_id


async def test_usage_row_is_complete(admin_api: AdminApi) -> None:
    user_id = (await admin_api.create_user())["id"]
    request_id, key_id = str(uuid4()), str(uuid4())
    counts: dict[str, Any] = dict(
        zip(("input_tokens", "cached_input_tokens", "output_tokens"), (60, 50, 17), strict=True)
    )
    line = a_line(
        UUID(user_id),
        request_id=request_id,
        api_key_id=key_id,
        cost_usd="0.001200",
        tokens_used=77,
        model="gpt-4o",
        usage_source="reported",
        **counts,
    )
    await _ingest(admin_api, line)
    (row,) = (await admin_api.get("/usage", user_id=user_id))["data"]
    expected = {
        "request_id": request_id,
        "user_id": user_id,
        "api_key_id": key_id,
        "endpoint": "analyze",
        "outcome": "succeeded",
        "credits_charged": 1,
        "cost_usd": "0.001200",
        "tokens_used": 77,
        "model": "gpt-4o",
        "usage_source": "reported",
        "cache_write_tokens": None,
        "reasoning_tokens": None,
        **counts,
        "created_at": "2026-03-15T12:00:00Z",
        "metadata": {},
    }
    assert row.items() >= expected.items()


@pytest.mark.parametrize(
    ("params", "minutes"),
    [
        ({"from": "2026-03-15T12:03:00Z"}, [4, 3]),
        ({"to": "2026-03-15T12:02:00Z"}, [1, 0]),
        ({"from": "2026-03-15T13:01:00+01:00", "to": "2026-03-15T12:02:00Z"}, [1]),
        ({"endpoint": "analyze", "outcome": "succeeded", "limit": "2"}, [4, 3]),
        ({"endpoint": "other"}, []),
        ({"outcome": "abandoned"}, []),
    ],
)
@pytest.mark.parametrize("path", ["/usage", "/analysis-history"])
async def test_usage_filters_give_matching_rows(
    admin_api: AdminApi, path: str, params: dict[str, str], minutes: list[int]
) -> None:
    user_id = await _a_user_with(admin_api, 5, usage_type="analysis")
    rows = (await admin_api.get(path, user_id=user_id, **params))["data"]
    assert [row["created_at"] for row in rows] == [f"2026-03-15T12:0{minute}:00Z" for minute in minutes]


@pytest.mark.parametrize("path", ["/usage", "/analysis-history"])
async def test_usage_of_two_users_never_mixes_and_the_cursor_walks_each_once(admin_api: AdminApi, path: str) -> None:
    users = [await _a_user_with(admin_api, 5, usage_type="analysis") for _ in range(2)]
    for user_id in users:
        walked = await admin_api.pages(path, limit=2, user_id=user_id)
        assert {row["user_id"] for row in walked} == {user_id}
        assert len({row["request_id"] for row in walked}) == len(walked) == 5


async def test_history_holds_analyses_only(admin_api: AdminApi) -> None:
    user_id = await _a_user_with(admin_api, 1, usage_type="ai_generation")
    file = {"file_name": "a.csv", "file_sha256": "ab" * 32, "content_type": "text/csv", "file_size_bytes": 9}
    await _ingest(admin_api, a_line(UUID(user_id), usage_type="analysis", **file))  # type: ignore[arg-type] # columns
    (row,) = (await admin_api.get("/analysis-history", user_id=user_id))["data"]
    assert row.items() >= {**file, "analysis_type": "analyze", "status": "succeeded"}.items()


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"user_id": "x"}, "user_id"),
        ({"outcome": "fine"}, "outcome"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-03"}, "to"),
        ({"since": "2026-03-15T12:00:00Z"}, "since"),
        ({"user": "x"}, "user"),
        ({"endpoint": "\0"}, "endpoint"),
        ({"cursor": "junk"}, "cursor"),
    ],
)
@pytest.mark.parametrize("path", ["/usage", "/analysis-history"])
async def test_malformed_filter_is_refused(admin_api: AdminApi, path: str, params: dict[str, str], field: str) -> None:
    refused = await admin_api.call("GET", path, params=params, status=422)
    assert [error["field"] for error in refused["errors"]] == [field]


async def test_usage_aggregates_name_the_largest_users_and_what_fails(admin_api: AdminApi) -> None:
    span = {"from": "2026-03-01", "to": "2026-04-01"}
    users = [await admin_api.create_user() for _ in range(2)]
    for user, count, status in ((users[0], 2, 200), (users[0], 1, 500), (users[1], 4, 502)):
        lines = [a_line(UUID(user["id"]), endpoint="c6", status_code=status) for _ in range(count)]
        await _ingest(admin_api, *lines)
    largest = (await admin_api.get("/usage", group_by="user", sort="-requests", endpoint="c6", **span))["data"]
    assert [(row["email"], row["requests"]) for row in largest] == [(users[1]["email"], 4), (users[0]["email"], 3)]
    failing = (await admin_api.get("/usage", group_by="endpoint,status", endpoint="c6", **span))["data"]
    assert [(row["status_code"], row["requests"]) for row in failing] == [(200, 2), (500, 1), (502, 4)]
    assert {row["email"] for row in failing} == {None}
    await admin_api.call("DELETE", f"/users/{users[1]['id']}", status=204)
    (first, _) = (await admin_api.get("/usage", group_by="user", sort="-requests", endpoint="c6", **span))["data"]
    assert (first["user_id"], first["email"]) == (users[1]["id"], None)


async def test_usage_aggregates_follow_the_order_of_group_by(admin_api: AdminApi) -> None:
    user, other = await admin_api.create_user(), await admin_api.create_user()
    days = [NOON, NOON, NOON + timedelta(days=1)]
    async with admin_api.database.transaction() as connection:
        lines = [a_line(UUID(user["id"]), credits_charged=n + 1, at=at, tokens_used=5) for n, at in enumerate(days)]
        lines.append(a_line(UUID(user["id"]), at=NOON, endpoint="chat", outcome="upstream_error", credits_charged=0))
        lines.append(a_line(UUID(other["id"]), at=NOON))
        await ingestion.ingest(connection, lines)
    span = {"from": "2026-03-15T00:00:00Z", "to": "2026-03-17T00:00:00Z"}
    found = await admin_api.pages("/usage", limit=2, group_by="endpoint,day", user_id=user["id"], **span)
    shown = [(row["endpoint"], row["day"], row["requests"], row["succeeded"], row["credits_charged"]) for row in found]
    assert shown == [
        ("analyze", "2026-03-15", 2, 2, 3),
        ("analyze", "2026-03-16", 1, 1, 3),
        ("chat", "2026-03-15", 1, 0, 0),
    ]
    assert {row["user_id"] for row in found} == {None}
    by_user = await admin_api.pages("/usage", limit=500, group_by="user", **span)
    sums = {row["user_id"]: (row["requests"], row["tokens_used"]) for row in by_user}
    assert (sums[user["id"]], sums[other["id"]]) == ((4, 15), (1, 0))


async def test_usage_is_filtered_by_model_and_source(admin_api: AdminApi) -> None:
    user_id = UUID((await admin_api.create_user())["id"])
    known = [("a", "reported"), ("a", "estimated"), ("b", "reported"), (None, "none")]
    await _ingest(admin_api, *(a_line(user_id, model=model, usage_source=source) for model, source in known))
    for asked, count in (({"model": "a"}, 2), ({"usage_source": "reported"}, 2), ({"model": "b", "endpoint": "x"}, 0)):
        assert len((await admin_api.get("/usage", user_id=str(user_id), **asked))["data"]) == count
    refused = await admin_api.call("GET", "/usage", status=422, params={"usage_source": "guessed"})
    assert refused["errors"][0]["field"] == "usage_source"


async def test_margin_is_told_by_model_and_plan(admin_api: AdminApi) -> None:
    user_id = UUID((await admin_api.create_user())["id"])
    calls: list[dict[str, Any]] = [
        {"model": "a", "plan_id": "pro", "credits_charged": 300_000, "cost_usd": "1.25", "input_tokens": 9},
        {"model": "a", "plan_id": "pro", "credits_charged": 100_000, "reasoning_tokens": 4},
        {"model": "a", "plan_id": "free", "credits_charged": 1, "cost_usd": "0.5", "output_tokens": 3},
        {"model": "b", "plan_id": "pro", "credits_charged": 0, "cost_usd": "0"},
    ]
    await _ingest(admin_api, *(a_line(user_id, **call) for call in calls))
    span = {"from": "2026-03-15T00:00:00Z", "to": "2026-03-17T00:00:00Z"}
    found = await admin_api.pages("/usage", limit=50, group_by="model,plan", user_id=str(user_id), **span)
    told = [
        (row["model"], row["plan_id"], row["revenue_usd"], row["cost_usd"], row["margin_usd"], row["cost_unknown"])
        for row in found
    ]
    assert told == [
        ("a", "free", "0.000010", "0.500000", "-0.499990", 0),
        ("a", "pro", "4.000000", "1.250000", "2.750000", 1),
        ("b", "pro", "0.000000", "0.000000", "0.000000", 0),
    ]
    assert [(row["input_tokens"], row["output_tokens"], row["reasoning_tokens"]) for row in found] == [
        (0, 3, 0),
        (9, 0, 4),
        (0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("sort", "models"), [("-credits_charged", "bac"), ("credits_charged", "cab"), ("requests", "acb")]
)
async def test_groups_are_sorted_by_a_sum_and_paged(admin_api: AdminApi, sort: str, models: str) -> None:
    user_id = UUID((await admin_api.create_user())["id"])
    calls = [("a", 5), ("b", 4), ("b", 4), ("c", 1)]
    await _ingest(admin_api, *(a_line(user_id, model=model, credits_charged=credits) for model, credits in calls))
    span = {"from": "2026-03-15T00:00:00Z", "to": "2026-03-17T00:00:00Z"}
    found = await admin_api.pages("/usage", limit=1, group_by="model", sort=sort, user_id=str(user_id), **span)
    assert "".join(row["model"] for row in found) == models


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"sort": "requests"}, "sort"),
        ({"group_by": "day", "sort": "path"}, "sort"),
        ({"group_by": "hour"}, "group_by"),
        ({"group_by": ""}, "group_by"),
        ({"group_by": "day", "from": "2020-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"group_by": "day", "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
    ],
)
async def test_invalid_aggregation_is_refused_by_name(admin_api: AdminApi, body: dict[str, str], field: str) -> None:
    response = await admin_api.call("GET", "/usage", status=422, params=body)
    assert response["errors"][0]["field"] == field


async def test_usage_is_exported_as_csv_whole(admin_api: AdminApi) -> None:
    user_id = await _a_user_with(admin_api, 7)
    query = {"user_id": user_id, "format": "csv", "limit": "2"}
    answer = await admin_api.client.get("/admin/v1/usage", params=query)
    assert answer.headers["content-type"].startswith("text/csv"), answer.text
    header, *rows = answer.text.splitlines()
    assert header.startswith("request_id,created_at,user_id")
    assert (len(rows), all(user_id in row for row in rows)) == (7, True)
    sums = await admin_api.client.get(
        "/admin/v1/usage", params={**query, "group_by": "outcome", "from": "2026-03-01", "to": "2026-04-01"}
    )
    header, row = sums.text.splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["outcome"] == "succeeded"


@pytest.mark.parametrize(
    ("bounds", "count"),
    [
        ({"from": "2026-03-15"}, 3),
        ({"from": "2026-03-16"}, 0),
        ({"to": "2026-03-15"}, 0),
        ({"to": "2026-03-16"}, 3),
        ({"from": "2026-03-15T12:01:00Z", "to": "2026-03-16"}, 2),
    ],
)
async def test_time_of_a_query_may_be_a_date(admin_api: AdminApi, bounds: dict[str, str], count: int) -> None:
    user_id = await _a_user_with(admin_api, 3)
    assert len((await admin_api.get("/usage", user_id=user_id, **bounds))["data"]) == count


@pytest.mark.parametrize("written", ["2026-02-30", "2026-3-15", "20260315", "yesterday"])
async def test_what_is_no_date_is_refused(admin_api: AdminApi, written: str) -> None:
    refused = await admin_api.call("GET", "/usage", params={"from": written}, status=422)
    assert [error["field"] for error in refused["errors"]] == ["from"]


async def test_refusals_are_summed_by_what_is_asked(admin_api: AdminApi) -> None:
    users = [await admin_api.create_user() for _ in range(2)]
    keys = [UUID((await admin_api.create_key(user["id"]))["id"]) for user in users]
    day = timedelta(days=1)
    counts = {
        RefusedIn(keys[0], "chat", "rate_limited", NOON): 5,
        RefusedIn(keys[0], "chat", "rate_limited", NOON + day): 2,
        RefusedIn(keys[0], "chat", "insufficient_credits", NOON): 4,
        RefusedIn(keys[1], "upload", "feature_not_in_plan", NOON): 1,
    }
    async with admin_api.database.transaction() as connection:
        await refusals.add(connection, counts)
    march = {"from": "2026-03-01", "to": "2026-04-01"}

    async def sums(**query: str) -> list[tuple[Any, ...]]:
        found = (await admin_api.get("/refusals", **march, **query))["data"]
        return [tuple(value for value in row.values() if value is not None) for row in found]

    own = {"user_id": users[0]["id"]}
    assert await sums(**own) == [("chat", "rate_limited", 7), ("chat", "insufficient_credits", 4)]
    assert await sums(**own, group_by="day,code") == [
        ("2026-03-15", "rate_limited", 5),
        ("2026-03-15", "insufficient_credits", 4),
        ("2026-03-16", "rate_limited", 2),
    ]
    assert await sums(**own, group_by="user", code="rate_limited") == [(users[0]["id"], 7)]
    assert await sums(api_key_id=str(keys[1]), group_by="key,endpoint") == [("upload", str(keys[1]), 1)]
    assert len(await admin_api.pages("/refusals", limit=1, **march, **own)) == 2
    await admin_api.call("GET", "/refusals", params={"group_by": "weather"}, status=422)


async def test_usage_by_day_has_the_largest_values_and_the_rest(admin_api: AdminApi) -> None:
    user = UUID((await admin_api.create_user())["id"])
    lines = [
        a_line(user, at=NOON + timedelta(days=day), model=f"m-{model}", cost_usd="0.25", credits_charged=9 - model)
        for day in (0, 2)
        for model in range(4)
    ]
    await _ingest(admin_api, *lines, a_line(user, at=NOON, credits_charged=100))
    span = {"user_id": str(user), "from": "2026-03-15T00:00:00Z", "to": "2026-03-18T00:00:00Z"}
    found = await admin_api.get("/usage/daily", **span, measure="credits_charged", split="model", limit=3)
    assert found["days"] == ["2026-03-15", "2026-03-16", "2026-03-17"]
    assert found["series"] == [
        {"value": None, "is_rest": False, "sums": [100, 0, 0]},
        {"value": "m-0", "is_rest": False, "sums": [9, 0, 9]},
        {"value": None, "is_rest": True, "sums": [21, 0, 21]},
    ]
    (whole,) = (await admin_api.get("/usage/daily", **span, measure="cost_usd"))["series"]
    assert whole == {"value": None, "is_rest": False, "sums": ["1.000000", "0", "1.000000"]}


async def test_usage_by_day_refuses_a_span_that_is_too_long(admin_api: AdminApi) -> None:
    span = {"from": "2024-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
    problem = await admin_api.call("GET", "/usage/daily", params=span, status=422)
    assert "366 days at most" in problem["detail"]
    await admin_api.call("GET", "/usage/daily", params={"split": "user"}, status=422)
