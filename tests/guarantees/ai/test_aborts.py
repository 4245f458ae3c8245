"""Clients that leave their streams in any way, at any moment: together they pay what the providers reported."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import openai
import pytest

from gateway.proxy.forward import disconnects
from tests.proxy.data_plane import Account, DataPlane, RawConnection
from tests.proxy.metering.openai_bodies import chat
from tests.proxy.metering.wire import body, events
from tests.proxy.upstream import Exchange
from tests.support.sampling import scaled, seeded_random

ABORTS = scaled(suite=60, full=1000)
AT_ONCE = 30  # of the 100 that are drained at a time
CHARGED_WITHIN = 0.02  # of what was reported, in sum
PATH = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PRICE_IN, PRICE_OUT = 10, 50  # of gateway.yaml


@dataclass
class Stream:
    """A stream of the provider's, which reports running totals; `reported` is the price of the last it has sent."""

    tokens: int
    prompt: int
    random: Random
    reported: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, exchange: Exchange) -> None:
        await exchange.read()
        await exchange.write(HEAD)
        for count in range(1, self.tokens + 1):
            usage = {"prompt_tokens": self.prompt, "completion_tokens": count, "total_tokens": self.prompt + count}
            await self._send(exchange, events({**chat("word", usage=usage), "created": 1}))
            self.reported = self.prompt * PRICE_IN + count * PRICE_OUT
            self.begun.set()
            await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.005]))
        await self._send(exchange, b"data: [DONE]\n\n")
        await exchange.write(b"0\r\n\r\n")

    @staticmethod
    async def _send(exchange: Exchange, data: bytes) -> None:
        await exchange.write(b"%x\r\n%b\r\n" % (len(data), data))


Abort = Callable[[DataPlane, Account, Stream, Random], Awaitable[int]]
CONTENT = body(
    {
        "model": "gpt-5.6",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
)


async def close_by_client(data_plane: DataPlane, account: Account, stream: Stream, random: Random) -> int:
    """The official client stops to iterate, and closes."""
    async with openai.AsyncOpenAI(base_url=f"{data_plane.url}/v1", api_key=account.key, max_retries=0) as client:
        chunks = await client.chat.completions.create(
            model="gpt-5.6",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"x-request-id": str(id(stream))},
        )
        left = random.randrange(1, stream.tokens)
        seen = 0
        async for _ in chunks:
            seen += 1
            if seen == left:
                break
        reported = stream.prompt * PRICE_IN + seen * PRICE_OUT
        await chunks.close()
    return reported


async def reset_connection(data_plane: DataPlane, account: Account, stream: Stream, random: Random) -> int:
    """RST in place of FIN, after any number of bytes."""
    async with _streaming(data_plane, account, stream) as client:
        await client.reader.read(random.randrange(1, 5000))
        raw: socket.socket = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return stream.prompt * PRICE_IN + PRICE_OUT


async def read_slowly(data_plane: DataPlane, account: Account, stream: Stream, random: Random) -> int:
    """Reads a byte now and then, and leaves."""
    async with _streaming(data_plane, account, stream) as client:
        for _ in range(random.randrange(1, 20)):
            await client.reader.read(1)
            await asyncio.sleep(0.002)
        return stream.prompt * PRICE_IN + PRICE_OUT


async def leave_before_the_answer(data_plane: DataPlane, account: Account, stream: Stream, _: Random) -> int:
    """Sends its request, and leaves as soon as the provider has it."""
    async with data_plane.connect() as client:
        await _send(client, account, stream)
        await stream.begun.wait()
        return 0


KINDS: list[Abort] = [close_by_client, reset_connection, read_slowly, leave_before_the_answer]


@asynccontextmanager
async def _streaming(data_plane: DataPlane, account: Account, stream: Stream) -> AsyncIterator[RawConnection]:
    async with data_plane.connect() as client:
        await _send(client, account, stream)
        await client.read_head()
        await client.read_until(b"completion_tokens")
        yield client


async def _send(client: RawConnection, account: Account, stream: Stream) -> None:
    await client.request(account, f"POST {PATH}", f"x-request-id: {id(stream)}", body=CONTENT)


