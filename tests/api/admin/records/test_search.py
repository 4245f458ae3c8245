"""Search: an account, key, call or document by whatever is at hand, and each from an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.accounts import search
from gateway.ledger.db.session import Database
from gateway.ledger.usage import ingestion
from tests.api.conftest import AdminApi
from tests.ledger.make import NOON, a_line

CALL = "019cf0d2-0c00-7000-8000-0000000000{:02x}"


async def found(admin_api: AdminApi, wanted: str, **params: Any) -> list[tuple[str, str]]:
    """(kind, id) of each hit."""
    page = await admin_api.get("/search", q=wanted, **params)
    assert page["next_cursor"] is None
    return [(hit["kind"], hit["id"]) for hit in page["data"]]


@pytest.mark.parametrize("clue", ["{word}", "{word}.smith", "SMITH-{word}", "x{word}", "{word} smith", "ltd{word}"])
async def test_search_finds_an_account_by_words_of_it(admin_api: AdminApi, clue: str) -> None:
    word = f"w{uuid4().hex[:10]}"
    email = f"{word}.smith@x{word}.example"
    user = await admin_api.create_user(email=email, name=f"Smith-{word}", company=f"Ltd{word}")
    assert ("account", user["id"]) in await found(admin_api, clue.format(word=word))


async def test_search_finds_exact_clues_first(admin_api: AdminApi) -> None:
    word = f"e{uuid4().hex[:10]}"
    exact = await admin_api.create_user(email=f"{word}@example.com")
    await admin_api.create_user(email=f"{word}@example.com.example", name="later")
    assert (await found(admin_api, f"{word.upper()}@example.com"))[0] == ("account", exact["id"])


async def test_search_finds_an_account_by_external_id(admin_api: AdminApi) -> None:
    external_id = f"crm/{uuid4().hex}"
    user = await admin_api.create_user(external_id=external_id)
    assert await found(admin_api, external_id) == [("account", user["id"])]


async def test_search_finds_a_key_by_what_is_shown_of_it(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    for clue in (key["prefix"], key["prefix"][:-1], key["last4"], key["id"], key["key"]):
        assert ("key", key["id"]) in await found(admin_api, clue, limit=50), clue


async def test_search_shows_no_secret_and_no_wildcards(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    key = await admin_api.create_key(user["id"])
    page = await admin_api.get("/search", q=key["key"])
    assert key["key"] not in json.dumps(page)
    assert await found(admin_api, "gw_%") == []
    assert await found(admin_api, "__________") == []


async def test_search_finds_a_call_by_its_request_id(admin_api: AdminApi, ledger: Database) -> None:
    user = await admin_api.create_user()
    request_id = f"{int(NOON.timestamp() * 1000):012x}"
    request_id = f"{request_id[:8]}-{request_id[8:]}-7000-8000-{uuid4().hex[:12]}"
    async with ledger.transaction() as connection:
        await ingestion.ingest(connection, [a_line(user["id"], request_id=request_id)])
    assert await found(admin_api, request_id) == [("call", request_id)]
    call = await admin_api.get(f"/usage/{request_id}")
    assert (call["credits_charged"], call["computed"]) == (1, "1 credit per call")
    assert [line["kind"] for line in call["lines"]] == ["call"]
    await admin_api.call("GET", f"/usage/{uuid4()}", status=404)


async def test_search_forgets_a_deleted_account(admin_api: AdminApi) -> None:
    word = f"d{uuid4().hex[:10]}"
    user = await admin_api.create_user(name=word)
    key = await admin_api.create_key(user["id"])
    plan = await admin_api.post("/plans", {"name": word, "price": "0"}, status=201)
    wanted = {"user_id": user["id"], "plan_id": plan["id"]}
    subscription = await admin_api.post("/subscriptions", wanted, status=201)
    await admin_api.call("DELETE", f"/users/{user['id']}", status=204)
    for clue in (word, user["id"], key["id"], key["key"], key["prefix"], subscription["id"]):
        assert await found(admin_api, clue) == [], clue
    assert ("key", key["id"]) not in await found(admin_api, key["last4"], limit=50)


@pytest.mark.parametrize("clue", ["x", "", "a" * 2000, "a\nb"])
async def test_search_refuses_what_is_no_clue(admin_api: AdminApi, clue: str) -> None:
    response = await admin_api.client.get("/admin/v1/search", params={"q": clue})
    assert response.status_code in (400, 422)


@pytest.mark.parametrize("clue", ["' OR 1=1 --", "!!", "a & b | !c", "(((", ":*:*", "\\\\", "%%%", "日本語", "0" * 40])
async def test_search_takes_any_text(admin_api: AdminApi, clue: str) -> None:
    assert isinstance(await found(admin_api, clue), list)


async def test_search_reads_no_table_whole(ledger: Database) -> None:
    """With sequential scans made dear, a plan that still has one has no index to use."""
    async with ledger.read() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for clue in (str(uuid4()), CALL.format(7), "gw_live_x", "abcd", "holt daughters", "17"):
            for _, statement, values in search._clues(clue):
                explained = await connection.execute(
                    text(f"EXPLAIN (FORMAT JSON) {statement.text}"), {**values, "limit": 10}
                )
                assert "Seq Scan" not in json.dumps(explained.scalar_one()), (clue, statement.text)


@pytest.mark.parametrize("far", ["ffffffff-ffff-7fff-bfff-ffffffffffff", "e677d21f-dbff-7fff-bfff-ffffffffffff"])
async def test_call_of_an_id_beyond_the_calendar_is_not_found(admin_api: AdminApi, far: str) -> None:
    await admin_api.call("GET", f"/usage/{far}", status=404)
    assert await found(admin_api, far) == []


@pytest.mark.parametrize("spell", [str, str.upper, lambda written: written.replace("-", "")])
async def test_search_finds_an_external_id_that_is_a_uuid(admin_api: AdminApi, spell: Callable[[str], str]) -> None:
    external_id = spell(str(uuid4()))
    user = await admin_api.create_user(external_id=external_id)
    assert ("account", user["id"]) in await found(admin_api, external_id)
