"""The official clients of AI APIs, unmodified but for their address and key: right content, right charge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import anthropic
import httpx2
import mcp
import ollama
import openai
import pytest
from google import genai
from google.genai import types as genai_types
from mcp.client.streamable_http import streamable_http_client

from tests.guarantees.ai import providers
from tests.guarantees.ai.providers import SOUND, TEXT
from tests.proxy.data_plane import Account, DataPlane

PROMPT: Any = [{"role": "user", "content": "hi"}]
CHAT_CHARGE = 116 * 10 + 20 * 50
RESPONSE_CHARGE = 50 * 10 + 150 * 1 + 30 * 50
CLAUDE_CHARGE = 50 * 10 + 100 * 1 + 9 * 50
GEMINI_CHARGE = 20 * 10 + 40 * 50
OLLAMA_CHARGE = 26 * 10 + 29 * 50


@pytest.fixture
async def account(data_plane: DataPlane) -> Account:
    data_plane.upstream.answer = providers.answer
    return await data_plane.create_account(credits=1_000_000)


@pytest.fixture
async def chat_client(data_plane: DataPlane, account: Account) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{data_plane.url}/v1", api_key=account.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude_client(data_plane: DataPlane, account: Account) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=data_plane.url, api_key=account.key, max_retries=0) as client:
        yield client


async def charges(data_plane: DataPlane, account: Account) -> list[int]:
    """The charge of each call, all of which have succeeded."""
    await data_plane.settled_state(account)
    rows = await data_plane.usage_rows(account)
    assert {row["outcome"] for row in rows} == {"succeeded"}
    return [row["credits_charged"] for row in rows]


def joined(texts: Iterable[str | None]) -> str:
    return "".join(text or "" for text in texts)


class TestOpenAI:
    async def test_chat(self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI) -> None:
        found = await chat_client.chat.completions.create(model="gpt-5.6", messages=PROMPT)
        assert found.choices[0].message.content == TEXT
        assert await charges(data_plane, account) == [CHAT_CHARGE]

    async def test_chat_stream_shows_no_event_without_a_choice(
        self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI
    ) -> None:
        stream = await chat_client.chat.completions.create(model="gpt-5.6", messages=PROMPT, stream=True)
        assert joined([chunk.choices[0].delta.content async for chunk in stream]) == TEXT
        assert await charges(data_plane, account) == [CHAT_CHARGE]

    async def test_chat_stream_that_asks_for_usage_gets_it(
        self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI
    ) -> None:
        options: Any = {"include_usage": True}
        stream = await chat_client.chat.completions.create(
            model="gpt-5.6", messages=PROMPT, stream=True, stream_options=options
        )
        usages = [chunk.usage async for chunk in stream]
        assert usages[-1] is not None
        assert usages[-1].total_tokens == 136
        assert await charges(data_plane, account) == [CHAT_CHARGE]

    async def test_stream_helper(
        self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI
    ) -> None:
        async with chat_client.chat.completions.stream(model="gpt-5.6", messages=PROMPT) as stream:
            found = await stream.get_final_completion()
        assert found.choices[0].message.content == TEXT
        assert await charges(data_plane, account) == [CHAT_CHARGE]

    async def test_response_and_its_stream(
        self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI
    ) -> None:
        found = await chat_client.responses.create(model="gpt-5.6", input="hi")
        assert found.output_text == TEXT
        stream = await chat_client.responses.create(model="gpt-5.6", input="hi", stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
        async with chat_client.responses.stream(model="gpt-5.6", input="hi") as helper:
            assert (await helper.get_final_response()).output_text == TEXT
        assert await charges(data_plane, account) == [RESPONSE_CHARGE] * 3

    async def test_embeddings_and_images(
        self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI
    ) -> None:
        embedded = await chat_client.embeddings.create(model="text-embedding-3-small", input="hi")
        assert embedded.data[0].embedding == [0.5, 0.25]
        drawn = await chat_client.images.generate(model="gpt-image-1", prompt="a cat")
        assert drawn.data is not None
        assert drawn.data[0].b64_json == "A" * 4096
        assert await charges(data_plane, account) == [600, 10 * 10 + 100 * 50]

    async def test_audio(self, data_plane: DataPlane, account: Account, chat_client: openai.AsyncOpenAI) -> None:
        heard = await chat_client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", SOUND))
        assert heard.text == TEXT
        spoken = await chat_client.audio.speech.create(model="tts-1", voice="alloy", input="Grüße")
        assert spoken.content == SOUND
        assert await charges(data_plane, account) == [40 * 10 + 5 * 50, 10]


class TestAnthropic:
    async def test_message(
        self, data_plane: DataPlane, account: Account, claude_client: anthropic.AsyncAnthropic
    ) -> None:
        found = await claude_client.messages.create(model="claude-5", max_tokens=100, messages=PROMPT)
        assert found.content[0].text == TEXT
        assert await charges(data_plane, account) == [CLAUDE_CHARGE]

    async def test_streams(
        self, data_plane: DataPlane, account: Account, claude_client: anthropic.AsyncAnthropic
    ) -> None:
        stream = await claude_client.messages.create(model="claude-5", max_tokens=100, messages=PROMPT, stream=True)
        assert [event.type async for event in stream][-1] == "message_stop"
        async with claude_client.messages.stream(model="claude-5", max_tokens=100, messages=PROMPT) as helper:
            assert joined([text async for text in helper.text_stream]) == TEXT
            assert (await helper.get_final_message()).usage.output_tokens == 9
        assert await charges(data_plane, account) == [CLAUDE_CHARGE] * 2


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # the client's own
async def test_gemini_document_and_stream(data_plane: DataPlane, account: Account) -> None:
    options = genai_types.HttpOptions(base_url=data_plane.url)
    client = genai.Client(api_key=account.key, http_options=options).aio
    found = await client.models.generate_content(model="gemini-3", contents="hi")
    assert found.text == TEXT
    stream = await client.models.generate_content_stream(model="gemini-3", contents="hi")
    assert joined([chunk.text async for chunk in stream]) == TEXT
    await client.aclose()
    assert await charges(data_plane, account) == [GEMINI_CHARGE] * 2


async def test_ollama_document_and_lines(data_plane: DataPlane, account: Account) -> None:
    client = ollama.AsyncClient(host=data_plane.url, headers={"authorization": f"Bearer {account.key}"})
    found = await client.chat(model="llama3", messages=PROMPT)
    assert found.message.content == TEXT
    stream = await client.chat(model="llama3", messages=PROMPT, stream=True)
    assert joined([part.message.content async for part in stream]) == TEXT
    await client.close()
    assert await charges(data_plane, account) == [OLLAMA_CHARGE] * 2


async def test_mcp_session_pays_for_its_tools_only(data_plane: DataPlane, account: Account) -> None:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {account.key}"}) as http,
        streamable_http_client(f"{data_plane.url}/mcp", http_client=http) as (reading, writing, *_),
        mcp.ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        assert [tool.name for tool in (await session.list_tools()).tools] == ["weather"]
        called = await session.call_tool("weather", {})
        assert called.content[0].text == TEXT
        failed = await session.call_tool("search_web", {})
        assert failed.is_error
    await data_plane.settled_state(account)
    paid = [(row["outcome"], row["credits_charged"]) for row in await data_plane.usage_rows(account)]
    assert sorted(paid)[-1] == ("upstream_error", 0)
    assert sum(credits for _, credits in paid) == 7
