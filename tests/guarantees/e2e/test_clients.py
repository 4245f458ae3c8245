"""The responses that real clients get from a running gateway, and the rows in PostgreSQL afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import openai
import pytest
from openai.types import CompletionUsage

from tests.guarantees.demo import Running

ROW_SECONDS = 10
# Quoted in the answer, whose events then take a third of a second: longer than a client is held up by its machine.
STORY = (
    "Tell me a story of some length, please: of a gateway between a patient sea and an impatient town, and of who was"
    " let through it in winter, when, by whom and why."
)


async def row_of(demo: Running, table: str, client_request_id: str) -> Mapping[str, Any]:
    """The record of a call, once the usage writer has written it."""
    connection = await asyncpg.connect(demo.database_url)
    query = f"""
        SELECT t.* FROM {table} t JOIN usage_tracking u USING (request_id) WHERE u.client_request_id = $1
    """  # noqa: S608 - the tests' own table names
    try:
        deadline = time.monotonic() + ROW_SECONDS
        while not (rows := await connection.fetch(query, client_request_id)):
            assert time.monotonic() < deadline, f"no row in {table}"
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    assert len(rows) == 1
    return dict(rows[0])


def price_of(usage: CompletionUsage) -> int:
    """By the prices of the model `demo`, 250 and 2000 credits for a million tokens."""
    return -(-(250 * usage.prompt_tokens + 2000 * usage.completion_tokens) // 1_000_000)


async def test_openai_client_completes_a_chat_charged_by_tokens(demo: Running) -> None:
    request_id = uuid4().hex
    async with openai.AsyncOpenAI(base_url=f"{demo.public_url}/v1", api_key=demo.api_key) as client:
        completion = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Say hello."}],
            extra_headers={"X-Request-Id": request_id},
        )
    row = await row_of(demo, "usage_tracking", request_id)

    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert row["tokens_used"] == completion.usage.total_tokens
    assert row["credits_charged"] == price_of(completion.usage)
    assert row["outcome"] == "succeeded"


async def test_streamed_chat_arrives_before_the_upstream_ends(demo: Running) -> None:
    request_id = uuid4().hex
    arrivals = []
    async with openai.AsyncOpenAI(base_url=f"{demo.public_url}/v1", api_key=demo.api_key) as client:
        stream = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": STORY}],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Request-Id": request_id},
        )
        usage = None
        async for event in stream:
            arrivals.append(time.monotonic())
            usage = event.usage or usage
    row = await row_of(demo, "usage_tracking", request_id)

    assert usage is not None
    assert len(arrivals) > 5
    assert arrivals[0] < arrivals[-1] - 0.02, "all events came at once"
    assert row["tokens_used"] == usage.total_tokens
    assert row["credits_charged"] == price_of(usage)


async def test_streamed_chat_whose_client_asks_no_usage_is_charged_the_same(demo: Running) -> None:
    request_id = uuid4().hex
    async with openai.AsyncOpenAI(base_url=f"{demo.public_url}/v1", api_key=demo.api_key) as client:
        asked: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Say hello."}]}
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True, extra_headers={"X-Request-Id": request_id})
        events = [event async for event in stream]
    row = await row_of(demo, "usage_tracking", request_id)

    assert all(event.choices for event in events), "the gateway asked for the usage, so its event is not the client's"
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole.choices[0].message.content
    assert row["tokens_used"] == whole.usage.total_tokens
    assert row["credits_charged"] == price_of(whole.usage)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is the client under test")
async def test_upload_is_recorded_with_name_size_and_digest(demo: Running, tmp_path: Path) -> None:
    file = tmp_path / "Quarterly numbers.csv"
    file.write_bytes(b"month,revenue\n" + b"".join(b"%d,%d\n" % (month, month * 1000) for month in range(1, 5000)))
    request_id = uuid4().hex
    curl = ["curl", "--silent", "--fail", f"{demo.public_url}/v1/analyze", "--form", f"file=@{file};type=text/csv"]
    headers = ["--header", f"X-API-Key: {demo.api_key}", "--header", f"X-Request-Id: {request_id}"]

    answered = await asyncio.to_thread(subprocess.run, [*curl, *headers], capture_output=True, check=True)
    row = await row_of(demo, "analysis_history", request_id)

    assert b"revenue" in answered.stdout
    assert row["file_name"] == "Quarterly numbers.csv"
    assert row["file_size_bytes"] == file.stat().st_size
    assert row["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert row["content_type"] == "text/csv"
    assert row["credits_charged"] == 1


async def test_revoked_key_is_refused_next_on_every_worker(demo: Running) -> None:
    async with httpx.AsyncClient(base_url=demo.admin_url, headers=demo.admin_headers) as admin:
        created = (await admin.post("/admin/v1/keys", json={"user_id": demo.user_id, "name": "brief"})).json()
        warm = await _of_several_connections(demo, created["key"])
        revoked = await admin.post(f"/admin/v1/keys/{created['id']}/revoke")
        after = await _of_several_connections(demo, created["key"])

    assert revoked.status_code == 200
    assert {answer.status_code for answer in warm} <= {200, 429}
    assert [(answer.status_code, answer.json()["code"]) for answer in after] == [(401, "key_revoked")] * len(after)


async def _of_several_connections(demo: Running, key: str) -> list[httpx.Response]:
    """Responses over separate connections, which the kernel spreads over the workers."""
    answers = []
    for _ in range(8):
        async with httpx.AsyncClient(base_url=demo.public_url, headers={"X-API-Key": key}) as client:
            answers.append(await client.post("/v1/analyze", content=b"a few words"))
    return answers


def test_second_gateway_on_the_same_data_is_refused(demo: Running) -> None:
    data_dir = Path(demo_data_dir(demo))
    again = subprocess.run(
        [sys.executable, "-m", "gateway", "demo", "--port", "0", "--admin-port", "0", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert f"already being served by process {demo.process.pid}" in again.stderr


def demo_data_dir(demo: Running) -> str:
    arguments = demo.process.args
    assert isinstance(arguments, list)
    return str(arguments[-1])
