"""The mapping files of the guide for those who come from other gateways, on databases with these gateways' columns."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from gateway.importing.mapping import parse
from gateway.ledger.db.session import Database
from tests.importing.conftest import NewSource
from tests.importing.importing import balances, differences, owners, run_import

GUIDE = (Path(__file__).parents[2] / "docs/guides/migrate.md").read_text("utf-8")
KEYS = [f"sk-{number}-{'x' * 20}Z{number}Q9" for number in range(4)]

LITELLM = """
CREATE TABLE "LiteLLM_UserTable" (user_id text PRIMARY KEY, user_alias text, user_email text,
    max_budget double precision, spend double precision NOT NULL DEFAULT 0, created_at timestamp DEFAULT now());
CREATE TABLE "LiteLLM_VerificationToken" (token text PRIMARY KEY, key_name text, key_alias text, user_id text,
    team_id text, expires timestamp, blocked boolean, created_at timestamp DEFAULT now());
INSERT INTO "LiteLLM_UserTable" (user_id, user_email, max_budget, spend) VALUES
    ('default_user_id', NULL, NULL, 0), ('ada', 'ada@example.com', 10, 2.5), ('bob', 'bob@example.com', NULL, 7);
"""
KONG = """
CREATE TABLE consumers (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), username text, custom_id text,
    created_at timestamptz DEFAULT now());
CREATE TABLE keyauth_credentials (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), consumer_id uuid, key text UNIQUE,
    created_at timestamptz DEFAULT now());
INSERT INTO consumers (username, custom_id) VALUES ('ada@example.com', 'c-1'), ('billing-batch', 'c-2');
"""
UNKEY_ROOT_KEY = "unkey_root"


class Unkey(BaseHTTPRequestHandler):
    """Lists keys a page at a time, each page by the cursor of the one before."""

    pages: tuple[list[dict[str, Any]], ...] = (
        [
            {
                "keyId": "key_1",
                "start": "sk-0",
                "enabled": True,
                "createdAt": 1_701_425_400_000,
                "plaintext": KEYS[0],
                "name": "laptop",
                "identity": {"id": "id_1", "externalId": "u-1"},
                "credits": {"remaining": 700},
            },
            {"keyId": "key_2", "start": "sk-1", "enabled": True, "createdAt": 1_701_425_400_000},
        ],
        [
            {
                "keyId": "key_3",
                "start": "sk-2",
                "enabled": False,
                "createdAt": 1_701_425_400_000,
                "plaintext": KEYS[2],
                "expires": 4_102_444_800_000,
                "identity": {"id": "id_1", "externalId": "u-1"},
                "credits": {"remaining": 50},
            },
            {
                "keyId": "key_4",
                "start": "sk-3",
                "enabled": True,
                "createdAt": 1_701_425_400_000,
                "identity": {"id": "id_2", "externalId": "u-2"},
            },
        ],
    )

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert (self.path, self.headers["authorization"]) == ("/v2/apis.listKeys", f"Bearer {UNKEY_ROOT_KEY}")
        assert (asked["apiId"], asked["decrypt"]) == ("api_1", True)
        at = int(asked.get("cursor", 0))
        is_last = at + 1 == len(self.pages)
        pagination = {"hasMore": not is_last} | ({} if is_last else {"cursor": str(at + 1)})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": self.pages[at], "pagination": pagination}).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server has
        pass


@pytest.fixture
def unkey_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Unkey) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def source(new_source: NewSource) -> str:
    return await new_source("postgresql")


async def test_customers_of_litellm_keep_their_keys_and_what_is_left_of_their_budgets(
    own_database_url: str, source: str
) -> None:
    connection = await asyncpg.connect(source)
    await connection.execute(LITELLM)
    for owner, key, is_blocked in zip(("ada", "ada", "bob", None), KEYS, (None, False, True, None), strict=True):
        token, shown = sha256(key.encode()).hexdigest(), f"sk-...{key[-4:]}"
        statement = (
            'INSERT INTO "LiteLLM_VerificationToken" (token, key_name, user_id, blocked) VALUES ($1, $2, $3, $4)'
        )
        await connection.execute(statement, token, shown, owner, is_blocked)
    await connection.execute(blocks("sql")[0])
    await connection.close()
    database, mapping = Database(own_database_url), parse(blocks("yaml")[0], name="litellm.yaml")
    for _ in range(2):
        done = await run_import(database, source, mapping)
        assert done.problems == []
    assert await balances(database) == {"ada@example.com": 75_000, "bob@example.com": 0}
    by_key = zip(KEYS, ("ada@example.com", "ada@example.com", "bob@example.com"), strict=False)
    assert await owners(database, KEYS) == dict(by_key)
    async with database.read() as reading:
        statuses = await reading.execute(text("SELECT last4, status FROM api_keys"))
    assert {row.last4: row.status for row in statuses} == {"Z0Q9": "active", "Z1Q9": "active", "Z2Q9": "disabled"}
    assert await differences(database) == []
    await database.close()


async def test_consumers_of_kong_keep_their_keys(own_database_url: str, source: str) -> None:
    connection = await asyncpg.connect(source)
    await connection.execute(KONG)
    for number, key in enumerate(KEYS[:2], 1):
        consumer = await connection.fetchval("SELECT id FROM consumers WHERE custom_id = $1", f"c-{number}")
        await connection.execute("INSERT INTO keyauth_credentials (consumer_id, key) VALUES ($1, $2)", consumer, key)
    await connection.close()
    database, mapping = Database(own_database_url), parse(blocks("yaml")[1], name="kong.yaml")
    done = await run_import(database, source, mapping)
    assert {each.column for each in done.problems} == {"username", "consumer_id"}
    assert await owners(database, KEYS) == {KEYS[0]: "ada@example.com"}
    await database.close()


async def test_recoverable_keys_of_unkey_are_kept_and_the_others_are_named(
    own_database_url: str, unkey_url: str, tmp_path: Path
) -> None:
    (tmp_path / "people.csv").write_text("external_id,email\nu-1,ada@example.com\nu-2,bob@example.com\n")
    script = blocks("python")[0].replace("https://api.unkey.com", unkey_url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"UNKEY_ROOT_KEY": UNKEY_ROOT_KEY, "UNKEY_API_ID": "api_1"},
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    assert printed.decode().split("\n") == [
        "key_2 sk-1... has no externalId",
        "key_4 sk-3... is not recoverable",
        "",
    ]
    database, mapping = Database(own_database_url), parse(blocks("yaml")[2], name="unkey.yaml")
    done = await run_import(database, f"sqlite:///{tmp_path / 'unkey.db'}", mapping)
    assert done.problems == []
    assert await balances(database) == {"ada@example.com": 750, "bob@example.com": 0}
    assert await owners(database, KEYS) == {KEYS[0]: "ada@example.com", KEYS[2]: "ada@example.com"}
    async with database.read() as reading:
        found = (await reading.execute(text("SELECT last4, status, expires_at FROM api_keys"))).all()
    stored = {row.last4: (row.status, row.expires_at and row.expires_at.year) for row in found}
    assert stored == {KEYS[0][-4:]: ("active", None), KEYS[2][-4:]: ("disabled", 2100)}
    assert await differences(database) == []
    await database.close()
