"""Experiments are created, started and stopped by the admin API, which tells what they brought."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.db.session import Database
from tests.api.conftest import AdminApi

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def draft(admin_api: AdminApi) -> AsyncIterator[dict[str, Any]]:
    names = [uuid4().hex, uuid4().hex]
    made = [await admin_api.post("/plans", {"name": name, "price": "9.90"}, status=201) for name in names]
    variants = [{"name": "control", "plans": [made[0]["id"]]}, {"name": "other", "weight": 3, "plans": [made[1]["id"]]}]
    draft = await admin_api.post("/experiments", {"name": uuid4().hex, "variants": variants}, status=201)
    yield draft
    await admin_api.client.post(f"/admin/v1/experiments/{draft['id']}/stop", json={})


async def test_experiment_is_created_started_stopped_and_recorded(admin_api: AdminApi, draft: dict[str, Any]) -> None:
    assert (draft["status"], draft["variants"][0]["weight"], draft["started_at"]) == ("draft", 1, None)
    assert draft in await admin_api.pages("/experiments", limit=1)
    path = f"/experiments/{draft['id']}"
    await admin_api.post(f"{path}/stop", {}, status=409)
    started = await admin_api.post(f"{path}/start")
    assert started["status"] == "running"
    await admin_api.post(f"{path}/start", status=409)
    await admin_api.call("DELETE", path, status=409)
    await admin_api.post(f"{path}/stop", {"winner": "nobody"}, status=404)
    stopped = await admin_api.post(f"{path}/stop", {"winner": "other"})
    assert (stopped["status"], stopped["winner"]) == ("stopped", "other")
    sold = [(await admin_api.get(f"/plans/{each['plans'][0]}"))["is_active"] for each in draft["variants"]]
    assert sold == [False, True]
    assert await admin_api.get(path) == stopped
    actions = [entry["action"] for entry in await admin_api.audit(draft["id"])]
    assert actions == ["experiments.create", "experiments.start", "experiments.stop"]


async def test_draft_can_be_deleted(admin_api: AdminApi, draft: dict[str, Any]) -> None:
    await admin_api.call("DELETE", f"/experiments/{draft['id']}", status=204)
    await admin_api.call("GET", f"/experiments/{draft['id']}", status=404)


async def test_plan_is_in_one_running_experiment_at_most_and_must_be_sold(
    admin_api: AdminApi, draft: dict[str, Any]
) -> None:
    again = {"name": uuid4().hex, "variants": draft["variants"]}
    second = await admin_api.post("/experiments", again, status=201)
    await admin_api.post(f"/experiments/{draft['id']}/start")
    refused = await admin_api.post(f"/experiments/{second['id']}/start", status=409)
    assert f"The experiment {draft['name']} runs with" in refused["detail"]
    unsold = {"name": uuid4().hex, "variants": [{"name": "a", "plans": ["gone"]}, {"name": "b", "plans": ["lost"]}]}
    third = await admin_api.post("/experiments", unsold, status=201)
    refused = await admin_api.post(f"/experiments/{third['id']}/start", status=409)
    assert "gone, lost must be sold" in refused["detail"]


@pytest.mark.parametrize("names", [("a", "a"), ("a",)])
async def test_variants_that_make_no_experiment_are_refused(admin_api: AdminApi, names: tuple[str, ...]) -> None:
    body = {"name": uuid4().hex, "variants": [{"name": name, "plans": [f"p{at}"]} for at, name in enumerate(names)]}
    await admin_api.post("/experiments", body, status=422)


async def test_report_tells_what_variants_brought_and_a_true_difference(
    admin_api: AdminApi, ledger: Database, draft: dict[str, Any]
) -> None:
    """400 accounts, of which those of the second variant pay six times as often."""
    path = f"/experiments/{draft['id']}"
    empty = await admin_api.get(f"{path}/report")
    assert (empty["since"], empty["finds_difference"]) == (None, False)
    await admin_api.post(f"{path}/start")
    ids = [str(uuid4()) for _ in range(400)]
    variants = {user: (await admin_api.get(f"{path}/assignments/{user}"))["variant"] for user in ids[:20]}
    async with ledger.transaction() as connection:
        users = "INSERT INTO users (id, email) SELECT id, id || '@x.test' FROM unnest(CAST(:ids AS uuid[])) id"
        await connection.execute(text(users), {"ids": ids})
        await connection.execute(_PAY, {"ids": ids, "salt": draft["salt"]})
    report = await admin_api.get(f"{path}/report")
    results = {each["name"]: each for each in report["variants"]}
    assert sum(each["sign_ups"] for each in results.values()) == 400
    assert {results[name]["sign_ups"] > 0 for name in variants.values()} == {True}
    conversion = next(each for each in report["comparisons"] if each["metric"] == "conversion")
    assert conversion["interval"]["low"] < conversion["difference"] < conversion["interval"]["high"]
    assert conversion["p_value"] <= conversion["adjusted_p_value"] < 0.01
    assert conversion["is_significant"]
    assert report["finds_difference"]
    stopped = await admin_api.post(f"{path}/stop", {})
    assert (await admin_api.get(f"{path}/report"))["until"] == stopped["stopped_at"]


async def test_unknown_experiment_is_not_found(admin_api: AdminApi) -> None:
    for method, path in (("GET", ""), ("GET", "/report"), ("POST", "/start"), ("POST", "/stop"), ("DELETE", "")):
        body: dict[str, Any] | None = {} if method == "POST" else None
        await admin_api.call(method, f"/experiments/{UNKNOWN}{path}", status=404, json=body)


# By the hash as docs/experiments.md gives it: a weight of 1 of 4 is the first quarter of the digests.
_PAY = text("""
    INSERT INTO payment_transactions (id, user_id, provider, transaction_type, status, amount, currency, processed_at)
    SELECT gen_random_uuid(), id, 'stripe', 'subscription', 'completed', 9.90, 'USD', clock_timestamp()
      FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS user_of (id, n)
     WHERE n % CASE WHEN encode(sha256(convert_to(:salt || ':' || id, 'UTF8')), 'hex') < '4' THEN 12 ELSE 2 END = 0
""")
