"""A form that makes or spends something does so once, however often a browser sends it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
from sqlalchemy import text

from gateway.ledger.accounts import api_keys
from gateway.ledger.accounts.api_keys import ApiKey
from tests.ledger.make import a_key
from tests.web.portal.visitors import PortalStack, Visitor, build_stack, form_token


async def test_rotation_that_is_sent_three_times_at_once_makes_one_key(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert customer.user_id is not None
    async with stack.account.database.transaction() as connection:
        key = await a_key(connection, customer.user_id)
    path = f"/keys/{key.id}/rotate"
    form = await shown(customer, path, grace_seconds="3600")
    sent = await asyncio.gather(*(send(customer, path, form) for _ in range(3)))
    assert [response.status_code for response in sent] == [201] * 3
    assert len({secret_in(response.text) for response in sent}) == 1, "whichever of them the browser shows"
    assert len(await keys_of(stack, customer)) == 2
    await customer.get("/keys")


async def test_new_key_of_a_page_that_is_reloaded_is_shown_again(stack: PortalStack) -> None:
    customer = await stack.customer()
    form = await shown(customer, "/keys/new", name="production")
    first, again = [await send(customer, "/keys/new", form) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert secret_in(first.text) == secret_in(again.text)
    assert again.text == first.text
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert again.headers["cache-control"] == "no-store"
    assert len(await keys_of(stack, customer)) == 1
    async with stack.account.database.read() as connection:
        bodies = (await connection.execute(text("SELECT body FROM idempotent_requests"))).scalars().all()
    assert not any(secret_in(first.text).encode() in bytes(body or b"") for body in bodies)


async def test_form_that_was_refused_is_free_to_be_sent_again(stack: PortalStack) -> None:
    customer = await stack.customer()
    form = await shown(customer, "/keys/new", name="a", credit_cap="x")
    assert (await send(customer, "/keys/new", form)).status_code == 422
    assert (await send(customer, "/keys/new", form | {"credit_cap": "5"})).status_code == 201


async def test_form_with_other_values_is_another_and_is_refused(stack: PortalStack) -> None:
    customer = await stack.customer()
    form = await shown(customer, "/keys/new", name="a")
    assert (await send(customer, "/keys/new", form)).status_code == 201
    refused = await send(customer, "/keys/new", form | {"name": "b"})
    assert refused.status_code == 409
    assert "with other values" in refused.text
    assert len(await keys_of(stack, customer)) == 1


async def test_forms_of_two_customers_are_apart(stack: PortalStack) -> None:
    ada, bob = await stack.customer(), await stack.customer()
    for customer in (ada, bob):
        form = await shown(customer, "/keys/new", name="a") | {"once": "same"}
        assert (await send(customer, "/keys/new", form)).status_code == 201
        assert len(await keys_of(stack, customer)) == 1


async def test_test_call_that_is_sent_again_is_not_made_again(stack: PortalStack) -> None:
    calls: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(402, json={"code": "insufficient_credits"})

    async with httpx.AsyncClient(base_url="http://gateway.test", transport=httpx.MockTransport(answer)) as client:
        calling = build_stack(stack.account, client)
        customer = await calling.customer()
        form = await shown(customer, "/first-call")
        assert (await send(customer, "/first-call", form)).status_code == 200
        again = await send(customer, "/first-call", form)
        assert (again.status_code, again.headers["location"]) == (303, "/portal/usage")
        assert "not again" in await customer.get("/usage")
        assert len(calls) == 1
        next_form = await shown(customer, "/first-call")
        assert (await send(customer, "/first-call", next_form)).status_code == 200
        assert len(calls) == 2


async def shown(customer: Visitor, path: str, **fields: Any) -> dict[str, Any]:
    """The fields of the form of a page."""
    page = await customer.get(path)
    found = re.search(r'name="once" value="([0-9a-f]+)"', page)
    assert found is not None
    return {"form_token": form_token(page), "once": found[1], **fields}


async def send(customer: Visitor, path: str, form: dict[str, Any]) -> httpx.Response:
    return await customer.client.post(f"/portal{path}", data=form)


async def keys_of(stack: PortalStack, customer: Visitor) -> list[ApiKey]:
    assert customer.user_id is not None
    async with stack.account.database.read() as connection:
        return list((await api_keys.list_keys(connection, user_id=customer.user_id, limit=10)).data)


def secret_in(page: str) -> str:
    found = re.search(r'id="secret">([^<]+)<', page)
    assert found is not None, page
    return found[1]
