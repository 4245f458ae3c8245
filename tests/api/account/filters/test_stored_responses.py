"""What is the same for everybody is made once, and told anew once it changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from gateway.api.account.filters import stored_responses
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.meter.client.errors import MeterUnavailable
from gateway.workers.outbox import OutboxPublisher
from tests.api.account.conftest import AccountApi

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def _offer_plan(account_api: AccountApi) -> str:
    async with account_api.database.transaction() as connection:
        plan = await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(3)))
    await OutboxPublisher(account_api.database, account_api.meter).publish_all()
    return plan.id


async def _offered(account_api: AccountApi) -> set[str]:
    return {plan["id"] for plan in (await account_api.client.get("/plans")).json()["data"]}


async def test_plans_are_read_once_for_each_version_of_the_catalogue(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    list_plans = plans.list_plans

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await list_plans(*arguments)

    monkeypatch.setattr(plans, "list_plans", counted)
    for number in range(1, 4):
        offered = await _offer_plan(account_api)
        for _ in range(5):
            assert offered in await _offered(account_api)
        assert reads == number
    assert (await account_api.client.get("/plans?any=thing")).status_code == 200
    assert reads == 3


async def test_plans_are_read_again_soon_while_nobody_tells_their_version(
    account_api: AccountApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    await _offered(account_api)

    async def unavailable() -> int:
        raise MeterUnavailable("away")

    monkeypatch.setattr(account_api.meter, "catalogue_version", unavailable)
    monkeypatch.setattr(stored_responses, "monotonic_seconds", lambda: now)
    now += 1e9
    before = await _offered(account_api)
    offered = await _offer_plan(account_api)
    assert await _offered(account_api) == before
    now += stored_responses.UNTOLD_SECONDS
    assert offered in await _offered(account_api)


@pytest.mark.parametrize("path", ["/plans", "/openapi.json", "/docs", "/problems", "/problems/not_found"])
async def test_client_that_has_the_response_is_not_sent_it_again(account_api: AccountApi, path: str) -> None:
    first = await account_api.client.get(path)
    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await account_api.client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = await account_api.client.get(path, headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


async def test_stored_page_differs_for_browsers_and_programs(account_api: AccountApi) -> None:
    for _ in range(2):
        page = await account_api.client.get("/problems/not_found", headers=BROWSER)
        document = await account_api.client.get("/problems/not_found")
        assert page.headers["content-type"].startswith("text/html")
        assert document.json()["code"] == "not_found"
        assert page.headers["etag"] != document.headers["etag"]
        assert page.headers["vary"] == document.headers["vary"] == "accept"


async def test_what_is_one_customers_is_never_stored(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    for path in ("/me", "/me/limits", "/me/keys"):
        response = await customer.client.get(path)
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
        assert "etag" not in response.headers
