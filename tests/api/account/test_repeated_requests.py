"""A POST that a customer repeats under its Idempotency-Key changes nothing and gets the first response."""

from __future__ import annotations

from uuid import uuid4

import httpx
from sqlalchemy import text

from tests.api.account.conftest import PASSWORD, AccountApi, Customer


async def post(
    client: httpx.AsyncClient, path: str, body: object = None, *, key: str, status: int = 201
) -> httpx.Response:
    answer = await client.post(path, json=body, headers={"idempotency-key": key})
    assert answer.status_code == status, answer.text
    return answer


async def test_repeated_request_for_a_key_gets_the_same_one(account_api: AccountApi) -> None:
    customer, key = await account_api.customer(), uuid4().hex
    first = await post(customer.client, "/me/keys", {"name": "one"}, key=key)
    again = await post(customer.client, "/me/keys", {"name": "one"}, key=key)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len((await customer.client.get("/me/keys")).json()["data"]) == 1
    other = await post(customer.client, "/me/keys", {"name": "two"}, key=key, status=422)
    assert other.json()["code"] == "idempotency_key_reused"
    async with account_api.database.read() as connection:
        rows = await connection.scalars(text("SELECT encode(body, 'escape') FROM idempotent_requests"))
        assert not any(first.json()["key"] in (row or "") for row in rows)


async def test_keys_of_two_customers_are_separate(account_api: AccountApi) -> None:
    key = uuid4().hex
    found = [await post((await account_api.customer()).client, "/me/keys", {"name": "x"}, key=key) for _ in range(2)]
    assert found[0].json()["key"] != found[1].json()["key"]


async def test_refused_request_leaves_its_key_free(account_api: AccountApi) -> None:
    customer, key = await account_api.customer(), uuid4().hex
    await post(customer.client, "/me/keys", {"name": 5}, key=key, status=422)
    await post(customer.client, "/subscriptions/no-such-plan", key=key, status=404)
    await post(customer.client, "/me/keys", {"name": "one"}, key=key)


async def test_requests_of_nobody_take_no_key(account_api: AccountApi) -> None:
    """Whose would it be?"""
    headers = {"idempotency-key": uuid4().hex}
    for password in ("first of two", "second of two"):
        body = {"email": f"{uuid4().hex}@example.com", "password": f"{password} passwords"}
        answer = await account_api.new_client().post("/auth/register", json=body, headers=headers)
        assert answer.status_code == 202 or answer.status_code == 201, answer.text
        assert "idempotency-replayed" not in answer.headers


async def test_head_answers_as_get_without_the_body(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    for client, path, status in (
        (account_api.client, "/problems", 200),
        (customer.client, "/me", 200),
        (account_api.client, "/me", 401),
    ):
        head = await client.head(path)
        assert (head.status_code, head.content) == (status, b"")


async def test_what_is_stored_of_a_customer_goes_with_the_account(account_api: AccountApi) -> None:
    customer = await account_api.customer()
    await post(customer.client, "/me/keys", {"name": "one"}, key=uuid4().hex)
    assert await stored(account_api, customer) == 1
    await customer.call("DELETE", "/me", status=204, json={"password": PASSWORD})
    assert await stored(account_api, customer) == 0


async def stored(account_api: AccountApi, customer: Customer) -> int:
    query = text("SELECT count(*) FROM idempotent_requests WHERE caller = :caller")
    async with account_api.database.read() as connection:
        return int((await connection.execute(query, {"caller": f"user:{customer.id}"})).scalar_one())
