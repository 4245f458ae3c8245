"""The AI APIs of the demo upstream: in the providers' forms, and read by the gateway as it reads the providers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from gateway.demo.app import build
from gateway.demo.embeddings import vector_of
from gateway.proxy.metering.readers import READERS
from policies.pricing.price_list import ReaderName
from policies.usage.counts import UsageClass

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello there"}]}
RESPONSES = {"model": "demo", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello there"}]}]}
MESSAGES = {"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello there"}]}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}
STREAM, USAGE = {"stream": True}, {"stream_options": {"include_usage": True}}
MODEL = "/v1beta/models/demo"
CALLS: list[tuple[ReaderName, str, dict[str, Any]]] = [
    (ReaderName.OPENAI, "/v1/chat/completions", CHAT),
    (ReaderName.OPENAI, "/v1/chat/completions", CHAT | STREAM | USAGE),
    (ReaderName.OPENAI, "/v1/responses", RESPONSES),
    (ReaderName.OPENAI, "/v1/responses", RESPONSES | STREAM),
    (ReaderName.ANTHROPIC, "/v1/messages", MESSAGES),
    (ReaderName.ANTHROPIC, "/v1/messages", MESSAGES | STREAM),
    (ReaderName.GEMINI, f"{MODEL}:generateContent", GEMINI),
    (ReaderName.GEMINI, f"{MODEL}:streamGenerateContent", GEMINI),
    (ReaderName.GEMINI, f"{MODEL}:streamGenerateContent?alt=sse", GEMINI),
]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(event_interval_seconds=0))
    async with httpx.AsyncClient(transport=transport, base_url="http://demo") as opened:
        yield opened


@pytest.mark.parametrize(("reader", "path", "body"), CALLS)
async def test_answer_reports_the_same_usage_in_every_api(
    client: httpx.AsyncClient, reader: ReaderName, path: str, body: dict[str, Any]
) -> None:
    answer = await client.post(path, json=body)
    response = READERS[reader].open_response(answer.headers["content-type"].encode(), b"")
    response.feed(answer.content)
    reading = response.reading()

    assert answer.status_code == 200
    assert (reading.model, reading.is_error, reading.is_complete) == ("demo", False, True)
    assert reading.usage is not None
    assert reading.usage.counts[UsageClass.INPUT] == 2
    assert reading.usage.counts[UsageClass.OUTPUT] == 33


@pytest.mark.parametrize(
    ("path", "body", "limit", "finish"),
    [
        ("/v1/chat/completions", CHAT, {"max_completion_tokens": 3}, '"finish_reason":"length"'),
        ("/v1/responses", RESPONSES, {"max_output_tokens": 3}, '"reason":"max_output_tokens"'),
        ("/v1/responses", RESPONSES | STREAM, {"max_output_tokens": 3}, '"type":"response.incomplete"'),
        ("/v1/messages", MESSAGES, {"max_tokens": 3}, '"stop_reason":"max_tokens"'),
        (
            f"{MODEL}:generateContent",
            GEMINI,
            {"generationConfig": {"maxOutputTokens": 3}},
            '"finishReason":"MAX_TOKENS"',
        ),
    ],
)
async def test_limit_cuts_the_answer_and_is_its_reason_to_end(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], limit: dict[str, Any], finish: str
) -> None:
    answer = await client.post(path, json=body | limit)

    assert finish in answer.text.replace('": ', '":')
    assert "You wrote 2" in answer.text
    assert "words" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/v1/responses", {"model": "demo"}, {"type": "invalid_request_error", "param": "input", "code": None}),
        ("/v1/embeddings", {"model": "demo"}, {"type": "invalid_request_error", "param": "input", "code": None}),
        ("/v1/messages", CHAT, {"type": "invalid_request_error"}),
        ("/v1/messages", MESSAGES | {"messages": [{"role": "robot"}]}, {"type": "invalid_request_error"}),
        (f"{MODEL}:generateContent", {}, {"code": 400, "status": "INVALID_ARGUMENT"}),
        (f"{MODEL}:generateContent", {"contents": [{"role": "x"}]}, {"code": 400, "status": "INVALID_ARGUMENT"}),
    ],
)
async def test_error_is_in_the_shape_of_its_api(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], error: dict[str, Any]
) -> None:
    answer = await client.post(path, json=body)
    document = answer.json()

    assert answer.status_code == 400
    assert document["error"].pop("message")
    assert document["error"] == error
    assert document.get("type") == ("error" if path == "/v1/messages" else None)


async def test_anthropic_stream_tells_input_first_and_output_last(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/messages", json=MESSAGES | STREAM)
    events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    documents = [json.loads(data.removeprefix("data: ")) for _, data in events]
    kinds = [document["type"] for document in documents]

    assert [name.removeprefix("event: ") for name, _ in events] == kinds
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert documents[0]["message"]["usage"]["input_tokens"] == 2
    assert documents[-2]["usage"] == {"output_tokens": 33}


@pytest.mark.parametrize("model", [MODEL, MODEL.replace("v1beta", "v1")])
async def test_gemini_stream_is_an_array_or_events(client: httpx.AsyncClient, model: str) -> None:
    array = await client.post(f"{model}:streamGenerateContent", json=GEMINI)
    events = await client.post(f"{model}:streamGenerateContent?alt=sse", json=GEMINI)

    assert array.headers["content-type"] == "application/json"
    assert events.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(block.removeprefix("data: ")) for block in events.text.strip().split("\n\n")] == array.json()


async def test_openai_client_reads_stream_of_responses_and_embeddings(client: httpx.AsyncClient) -> None:
    sdk = openai.AsyncOpenAI(base_url="http://demo/v1", api_key="none", http_client=client)  # type: ignore[arg-type]  # its own httpx has the same interface
    stream = await sdk.responses.create(model="demo", input="Hello there", stream=True)
    events = [event async for event in stream]
    whole = await sdk.responses.create(model="demo", input="Hello there")
    embedded = await sdk.embeddings.create(model="demo", input=["one two", "three"])

    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text
    assert events[-1].type == "response.completed"
    assert [each.embedding for each in embedded.data] == [vector_of("one two"), vector_of("three")]
    assert embedded.usage.total_tokens == 3