async def test_aborted_streams_pay_what_was_reported(data_plane: DataPlane) -> None:
    random = seeded_random("aborts")
    account = await data_plane.create_account(credits=10**9)
    streams = [Stream(random.randrange(2, 200), random.randrange(10, 1000), random) for _ in range(ABORTS)]
    by_id = {str(id(stream)): stream for stream in streams}
    data_plane.upstream.answer = lambda exchange: by_id[_client_id(exchange)].answer(exchange)
    slots = asyncio.Semaphore(AT_ONCE)

    async def abort(number: int, stream: Stream) -> int:
        async with slots:
            return await KINDS[number % len(KINDS)](data_plane, account, stream, random)

    at_departure = await asyncio.gather(*(abort(*each) for each in enumerate(streams)))
    await data_plane.settled_state(account)
    rows = {row["client_request_id"]: row for row in await data_plane.usage_rows(account)}

    assert len(rows) == ABORTS
    for stream, least in zip(streams, at_departure, strict=True):
        assert rows[str(id(stream))]["credits_charged"] >= least
    charged, reported = sum(row["credits_charged"] for row in rows.values()), sum(each.reported for each in streams)
    print(f"{ABORTS} aborts: {charged} charged, {reported} reported")  # noqa: T201 - shown by make chaos
    assert abs(charged - reported) <= CHARGED_WITHIN * reported


def _client_id(exchange: Exchange) -> str:
    return exchange["x-request-id"]


async def test_stream_left_beyond_the_limit_of_drains_pays_what_was_reported(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut at once, so that what the provider would have sent later is neither read nor paid."""
    monkeypatch.setattr(disconnects, "MAX_DRAINS", 0)
    account = await data_plane.create_account(credits=10**9)
    is_cut = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.write(HEAD)
        await _write_event(exchange, chat("word", usage=REPORTED))
        await exchange.reader.read()
        is_cut.set()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, f"POST {PATH}", body=CONTENT)
        await client.read_until(b"completion_tokens")
        client.disconnect()
        await is_cut.wait()
    await _assert_pays_what_was_reported(data_plane, account)


async def test_stream_left_at_its_last_event_beyond_the_limit_of_drains_has_succeeded(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client libraries leave there, while the provider has not ended the body yet."""
    monkeypatch.setattr(disconnects, "MAX_DRAINS", 0)
    account = await data_plane.create_account(credits=10**9)

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.write(HEAD)
        await _write_event(exchange, chat("word", usage=REPORTED))
        await Stream._send(exchange, b"data: [DONE]\n\n")
        await exchange.reader.read()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, f"POST {PATH}", body=CONTENT)
        await client.read_until(b"[DONE]\n\n")
        client.disconnect()
    await data_plane.settled_state(account)
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"]) == ("succeeded", 100 * PRICE_IN + 7 * PRICE_OUT)


async def test_reader_that_takes_nothing_until_the_timeout_pays_what_was_reported(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=10**9)

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.write(HEAD)
        await _write_event(exchange, chat("word", usage=REPORTED))
        with suppress(ConnectionError):
            while True:  # more than all buffers hold
                await Stream._send(exchange, b": " + b"x" * 60_000 + b"\n\n")

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, f"POST /brief{PATH}", body=CONTENT)
        await client.read_until(b"completion_tokens")
        await data_plane.settled_state(account)
        assert b"[DONE]" not in await client.read_rest()
    await _assert_pays_what_was_reported(data_plane, account)


REPORTED = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}


async def _write_event(exchange: Exchange, document: object) -> None:
    await Stream._send(exchange, events(document))


async def _assert_pays_what_was_reported(data_plane: DataPlane, account: Account) -> None:
    await data_plane.settled_state(account)
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["usage_source"]) == ("client_aborted", "reported")
    assert row["credits_charged"] == 100 * PRICE_IN + 7 * PRICE_OUT


@pytest.mark.parametrize("is_taken", [False, True], ids=["left in the middle", "read to its end"])
async def test_upload_held_back_by_its_last_byte_pays_for_its_answer(data_plane: DataPlane, *, is_taken: bool) -> None:
    account = await data_plane.create_account()
    size, upload = 1 << 20, b"x" * 40_000  # one that is streamed; a smaller one is sent only once it is whole

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(200, b"x" * size)

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/answers/1", f"content-length: {len(upload)}")
        await client.send(upload[:-1])
        await client.read_head()
        await client.reader.readexactly(size if is_taken else size - size // 10)
        client.disconnect()
    await data_plane.settled_state(account)
    assert (await data_plane.usage_row(account))["credits_charged"] == 9


async def test_small_upload_held_back_by_its_last_byte_gets_no_answer(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/answers/1", "content-length: 2")
        await client.send(b"x")
        async with asyncio.timeout(10):
            while not await data_plane.holds(account):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
        client.disconnect()
    await data_plane.settled_state(account)
    assert not data_plane.upstream.exchanges
    assert (await data_plane.usage_row(account))["credits_charged"] == 0
