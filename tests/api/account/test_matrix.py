"""Over every operation of the account API: a user reaches their own resources, anybody the open ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from gateway.clock import now
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.invoicing import invoices
from gateway.ledger.payments import checkouts, payments
from gateway.ledger.usage import ingestion
from policies.billing.invoicing import Line
from policies.billing.issuing import Issuer
from tests.api.account.conftest import AccountApi, Customer
from tests.ledger.make import a_line

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
STRANGERS = (None, "junk", "admin-token-of-the-tests", "gw_live_" + "0" * 36)
# A body that would do, where an operation needs one; it must not be its body that another's request fails for.
BODIES: dict[str, dict[str, Any]] = {
    "PATCH /me/keys/{key_id}": {"name": "mine now"},
    "POST /subscriptions/{subscription_id}/change": {"plan_id": "free"},
}
# The id is that of a plan, and plans are for everyone.
PUBLIC_OPERATIONS = {"POST /subscriptions/{id}"}

Operation = tuple[str, str, dict[str, Any]]


@dataclass
class Owner:
    """A customer with one of everything, and the ids of it by the names of path parameters."""

    customer: Customer
    ids: dict[str, str]

    async def sees(self, operations: list[Operation]) -> dict[str, str]:
        """All that reading shows them."""
        shown = {}
        for method, path, _ in operations:
            if method == "GET":
                target = path.format(**self.ids)
                response = await self.customer.client.get(target)
                assert response.status_code == 200, (target, response.text)
                shown[path] = "" if path.endswith("/pdf") else response.text
        return shown


async def closed(account_api: AccountApi) -> list[Operation]:
    """The operations that are not for everyone."""
    document = (await account_api.client.get("/openapi.json")).json()
    operations = [
        (m.upper(), path, result) for path, methods in document["paths"].items() for m, result in methods.items()
    ]
    return [each for each in operations if each[2].get("security") and {} not in each[2]["security"]]


@pytest.fixture
async def ada(account_api: AccountApi) -> Owner:
    ada = await account_api.customer()
    key = await ada.post("/me/keys", {"name": "ada's"}, status=201)
    async with account_api.database.transaction() as connection:
        plan = await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(0), credits_per_period=10))
        await grants.grant(connection, ada.id, amount=50, source="promo", reason="hello", actor="test")
        checkout = await checkouts.create(
            connection, ada.id, provider="stripe", pack_id="pack", credits=5, price_id="price", price=Decimal(5)
        )
        line = Line("Ada's own", 1, Decimal(5), Decimal(5))
        invoice = await invoices.issue(connection, ada.id, lines=[line], currency="USD", issuer=Issuer(), now=now())
        await payments.upsert(
            connection,
            "stripe",
            provider_payment_id=uuid4().hex,
            user_id=ada.id,
            transaction_type="credits",
            status="completed",
            amount=Decimal(5),
            currency="USD",
        )
        await ingestion.ingest(connection, [a_line(ada.id, usage_type="analysis", api_key_id=key["id"])])
    begun = await ada.post(f"/subscriptions/{plan.id}", status=201)
    ids = {"key_id": key["id"], "checkout_id": checkout.id, "invoice_id": invoice.id, "subscription_id": begun["id"]}
    ids["id"] = begun["id"]
    ids["session_id"] = next(each["id"] for each in (await ada.get("/me/sessions"))["data"])
    return Owner(ada, {name: str(each) for name, each in ids.items()})


async def test_request_without_credentials_is_unauthorized_everywhere(account_api: AccountApi) -> None:
    """Before anything they sent is looked at."""
    operations = await closed(account_api)
    assert len(operations) > 30
    for method, path, _ in operations:
        # Who leaves may say by the body who they are.
        sent = {UNKNOWN_ID: "{}", "1": "{}" if path == "/auth/logout" else "["}
        for token in STRANGERS:
            headers = {"content-type": "application/json"}
            headers |= {} if token is None else {"authorization": f"Bearer {token}"}
            async with account_api.new_client() as stranger:
                for known, content in sent.items():
                    target = re.sub(r"\{\w+\}", known, path)
                    response = await stranger.request(method, target, content=content, headers=headers)
                    assert response.status_code == 401, (method, target, token, response.text)
                    assert response.headers["www-authenticate"] == "Bearer"


async def test_open_operations_are_those_listed_here(account_api: AccountApi) -> None:
    document = (await account_api.client.get("/openapi.json")).json()
    required = {(method, path) for method, path, _ in await closed(account_api)}
    for path, methods in document["paths"].items():
        for method in methods:
            is_open = (method.upper(), path) not in required
            assert not is_open or path.startswith(("/auth/", "/webhooks/")) or path == "/plans", path


async def test_resource_of_another_user_is_not_found(account_api: AccountApi, ada: Owner) -> None:
    bob = await account_api.customer()
    operations = await closed(account_api)
    before = await ada.sees(operations)
    reached = set()
    for method, path, _ in operations:
        names = set(re.findall(r"\{(\w+)\}", path)) if f"{method} {path}" not in PUBLIC_OPERATIONS else set()
        assert names <= ada.ids.keys(), f"nobody owns a {names} in this test"
        for known in [*ada.ids.values(), str(ada.customer.id), UNKNOWN_ID] if names else []:
            target = re.sub(r"\{\w+\}", known, path)
            body = BODIES.get(f"{method} {path}")
            response = await bob.client.request(method, target, json=body)
            assert (response.status_code, response.json()["code"]) == (404, "not_found"), (
                method,
                target,
                response.text,
            )
            reached |= names
    assert reached == ada.ids.keys()
    assert await ada.sees(operations) == before


async def test_list_shows_nothing_of_another_user(account_api: AccountApi, ada: Owner) -> None:
    bob = await account_api.customer()
    theirs = [*ada.ids.values(), str(ada.customer.id), ada.customer.email, "Ada's own"]
    listed = 0
    for method, path, _ in await closed(account_api):
        if method == "GET" and "{" not in path:
            shown = (await bob.client.get(path)).text
            assert not [each for each in theirs if each in shown], path
            listed += '"data":[]' in shown
    assert listed >= 6
    await bob.post("/me/quote", {"route": "generate", "key_id": ada.ids["key_id"]}, status=404)


async def test_api_key_reads_its_own_usage_and_limits_only(account_api: AccountApi, ada: Owner) -> None:
    key = (await ada.customer.post("/me/keys", status=201, body={}))["key"]
    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
        async with account_api.new_client() as program:
            for method, path, result in await closed(account_api):
                target = path.format(**ada.ids)
                response = await program.request(
                    method, target, json=BODIES.get(f"{method} {path}", {}), headers=headers
                )
                takes_key = {"api_key": []} in result["security"]
                assert response.status_code == (200 if takes_key else 401), (method, path, response.text)
