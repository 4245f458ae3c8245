"""Key verification gives the verdict of a call, and changes nothing."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from policies.access.limits import Limits
from tests.api.conftest import AdminApi, prefix_of_user


@pytest.fixture
async def key(admin_api: AdminApi) -> dict[str, Any]:
    """Of a user with 5 credits on a plan of 2 calls a minute, one at a time, 3 items a call."""
    body = {
        "name": f"Plan {uuid4().hex}",
        "price": "0",
        "credits_per_period": 5,
        "requests_per_minute": 2,
        "max_concurrent_requests": 1,
        "max_products_per_batch": 3,
        "features": {"ai_generation": True},
    }
    plan = await admin_api.post("/plans", body, status=201)
    user = await admin_api.create_user(plan=plan["id"])
    return await admin_api.create_key(user["id"])


async def verify(admin_api: AdminApi, key: dict[str, Any], **body: Any) -> dict[str, Any]:
    result: dict[str, Any] = await admin_api.post("/keys/verify", {"key": key["key"], **body})
    return result


async def test_verification_of_an_admitted_call_gives_price_and_balance(
    admin_api: AdminApi, key: dict[str, Any]
) -> None:
    for _ in range(3):  # cold, and asking again counts nothing
        result = await verify(admin_api, key, route="generate", units=2)
        assert (result["admitted"], result["code"], result["credits"], result["balance"]) == (True, None, 4, 5)
        assert result["price"] == "2 credits per item x 2 items"
        assert result["credits_shown_as"] == {"currency": "USD", "amount": "0.000040"}
        assert (result["key_id"], result["user_id"]) == (key["id"], key["user_id"])
        assert [(each["name"], each["limit"], each["remaining"]) for each in result["limits"]] == [("minute", 2, 2)]
    assert (await verify(admin_api, key, route="chat"))["hold"] == 5
    assert (await verify(admin_api, key, route="chat", units=3_001))["credits"] == 4


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"route": "analyze"}, 403, "permission_denied"),
        ({"route": "generate", "units": 1, "body_bytes": 1001}, 413, "payload_too_large"),
        ({"route": "generate", "units": 4}, 422, "batch_too_large"),
        ({"route": "generate", "units": 3}, 402, "insufficient_credits"),
        ({"credits": 6}, 402, "insufficient_credits"),
    ],
)
async def test_verification_gives_the_first_refusal(
    admin_api: AdminApi, key: dict[str, Any], body: dict[str, Any], status: int, code: str
) -> None:
    result = await verify(admin_api, key, **body)
    assert (result["admitted"], result["status"], result["code"]) == (False, status, code)
    assert result["detail"]


async def test_verification_respects_the_credit_cap_of_the_key(admin_api: AdminApi, key: dict[str, Any]) -> None:
    assert (await verify(admin_api, key, credits=2))["key_credits_left"] is None
    await admin_api.call("PATCH", f"/keys/{key['id']}", json={"credit_cap": 1})
    result = await verify(admin_api, key, credits=2)
    assert (result["code"], result["balance"], result["key_credits_left"]) == ("insufficient_credits", 5, 1)


async def test_verification_gives_limits_of_this_moment(admin_api: AdminApi, key: dict[str, Any]) -> None:
    known, limits = await admin_api.load_account(key["user_id"]), Limits((2, None, None), 2)
    for expected in ("too_many_in_flight", "rate_limited"):
        await admin_api.meter.admit(
            admin_api.meter.keys(UUID(key["user_id"])),
            request_id=str(uuid4()),
            account_version=known.account_version,
            catalogue_version=known.catalogue_version,
            amount=2,
            required=2,
            limits=limits,
            prefix=prefix_of_user(key["user_id"]),
        )
        result = await verify(admin_api, key, credits=0)
        assert (result["admitted"], result["code"]) == (False, expected)
    assert (result["balance"], result["in_flight"], result["limits"][0]["remaining"]) == (1, 2, 0)


async def test_verification_of_a_malformed_key_needs_no_search(admin_api: AdminApi) -> None:
    for key in ("junk", "gw_live_" + "0" * 36, "gw_live_é"):
        result = await admin_api.post("/keys/verify", {"key": key})
        assert (result["admitted"], result["status"], result["code"]) == (False, 401, "invalid_key")


async def test_verification_of_an_unusable_key_says_why(admin_api: AdminApi, key: dict[str, Any]) -> None:
    await admin_api.call("PATCH", f"/keys/{key['id']}", json={"allowed_ips": ["203.0.113.0/24"]})
    assert (await verify(admin_api, key))["admitted"]
    assert (await verify(admin_api, key, client_ip="198.51.100.1"))["code"] == "ip_not_allowed"
    assert (await verify(admin_api, key, client_ip="203.0.113.9"))["admitted"]
    await admin_api.post(f"/keys/{key['id']}/revoke")
    assert (await verify(admin_api, key))["code"] == "key_revoked"


async def test_verification_names_an_unknown_route(admin_api: AdminApi, key: dict[str, Any]) -> None:
    response = await admin_api.call("POST", "/keys/verify", status=404, json={"key": key["key"], "route": "none"})
    assert response["detail"] == "There is no route 'none'; there are: analyze, chat, generate."
