"""A plan says what one of its calls is charged at most: whatever is reported stops there, marked and counted."""

from __future__ import annotations

import json

import pytest
from prometheus_client import REGISTRY

from tests.proxy.data_plane import DataPlane
from tests.proxy.metering.openai_bodies import chat
from tests.proxy.metering.wire import compact
from tests.proxy.problems import assert_problem

CEILING = 40
MOST = 10**12 - 1  # that is believed of a report


def cut(endpoint: str, maximum: str) -> float:
    labels = {"endpoint": endpoint, "maximum": maximum}
    return REGISTRY.get_sample_value("gateway_charges_cut_total", labels) or 0


def json_answer(document: object) -> tuple[bytes, dict[str, str]]:
    return compact(document).encode(), {"content_type": "application/json"}


REPORTED_TOKENS = json_answer({"usage": {"total_tokens": MOST}})
REPORTED_BY_CLASS = json_answer(chat("x", usage={"prompt_tokens": MOST - 1, "completion_tokens": 1}))
REPORTED_CREDITS = b"{}", {"gateway_credits": str(MOST)}
MODEL = json.dumps({"model": "gpt-4o", "max_tokens": 1, "messages": []}).encode()


@pytest.mark.parametrize(
    ("endpoint", "path", "content", "answer"),
    [
        ("chat", "/v1/chat", b"{}", REPORTED_TOKENS),
        ("openai", "/v1/chat/completions", MODEL, REPORTED_BY_CLASS),
        ("things", "/v1/things/1", b"{}", REPORTED_CREDITS),
        ("chat", "/v1/chat", b"{}", REPORTED_CREDITS),
        ("generate", "/v1/generate", json.dumps({"products": CEILING + 1}).encode(), json_answer({})),
    ],
)
async def test_charge_beyond_what_the_plan_lets_a_call_cost_is_cut(
    data_plane: DataPlane, endpoint: str, path: str, content: bytes, answer: tuple[bytes, dict[str, str]]
) -> None:
    account = await data_plane.create_account(credits=100, max_credits_per_call=CEILING)
    body, fields = answer
    data_plane.upstream.respond_with(200, body, **fields)
    before = cut(endpoint, "plan")
    response = await data_plane.post(account, path, content)
    assert response.status_code == 200
    assert response.headers.get("x-credits-charged", str(CEILING)) == str(CEILING)
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"]) == ("succeeded", CEILING)
    assert row["metadata"]["flags"][-1] == "plan_maximum_reached"
    assert cut(endpoint, "plan") == before + 1
    assert (await data_plane.settled_state(account)).balance == await data_plane.stored_balance(account) == 60


async def test_call_below_its_ceiling_is_charged_its_price(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=100, max_credits_per_call=7)
    response = await data_plane.post(account, "/v1/dear")
    assert response.headers["x-credits-charged"] == "7"
    row = await data_plane.usage_row(account)
    assert (row["credits_charged"], row["metadata"].get("flags")) == (7, None)


async def test_call_holds_and_needs_no_more_than_its_ceiling(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=CEILING, max_credits_per_call=CEILING)
    content = json.dumps({"products": 900}).encode()
    assert (await data_plane.post(account, "/v1/generate", content)).status_code == 200
    answer = await data_plane.post(account, "/v1/generate", content)
    assert_problem(answer, 402, "insufficient_credits", required=CEILING, available=0)


async def test_ceiling_of_a_plan_changes_with_the_next_call(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=100)
    for ceiling, balance in ((None, 93), (3, 90), (5, 85)):
        await data_plane.change_plan(account, max_credits_per_call=ceiling)
        await data_plane.publish()
        assert (await data_plane.post(account, "/v1/dear")).status_code == 200
        assert (await data_plane.settled_state(account)).balance == balance


async def test_charge_that_the_price_cuts_is_counted(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    body, fields = REPORTED_BY_CLASS
    data_plane.upstream.respond_with(200, body, **fields)
    before = cut("openai", "price")
    await data_plane.post(account, "/v1/chat/completions", MODEL)
    assert (await data_plane.usage_row(account))["credits_charged"] == 5000
    assert cut("openai", "price") == before + 1


@pytest.mark.parametrize(("products", "charged", "flags"), [(40, 40, None), (41, 40, ["maximum_reached"])])
async def test_charge_that_the_price_cuts_by_the_request_is_flagged_and_counted(
    data_plane: DataPlane, products: int, charged: int, flags: list[str] | None
) -> None:
    account = await data_plane.create_account(credits=100)
    before = cut("batch", "price")
    response = await data_plane.post(account, "/v1/batch", json.dumps({"products": products}).encode())
    assert response.headers["x-credits-charged"] == str(charged)
    assert (await data_plane.usage_row(account))["metadata"].get("flags") == flags
    assert cut("batch", "price") == before + (flags is not None)


async def test_charge_of_any_price_fits_the_books(data_plane: DataPlane) -> None:
    """A price of a thousand credits a token, and all tokens that are believed."""
    account = await data_plane.create_account(credits=2000)
    body, fields = REPORTED_TOKENS
    data_plane.upstream.respond_with(200, body, **fields)
    for _ in range(2):
        await data_plane.grant_credits(account, 10**12)
        await data_plane.publish()
        assert (await data_plane.post(account, "/v1/dear-tokens")).status_code == 200
        state = await data_plane.settled_state(account)
        assert state.balance == await data_plane.stored_balance(account) == 2000
    rows = await data_plane.usage_rows(account)
    assert [(row["credits_charged"], row["metadata"]["flags"]) for row in rows] == [(10**12, ["maximum_reached"])] * 2
