"""Clients that retry with one Idempotency-Key over a lossy network: one charge, the same response."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import openai
import pytest

from tests.guarantees.faults.proxy import Connection, FaultProxy
from tests.proxy.data_plane import ANSWER_SECONDS, Account, DataPlane
from tests.proxy.upstream import Exchange

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "demo",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@pytest.fixture
async def network(data_plane: DataPlane) -> AsyncIterator[FaultProxy]:
    """Between clients and the gateway."""
    port = urlsplit(data_plane.url).port
    assert port is not None
    async with FaultProxy("127.0.0.1", port) as proxy:
        yield proxy


def eat(network: FaultProxy, *, requests: int = 0, answers: int = 0) -> None:
    """Drops the next so many requests, then so many responses, and breaks their connections."""
    left = {"requests": requests, "answers": answers}

    def watch(lane: str, data: bytes) -> bool:
        starts = data.startswith((b"POST ", b"HTTP/1.1 "))
        if not starts or not left[lane] or (lane == "answers" and left["requests"]):
            return False
        left[lane] -= 1
        asyncio.get_running_loop().call_soon(network.cut)
        return True

    def watch_requests(_: Connection, data: bytes) -> bool:
        return watch("requests", data)

    def watch_answers(_: Connection, data: bytes) -> bool:
        return watch("answers", data)

    network.requests.watch, network.replies.watch = watch_requests, watch_answers


async def test_official_openai_client_retries_and_is_charged_once(data_plane: DataPlane, network: FaultProxy) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, json.dumps(COMPLETION).encode())
    eat(network, requests=1, answers=2)
    base_url = network.through(data_plane.url) + "/v1/things"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=account.key, max_retries=5) as client:
        completion = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Say hello."}],
            extra_headers={"Idempotency-Key": str(uuid4())},
        )
    assert completion.choices[0].message.content == "Hello."
    assert (await data_plane.settled_state(account)).balance == 99
    assert len(await data_plane.usage_rows(account)) == 1
    assert len(data_plane.upstream.exchanges) == 1


@pytest.mark.parametrize("seed", range(12))
async def test_sequential_replays_are_identical_and_charged_once(
    data_plane: DataPlane, network: FaultProxy, seed: int
) -> None:
    """Several clients retry at once; the upstream fails at first, and never responds the same twice."""
    dice, account = random.Random(seed), await data_plane.create_account()  # noqa: S311 - repeatable
    failures = dice.randrange(3)

    async def answer(exchange: Exchange) -> None:
        nonlocal failures
        await exchange.read()
        await asyncio.sleep(dice.random() / 50)
        failures -= 1
        if failures >= 0:
            await exchange.reply(503)
        else:
            await exchange.reply(200, uuid4().bytes * dice.choice((1, 5000)))

    data_plane.upstream.answer = answer
    eat(network, requests=dice.randrange(3), answers=dice.randrange(4))
    key, url = str(uuid4()), network.through(data_plane.url)
    answers = await asyncio.gather(*(_until_answered(url, account, key) for _ in range(dice.randint(1, 4))))
    assert len({each.content for each in answers}) == 1
    assert sum(int(each.headers["x-credits-charged"]) for each in answers) <= 1
    assert (await data_plane.settled_state(account)).balance == 99
    charged = [row["credits_charged"] for row in await data_plane.usage_rows(account)]
    assert sum(charged) == 1


async def _until_answered(url: str, account: Account, key: str) -> httpx.Response:
    async with asyncio.timeout(ANSWER_SECONDS), httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while True:
            try:
                headers = account.auth | {"idempotency-key": key}
                answer = await client.post("/v1/things/1", content=b"{}", headers=headers)
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                return answer
            assert answer.status_code in (409, 503)
            await asyncio.sleep(0.01)  # sooner than Retry-After says
