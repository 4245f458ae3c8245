"""Verifying a key foretells what a call would be told, and changes nothing."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from policies.access.limits import Limits
from tests.api.conftest import Office, head_of


@pytest.fixture
async def a_key(office: Office) -> dict[str, Any]:
    """Of a user with 5 credits on a plan of 2 calls a minute, one at a time, 3 items a call."""
    given = {
        "name": f"Plan {uuid4().hex}",
        "price": "0",
        "credits_per_period": 5,
        "requests_per_minute": 2,
        "max_concurrent_requests": 1,
        "max_products_per_batch": 3,
        "features": {"ai_generation": True},
    }
    plan = await office.post("/plans", given, status=201)
    user = await office.a_user(plan=plan["id"])
    return await office.a_key(user["id"])


async def verify(office: Office, key: dict[str, Any], **given: Any) -> dict[str, Any]:
    told: dict[str, Any] = await office.post("/keys/verify", {"key": key["key"], **given})
    return told


async def test_a_call_that_would_pass_is_told_its_price_and_what_is_left(office: Office, a_key: dict[str, Any]) -> None:
    for _ in range(3):  # cold, and asking again counts nothing
        told = await verify(office, a_key, route="generate", units=2)
        assert (told["admitted"], told["code"], told["credits"], told["balance"]) == (True, None, 4, 5)
        assert told["price"] == "2 credits per item x 2 items"
        assert (told["key_id"], told["user_id"]) == (a_key["id"], a_key["user_id"])
        assert [(each["name"], each["limit"], each["remaining"]) for each in told["limits"]] == [("minute", 2, 2)]
    assert (await verify(office, a_key, route="chat"))["hold"] == 5
    assert (await verify(office, a_key, route="chat", units=3_001))["credits"] == 4


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"route": "analyze"}, 403, "permission_denied"),
        ({"route": "generate", "units": 1, "body_bytes": 1001}, 413, "payload_too_large"),
        ({"route": "generate", "units": 4}, 422, "batch_too_large"),
        ({"route": "generate", "units": 3}, 402, "insufficient_credits"),
        ({"credits": 6}, 402, "insufficient_credits"),
    ],
)
async def test_the_first_refusal_is_foretold(
    office: Office, a_key: dict[str, Any], given: dict[str, Any], status: int, code: str
) -> None:
    told = await verify(office, a_key, **given)
    assert (told["admitted"], told["status"], told["code"]) == (False, status, code)
    assert told["detail"]


async def test_the_cap_of_the_key_is_minded(office: Office, a_key: dict[str, Any]) -> None:
    assert (await verify(office, a_key, credits=2))["key_credits_left"] is None
    await office.call("PATCH", f"/keys/{a_key['id']}", json={"credit_cap": 1})
    told = await verify(office, a_key, credits=2)
    assert (told["code"], told["balance"], told["key_credits_left"]) == ("insufficient_credits", 5, 1)


async def test_limits_are_those_of_this_moment(office: Office, a_key: dict[str, Any]) -> None:
    known, limits = await office.heat(a_key["user_id"]), Limits((2, None, None), 2)
    for expected in ("too_many_in_flight", "rate_limited"):
        await office.meter.admit(
            office.meter.keys(UUID(a_key["user_id"])),
            request_id=str(uuid4()),
            account_version=known.account_version,
            catalogue_version=known.catalogue_version,
            amount=2,
            required=2,
            limits=limits,
            head=head_of(a_key["user_id"]),
        )
        told = await verify(office, a_key, credits=0)
        assert (told["admitted"], told["code"]) == (False, expected)
    assert (told["balance"], told["in_flight"], told["limits"][0]["remaining"]) == (1, 2, 0)


async def test_a_key_that_is_none_is_told_so_without_a_search(office: Office) -> None:
    for key in ("junk", "gw_live_" + "0" * 36, "gw_live_é"):
        told = await office.post("/keys/verify", {"key": key})
        assert (told["admitted"], told["status"], told["code"]) == (False, 401, "invalid_key")


async def test_a_key_of_no_use_is_told_why(office: Office, a_key: dict[str, Any]) -> None:
    await office.call("PATCH", f"/keys/{a_key['id']}", json={"allowed_ips": ["203.0.113.0/24"]})
    assert (await verify(office, a_key))["admitted"]
    assert (await verify(office, a_key, client_ip="198.51.100.1"))["code"] == "ip_not_allowed"
    assert (await verify(office, a_key, client_ip="203.0.113.9"))["admitted"]
    await office.post(f"/keys/{a_key['id']}/revoke")
    assert (await verify(office, a_key))["code"] == "key_revoked"


async def test_a_route_that_is_not_there_is_named(office: Office, a_key: dict[str, Any]) -> None:
    answer = await office.call("POST", "/keys/verify", status=404, json={"key": a_key["key"], "route": "none"})
    assert answer["detail"] == "There is no route 'none'; there are: analyze, chat, generate."
