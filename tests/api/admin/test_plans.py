"""Plans and their permissions over the admin API."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway.api.account.billing.plans import shown_plan
from gateway.ledger.catalogue import plans
from gateway.meter.replies import Verdict
from tests.api.conftest import AdminApi


async def test_plan_reads_as_created(admin_api: AdminApi) -> None:
    given = {
        "name": f"Team {uuid4().hex}",
        "price": "49.00",
        "currency": "EUR",
        "credits_per_period": 500,
        "max_concurrent_requests": 4,
        "features": {"analysis": True, "seats": 5, "region": "eu", "off": False},
        "description": "For teams",
    }
    made = await admin_api.post("/plans", given, status=201)
    assert made.items() >= given.items()
    assert made["features"]["analysis"] is True
    assert (
        made.items() >= {"is_active": True, "requests_per_minute": None, "pricing_model": "flat", "tiers": []}.items()
    )
    assert await admin_api.get(f"/plans/{made['id']}") == made
    assert await admin_api.get(f"/plans/{made['name']}") == made
    assert made in (await admin_api.get("/plans"))["data"]


@pytest.mark.parametrize("path", ["/plans", "/permissions", "/prices"])
async def test_catalogue_list_is_paged_where_a_limit_is_given(admin_api: AdminApi, path: str) -> None:
    for _ in range(2):
        await admin_api.post("/plans", {"name": uuid4().hex, "price": "1"}, status=201)
        await admin_api.post("/permissions", {"name": f"p{uuid4().hex}"}, status=201)
    whole = await admin_api.get(path)
    assert whole["next_cursor"] is None
    first = await admin_api.get(path, limit=1)
    assert first["data"] == whole["data"][:1]
    rest = await admin_api.get(path, limit=500, cursor=first["next_cursor"])
    assert (rest["data"], rest["next_cursor"]) == (whole["data"][1:], None)
    await admin_api.call("GET", path, status=422, params={"limit": 0})


async def test_price_stays_exact_as_text_and_as_number(admin_api: AdminApi) -> None:
    for written, shown in (
        ("0.10", "0.10"),
        (100, "100"),
        (9.99, "9.99"),
        ("1E+2", "100"),
        ("1E+13", "10000000000000"),
    ):
        made = await admin_api.post("/plans", {"name": uuid4().hex, "price": written}, status=201)
        assert made["price"] == shown


async def test_postpaid_plan_reads_as_created_and_can_become_prepaid(admin_api: AdminApi) -> None:
    overage = {"credits": 10000, "price": "0.002", "stripe_price_id": None}
    made = await admin_api.post("/plans", {"name": uuid4().hex, "price": "10", "overage": overage}, status=201)
    assert made["overage"] == overage
    changed = await admin_api.call("PATCH", f"/plans/{made['id']}", json={"overage": {"credits": 5, "price": "1"}})
    assert changed["overage"] == {"credits": 5, "price": "1", "stripe_price_id": None}
    assert (await admin_api.call("PATCH", f"/plans/{made['id']}", json={"name": uuid4().hex}))["overage"] == changed[
        "overage"
    ]
    assert (await admin_api.call("PATCH", f"/plans/{made['id']}", json={"overage": None}))["overage"] is None


async def test_tiers_of_usage_have_a_mode(admin_api: AdminApi) -> None:
    tiers = [{"up_to": 100, "unit_price": "0.10"}, {"up_to": None, "unit_price": "0.05"}]
    given = {"name": uuid4().hex, "price": "0", "pricing_model": "usage", "tiers": tiers, "overage": {"credits": 500}}
    assert (await admin_api.post("/plans", given, status=201))["tiers_mode"] is None
    given |= {"name": uuid4().hex, "tiers_mode": "volume"}
    assert (await admin_api.post("/plans", given, status=201))["tiers_mode"] == "volume"


async def test_tiers_stay_in_order(admin_api: AdminApi) -> None:
    tiers = [{"up_to": 100, "unit_price": "0.10"}, {"up_to": None, "unit_price": "0.05", "flat_price": "3"}]
    given = {"name": uuid4().hex, "price": "0", "pricing_model": "tiered", "tiers": tiers}
    made = await admin_api.post("/plans", given, status=201)
    assert [(tier["up_to"], tier["unit_price"], tier["flat_price"]) for tier in made["tiers"]] == [
        (100, "0.10", "0"),
        (None, "0.05", "3"),
    ]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"price": "-1"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"price": "1.00001"}, "price"),
        ({"currency": "usd"}, "currency"),
        ({"billing_interval": "decade"}, "billing_interval"),
        ({"billing_interval_count": 0}, "billing_interval_count"),
        ({"billing_interval_count": 37}, "billing_interval_count"),
        ({"billing_interval": "year", "billing_interval_count": 4}, "billing_interval_count"),
        ({"trial_period_days": 731}, "trial_period_days"),
        ({"currency": "XXQ"}, "currency"),
        ({"overage": {"credits": 5}}, "overage"),
        ({"overage": {"credits": 0, "price": "1"}}, "overage.credits"),
        ({"overage": {"credits": 5, "price": "1"}, "pricing_model": "usage"}, "overage"),
        ({"tiers_mode": "volume"}, "tiers_mode"),
        ({"currency": "JPY", "price": "9.99"}, "price"),
        ({"price": "1.234"}, "price"),
        ({"price": "0", "pricing_model": "volume", "tiers": [{"up_to": 5, "unit_price": "1"}]}, "tiers"),
        ({"pricing_model": "volume", "tiers": [{"unit_price": "1"}]}, "price"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"requests_per_minute": 2**31}, "requests_per_minute"),
        ({"requests_per_minute": True}, "requests_per_minute"),
        ({"credits_per_period": 1.5}, "credits_per_period"),
        ({"is_active": "yes"}, "is_active"),
        ({"version": 7}, "version"),
        ({"id": "Not a word!"}, "id"),
        ({"pricing_model": "tiered"}, "tiers"),
        ({"price": "0", "tiers": [{"unit_price": "1"}]}, "tiers"),
        (
            {"price": "0", "pricing_model": "volume", "tiers": [{"unit_price": "1"}, {"up_to": 5, "unit_price": "1"}]},
            "tiers",
        ),
    ],
)
async def test_bad_field_is_named(admin_api: AdminApi, fields: dict[str, Any], named: str) -> None:
    refused = await admin_api.post("/plans", {"name": uuid4().hex, "price": "1", **fields}, status=422)
    assert [error["field"] for error in refused["errors"]] == [named]


@pytest.mark.parametrize(
    ("model", "tiers", "shown"),
    [
        ("tiered", [{"up_to": 10, "unit_price": "0.10"}, {"unit_price": "0.05"}], "0.1"),
        ("volume", [{"up_to": 10, "unit_price": "2", "flat_price": "3"}, {"unit_price": "1"}], "5"),
        ("usage", [{"up_to": 1000, "unit_price": "0.010"}, {"unit_price": "0.006"}], "0.01"),
    ],
)
async def test_tiers_price_the_plan_and_what_is_shown_of_it(
    admin_api: AdminApi, model: str, tiers: list[dict[str, Any]], shown: str
) -> None:
    given: dict[str, Any] = {"name": uuid4().hex, "price": "0", "pricing_model": model, "tiers": tiers}
    if model == "usage":
        given["overage"] = {"credits": 500}
    made = await admin_api.post("/plans", given, status=201)
    refused = await admin_api.call("PATCH", f"/plans/{made['id']}", json={"price": "5.00"}, status=422)
    assert [error["field"] for error in refused["errors"]] == ["price"]
    async with admin_api.database.read() as connection:
        stored = await plans.get(connection, made["id"])
    assert stored is not None
    assert Decimal(shown_plan(stored, None).price) == Decimal(shown)


async def test_price_beside_tiers_of_an_older_release_stays_until_it_is_changed(admin_api: AdminApi) -> None:
    given = {"name": uuid4().hex, "price": "0", "pricing_model": "tiered", "tiers": [{"unit_price": "0.10"}]}
    made = await admin_api.post("/plans", given, status=201)
    async with admin_api.database.transaction() as connection:
        await connection.execute(text("UPDATE subscription_plans SET price = 5 WHERE id = :id"), {"id": made["id"]})
    await admin_api.call("PATCH", f"/plans/{made['id']}", json={"description": "nicer text"})
    await admin_api.call("PATCH", f"/plans/{made['id']}", json={"price": "6"}, status=422)
    assert (await admin_api.call("PATCH", f"/plans/{made['id']}", json={"price": "0"}))["price"] == "0"


@pytest.mark.parametrize("features", [["analysis"], {"": True}, {"a b": True}, {"a": 1.5}, {"a": None}, {"a": "\0"}])
async def test_features_are_names_with_flags_numbers_or_words(admin_api: AdminApi, features: object) -> None:
    refused = await admin_api.post("/plans", {"name": uuid4().hex, "price": "1", "features": features}, status=422)
    assert all(error["field"].startswith("features") for error in refused["errors"])


_NAME = "must be a name of 1 to 64 letters, digits and ._-, a letter or digit first"
_SETTING = (
    "must be true, false, a whole number from 0 to 2147483647, or text of at most 200 characters without NUL, got "
)


@pytest.mark.parametrize(
    ("features", "field", "message"),
    [
        ({"seats": 1.5}, "features.seats", _SETTING + "1.5"),
        ({"seats": -1}, "features.seats", _SETTING + "-1"),
        ({"seats": None}, "features.seats", _SETTING + "null"),
        ({"seats": [1]}, "features.seats", _SETTING + "a list"),
        ({"seats": {"a": 1}}, "features.seats", _SETTING + "an object"),
        ({"region": "a\0"}, "features.region", _SETTING + '"a\\u0000"'),
        ({"region": "e" * 201}, "features.region", _SETTING + '"' + "e" * 58 + "…"),
        ({"a b": True}, "features.a b", _NAME),
    ],
)
async def test_wrong_feature_is_told_once_in_words_of_json(
    admin_api: AdminApi, a_plan: dict[str, Any], features: object, field: str, message: str
) -> None:
    made = await admin_api.post("/plans", {"name": uuid4().hex, "price": "1", "features": features}, status=422)
    changed = await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json={"features": features}, status=422)
    assert made["errors"] == changed["errors"] == [{"field": field, "message": message}]


async def test_taken_name_or_id_is_a_conflict(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    for taken in ({"name": a_plan["name"]}, {"name": uuid4().hex, "id": a_plan["id"]}):
        refused = await admin_api.post("/plans", {"price": "1", **taken}, status=409)
        assert "Another plan" in refused["detail"]


async def test_references_of_a_plan_must_exist(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    unknown = {"product_id": str(uuid4())}
    created = await admin_api.post("/plans", {"name": uuid4().hex, "price": "1", **unknown}, status=404)
    changed = await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json=unknown, status=404)
    for refused in (created, changed):
        assert f"product {unknown['product_id']}" in refused["detail"]


async def test_permissions_of_a_plan_must_exist(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    body = {"permissions": ["nobody-has-it"]}
    created = await admin_api.post("/plans", {"name": uuid4().hex, "price": "1", **body}, status=422)
    changed = await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json=body, status=422)
    for refused in (created, changed):
        assert [error["field"] for error in refused["errors"]] == ["permissions"]
        assert "nobody-has-it" in refused["errors"][0]["message"]


async def test_changed_plan_is_stale_in_redis_before_the_response(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    known = await admin_api.load_account(user["id"])
    assert (await admin_api.admit(user["id"], known)).verdict is Verdict.ADMITTED
    changed = await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json={"requests_per_minute": 1})
    assert (changed["requests_per_minute"], changed["price"]) == (1, a_plan["price"])
    assert changed["version"] == a_plan["version"] + 1
    assert (await admin_api.admit(user["id"], known)).verdict is Verdict.STALE
    entry = (await admin_api.audit(a_plan["id"]))[-1]
    assert entry["action"] == "plans.change"
    assert (entry["before"]["requests_per_minute"], entry["after"]["requests_per_minute"]) == (60, 1)


async def test_concurrent_changes_of_different_fields_all_hold(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    patches: list[dict[str, Any]] = [
        {"description": "both"},
        {"requests_per_hour": 7},
        {"max_concurrent_requests": 8},
        {"sort_order": 9},
    ]
    calls = [admin_api.call("PATCH", f"/plans/{a_plan['id']}", json=patch) for patch in patches]
    await asyncio.gather(*calls)
    found = await admin_api.get(f"/plans/{a_plan['id']}")
    assert [found[name] for patch in patches for name in patch] == ["both", 7, 8, 9]


async def test_null_limit_is_no_limit_and_a_null_price_no_price(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    path = f"/plans/{a_plan['id']}"
    assert (await admin_api.call("PATCH", path, json={"requests_per_minute": None}))["requests_per_minute"] is None
    await admin_api.call("PATCH", path, json={"price": None}, status=422)
    await admin_api.call("PATCH", path, json={}, status=422)


async def test_plan_without_subscribers_is_deleted(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    await admin_api.call("DELETE", f"/plans/{a_plan['id']}", status=204)
    await admin_api.call("GET", f"/plans/{a_plan['id']}", status=404)
    assert (await admin_api.audit(a_plan["id"]))[-1]["before"]["name"] == a_plan["name"]


async def test_plan_with_subscribers_stays(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    await admin_api.create_user(plan=a_plan["id"])
    refused = await admin_api.call("DELETE", f"/plans/{a_plan['id']}", status=409)
    assert "is_active" in refused["detail"]
    assert await admin_api.get(f"/plans/{a_plan['id']}") == a_plan


async def test_inactive_plan_takes_no_subscribers(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    await admin_api.call("PATCH", f"/plans/{a_plan['id']}", json={"is_active": False})
    user = await admin_api.create_user()
    await admin_api.post("/subscriptions", {"user_id": user["id"], "plan_id": a_plan["id"]}, status=409)
    await admin_api.post("/users", {"email": f"{uuid4().hex}@example.com", "plan": a_plan["id"]}, status=409)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_unknown_plan_is_not_found(admin_api: AdminApi, method: str) -> None:
    for named in ("nope", str(uuid4()), "%00"):
        body: dict[str, Any] = {"json": {"price": "1"}} if method == "PATCH" else {}
        await admin_api.call(method, f"/plans/{named}", status=404, **body)


async def test_permission_is_granted_to_a_plan_and_withdrawn(admin_api: AdminApi, a_plan: dict[str, Any]) -> None:
    name = f"perm-{uuid4().hex}"
    made = await admin_api.post("/permissions", {"name": name, "description": "may"}, status=201)
    assert made in (await admin_api.get("/permissions"))["data"]
    await admin_api.post("/permissions", {"name": name}, status=409)
    path = f"/plans/{a_plan['id']}/permissions/{name}"
    await admin_api.call("PUT", path, status=204)
    await admin_api.call("PUT", path, status=204)
    assert (await admin_api.get(f"/plans/{a_plan['id']}"))["permissions"] == [name]
    await admin_api.call("DELETE", path, status=204)
    assert (await admin_api.get(f"/plans/{a_plan['id']}"))["permissions"] == []
    await admin_api.call("PUT", f"/plans/{a_plan['id']}/permissions/nope", status=404)
    await admin_api.call("PUT", f"/plans/nope/permissions/{name}", status=404)


async def test_subscribers_keep_their_plan_version_until_they_are_migrated(
    admin_api: AdminApi, a_plan: dict[str, Any]
) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    path = f"/plans/{a_plan['id']}"
    changed = await admin_api.call("PATCH", path, json={"credits_per_period": 5, "subscribers": "keep"})
    kept = (await admin_api.get(f"/users/{user['id']}"))["subscription"]
    assert (kept["keeps_version"], kept["plan_version"]) == (True, a_plan["version"])
    newcomer = (await admin_api.create_user(plan=a_plan["id"]))["subscription"]
    assert (newcomer["keeps_version"], newcomer["plan_version"]) == (False, changed["version"])
    assert await admin_api.post(f"{path}/migrate") == {"migrated": 1}
    moved = (await admin_api.get(f"/users/{user['id']}"))["subscription"]
    assert (moved["keeps_version"], moved["plan_version"]) == (False, changed["version"])
    assert await admin_api.post(f"{path}/migrate") == {"migrated": 0}
    await admin_api.post("/plans/nope/migrate", status=404)


async def test_change_for_all_subscribers_migrates_those_on_older_versions(
    admin_api: AdminApi, a_plan: dict[str, Any]
) -> None:
    user = await admin_api.create_user(plan=a_plan["id"])
    path = f"/plans/{a_plan['id']}"
    await admin_api.call("PATCH", path, json={"credits_per_period": 5, "subscribers": "keep"})
    changed = await admin_api.call("PATCH", path, json={"credits_per_period": 6})
    moved = (await admin_api.get(f"/users/{user['id']}"))["subscription"]
    assert (moved["keeps_version"], moved["plan_version"]) == (False, changed["version"])


@pytest.mark.parametrize(
    "fields",
    [
        {"currency": "JPY", "price": "1000"},
        {"currency": "KWD", "price": "1.234"},
        {"pricing_model": "usage", "price": "0.0002"},
        {"billing_interval": "day", "billing_interval_count": 1095, "trial_period_days": 730},
    ],
)
async def test_amounts_that_fit_their_currency_and_the_longest_terms_are_taken(
    admin_api: AdminApi, fields: dict[str, Any]
) -> None:
    made = await admin_api.post("/plans", {"name": uuid4().hex, "price": "1", **fields}, status=201)
    assert {name: made[name] for name in fields} == fields
