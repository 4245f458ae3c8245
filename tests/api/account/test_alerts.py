"""Customers choose when they are told that credits run low."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.account.conftest import AccountApi


async def test_alerts_are_the_usual_ones_until_they_are_chosen(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    assert await customer.get("/me/alerts") == {"percents": [80, 100], "balance_below": None}
    chosen = await customer.call("PATCH", "/me/alerts", json={"percents": [90, 50, 90], "balance_below": 500})
    assert chosen == {"percents": [50, 90], "balance_below": 500}
    assert await customer.call("PATCH", "/me/alerts", json={"percents": []}) == {"percents": [], "balance_below": 500}
    assert await customer.call("PATCH", "/me/alerts", json={"balance_below": None}) == {
        "percents": [],
        "balance_below": None,
    }
    assert await customer.get("/me/alerts") == {"percents": [], "balance_below": None}
    assert (await account_api.audited(customer.id)) == ["account.alerts"] * 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"percents": [0]}, "percents.0"),
        ({"percents": [101]}, "percents.0"),
        ({"percents": [1, 2, 3, 4, 5, 6]}, "percents"),
        ({"percents": ["80"]}, "percents.0"),
        ({"balance_below": 0}, "balance_below"),
        ({"balance_below": True}, "balance_below"),
        ({"balance_below": 10**12 + 1}, "balance_below"),
    ],
)
async def test_alerts_that_can_never_come_are_refused(account_api: AccountApi, body: Any, field: str) -> None:
    customer = await account_api.customer()
    refused = await customer.call("PATCH", "/me/alerts", json=body, status=422)
    assert [each["field"] for each in refused["errors"]] == [field]
