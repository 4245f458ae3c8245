"""Coupons in the admin API: what can be made, changed and seen."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import AdminApi


def a_code() -> str:
    return f"c-{uuid4().hex[:12]}"


async def test_coupon_is_made_found_disabled_and_audited(admin_api: AdminApi) -> None:
    body: dict[str, Any] = {
        "code": a_code(),
        "amount_off": "2.50",
        "currency": "USD",
        "max_redemptions": 3,
        "periods": 2,
    }
    made = await admin_api.post("/coupons", body, status=201)
    assert (made["code"], made["amount_off"], made["redeemed"]) == (body["code"].upper(), "2.50", 0)
    assert (made["plans"], made["packs"], made["once_per_account"]) == (None, None, True)
    changed = await admin_api.call("PATCH", f"/coupons/{made['id']}", json={"is_active": False, "plans": []})
    assert (changed["is_active"], changed["plans"]) == (False, [])
    assert changed == await admin_api.get(f"/coupons/{made['id']}")
    assert changed in await admin_api.pages("/coupons", limit=1)
    assert [each["action"] for each in await admin_api.audit(made["id"])] == ["coupons.create", "coupons.change"]
    assert await admin_api.pages("/coupon-redemptions", limit=5, coupon_id=made["id"]) == []
    await admin_api.call("POST", "/coupons", status=409, json=body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give one of"),
        ({"percent_off": 5, "bonus_credits": 5}, "give one of"),
        ({"amount_off": "1"}, "give amount_off and currency together"),
        ({"amount_off": "1.5", "currency": "JPY"}, "no amount of JPY"),
        ({"amount_off": "0", "currency": "USD"}, "takes nothing off"),
        ({"percent_off": 101}, "less than or equal to 100"),
        ({"percent_off": 5, "plans": ["nothing"]}, "there is no plan nothing"),
        ({"percent_off": 5, "packs": ["nothing"]}, "there is no pack nothing"),
        ({"percent_off": 5, "expires_at": "2020-01-01"}, "in the future"),
        ({"percent_off": 5, "periods": 121}, "periods: Input should be less than or equal to 120"),
        ({"percent_off": 5, "code": "with space"}, "code"),
    ],
)
async def test_coupon_that_makes_no_sense_is_refused(admin_api: AdminApi, body: dict[str, Any], said: str) -> None:
    answer = await admin_api.call("POST", "/coupons", status=422, json={"code": a_code(), **body})
    assert said in answer["detail"]


async def test_what_a_coupon_gives_never_changes(admin_api: AdminApi) -> None:
    made = await admin_api.post("/coupons", {"code": a_code(), "percent_off": 5}, status=201)
    for name in ("percent_off", "code", "periods", "bonus_credits"):
        await admin_api.call("PATCH", f"/coupons/{made['id']}", status=422, json={name: 7})
