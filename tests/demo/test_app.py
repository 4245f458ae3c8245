from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import load
from gateway.demo.app import build

ROOT = Path(__file__).parents[2]
HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(event_interval_seconds=0))
    async with httpx.AsyncClient(transport=transport, base_url="http://demo") as opened:
        yield opened


async def test_demo_answers_its_health_check(client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_plain_body_is_analyzed_as_text(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/analyze", content="one two\ntwo")).json()

    assert (found["kind"], found["bytes"], found["lines"], found["words"]) == ("text", 11, 2, 3)
    assert found["top_terms"][0] == {"term": "two", "count": 2}
    assert found["file_name"] is None


async def test_csv_body_is_analyzed_as_a_table(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "text/csv; charset=utf-8", "x-file-name": "prices.txt"}
    found = (await client.post("/v1/analyze", content="a,b\n1,x\n3,\n", headers=headers)).json()

    assert (found["kind"], found["rows"], found["file_name"]) == ("csv", 2, "prices.txt")
    assert (found["columns"][0]["mean"], found["columns"][1]["missing"]) == (2.0, 1)


async def test_form_is_analyzed_by_its_first_file(client: httpx.AsyncClient) -> None:
    files = {"file": ("prices.csv", b"a\n5\n"), "other": ("b.txt", b"nothing")}
    found = (await client.post("/v1/analyze", data={"note": "x"}, files=files)).json()

    assert (found["kind"], found["file_name"], found["columns"][0]["maximum"]) == ("csv", "prices.csv", 5.0)


async def test_products_are_described_one_by_one(client: httpx.AsyncClient) -> None:
    body = {"products": ["Lamp", {"name": "Mug"}], "language_code": "de"}
    found = (await client.post("/v1/generate", json=body)).json()

    assert (found["language_code"], found["count"]) == ("de", 2)
    assert [entry["name"] for entry in found["descriptions"]] == ["Lamp", "Mug"]
    assert all(entry["name"] in entry["description"] for entry in found["descriptions"])


async def test_chat_is_answered_with_its_usage(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/chat/completions", json=HELLO)).json()

    assert found["object"] == "chat.completion"
    assert found["usage"]["total_tokens"] > 1


async def test_streamed_chat_ends_with_usage_and_done(client: httpx.AsyncClient) -> None:
    asked = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/chat/completions", json=asked)

    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[-3].removeprefix("data: "))["usage"]["prompt_tokens"] == 1


async def test_events_are_sent_one_by_one_with_time_between() -> None:
    loop = asyncio.get_running_loop()
    sent_at: list[float] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            sent_at.append(loop.time())

    body = json.dumps({**HELLO, "stream": True, "max_tokens": 3}).encode()
    received = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        message = next(received, None)
        return message or await asyncio.Event().wait()

    scope = {
        "type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", "path": "/v1/chat/completions",
        "headers": [], "query_string": b"",
    }  # fmt: skip
    await asyncio.wait_for(build(event_interval_seconds=0.01)(scope, receive, send), 10)

    assert len(sent_at) == 6  # role, three tokens, finish, done
    assert sent_at[-1] - sent_at[0] >= 5 * 0.01


@pytest.mark.parametrize(
    ("path", "content", "headers", "param"),
    [
        ("/v1/analyze", b"", {}, None),
        ("/v1/analyze", b"\xff", {}, None),
        ("/v1/analyze", b"nothing", {"content-type": "multipart/form-data"}, None),
        ("/v1/analyze", b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, "file"),
        ("/v1/generate", b"{", {}, None),
        ("/v1/generate", b'{"products": ["\\ud800"]}', {}, None),
        ("/v1/generate", b"[" * 100_000, {}, None),
        ("/v1/generate", b"{}", {}, "products"),
        ("/v1/generate", b'{"products": ["a"], "language_code": "xx"}', {}, "language_code"),
        ("/v1/chat/completions", b"[]", {}, None),
        ("/v1/chat/completions", b'{"model": "m"}', {}, "messages"),
    ],
)
async def test_bad_input_is_a_400_in_the_shape_of_openais_errors(
    client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str], param: str | None
) -> None:
    answer = await client.post(path, content=content, headers=headers)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.pop("message")
    assert error == {"type": "invalid_request_error", "param": param, "code": None}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/generate", 405)])
async def test_unknown_path_is_an_error_in_json(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_body_beyond_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/analyze", content=b"a" * (32 * 2**20 + 1))

    assert answer.status_code == 413


def served_at(pattern: str) -> str:
    """A path that a pattern of the example configuration stands for."""
    return pattern.replace("*", "demo")


async def test_example_configuration_routes_only_what_the_demo_serves(client: httpx.AsyncClient) -> None:
    config = load(ROOT / "gateway.yaml", {}, persist_secrets=False)

    for route in config.routes:
        if route.serves_models:
            continue
        for method in route.methods:
            assert (await client.request(method, served_at(route.path))).status_code not in (404, 405)


def test_command_prints_where_it_listens_and_answers_there() -> None:
    command = [sys.executable, "-m", "gateway.demo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            answer = httpx.get(f"{url}/healthz", trust_env=False, timeout=20)
        finally:
            process.terminate()

    assert url.startswith("http://127.0.0.1:")
    assert answer.status_code == 200
