"""Of all that the account API publishes, a customer reaches what is theirs, a stranger what is open, and no more."""

from __future__ import annotations

import re
from typing import Any

from tests.api.account.conftest import Shop

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(m.upper(), path, told) for path, methods in document["paths"].items() for m, told in methods.items()]


async def test_what_is_not_open_is_closed_to_strangers_and_administrators(shop: Shop) -> None:
    document = (await shop.client.get("/openapi.json")).json()
    closed = 0
    for method, path, told in operations(document):
        if not told.get("security"):
            assert path.startswith(("/auth/", "/plans", "/webhooks/")), path
            continue
        closed += 1
        for token in (None, "junk", "admin-token-of-the-tests", "gw_live_" + "0" * 36):
            async with shop.from_elsewhere() as stranger:
                headers = {} if token is None else {"authorization": f"Bearer {token}"}
                target = re.sub(r"\{\w+\}", UNKNOWN_ID, path)
                answer = await stranger.request(method, target, json={}, headers=headers)
            # Where the body alone may say who asks, it is read first, and says nothing here.
            assert answer.status_code in (401, 422), (method, path, token, answer.text)
    assert closed > 10


async def test_what_belongs_to_another_is_not_there(shop: Shop) -> None:
    ada, bob = await shop.customer(), await shop.customer()
    key = await ada.post("/me/keys", {"name": "ada's"}, status=201)
    document = (await shop.client.get("/openapi.json")).json()
    tried = 0
    for method, path, told in operations(document):
        if not told.get("security") or "{" not in path:
            continue
        for target in (UNKNOWN_ID, key["id"], str(ada.id)):
            answer = await bob.client.request(method, re.sub(r"\{\w+\}", target, path), json={})
            # What is asked about an id is not said before the id is found.
            assert answer.status_code in (404, 422), (method, path, answer.text)
            tried += 1
    assert tried
    (kept,) = (await ada.get("/me/keys"))["data"]
    assert (kept["id"], kept["status"], kept["name"]) == (key["id"], "active", "ada's")
    for path in ("/me/keys", "/me/usage", "/me/history", "/me/ledger", "/me/payments", "/me/invoices"):
        assert (await bob.get(path))["data"] == []
