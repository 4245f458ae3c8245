"""What one small forward costs: CPU per `Upstream.send` + `take`, above the same bytes over a bare asyncio protocol.

Run `python -m benchmarks.upstream_cost [requests] [concurrency]`. The server is another process.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from typing import cast

import uvloop

from gateway.http.fields import header_block
from gateway.upstream.balancer import Upstream
from gateway.upstream.request_head import Request

FIELDS = header_block(
    b"host: 127.0.0.1\r\naccept: */*\r\nuser-agent: bench\r\ncontent-type: application/json\r\nx-id: 0190\r\n"
)
BODY = b'{"text": "measure me"}'
RAW_REQUEST = b"POST /v1/analyze HTTP/1.1\r\n" + FIELDS + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2028 00:00:00 GMT\r\nserver: bench\r\ncontent-type: application/json\r\n"
    b"content-length: 16\r\n\r\n" + b'{"ok": "answer"}'
)
ROUNDS = 5


class Answering(asyncio.Protocol):
    """Answers each packet that ends in the body; reads no HTTP."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(BODY):
            self.transport.write(ANSWER)


class Bare(asyncio.Protocol):
    """The floor: writes the same bytes and wakes one future per answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.answered: asyncio.Future[bytes]

    def data_received(self, data: bytes) -> None:
        self.answered.set_result(data)

    async def ask(self) -> bytes:
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(RAW_REQUEST)
        return await self.answered


def serve(pipe: Pipe) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


async def cost_microseconds(asks: list[Callable[[], Awaitable[None]]], requests: int) -> float:
    """CPU of this process per request, over as many requests at once as there are askers."""
    each = requests // len(asks)

    async def many(ask: Callable[[], Awaitable[None]]) -> None:
        for _ in range(each):
            await ask()

    gc.collect()
    started = time.process_time()
    await asyncio.gather(*(many(ask) for ask in asks))
    return (time.process_time() - started) / (each * len(asks)) * 1e6


async def bare_asks(port: int, concurrency: int) -> list[Callable[[], Awaitable[None]]]:
    loop = asyncio.get_running_loop()

    def asker(bare: Bare) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            await bare.ask()

        return ask

    return [asker((await loop.create_connection(Bare, "127.0.0.1", port))[1]) for _ in range(concurrency)]


def upstream_ask(upstream: Upstream) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        response = await upstream.send(Request(b"POST", b"/v1/analyze", FIELDS, BODY))
        if not response.take() or not response.complete:
            raise RuntimeError("the answer took more than one packet")
        response.close()

    return ask


async def compare(port: int, requests: int, concurrency: int) -> None:
    upstream = Upstream("bench", targets=[f"http://127.0.0.1:{port}"], max_connections=concurrency)
    bare = await bare_asks(port, concurrency)
    ours = [upstream_ask(upstream)] * concurrency
    floors, costs = [], []
    for _ in range(ROUNDS):
        floors.append(await cost_microseconds(bare, requests))
        costs.append(await cost_microseconds(ours, requests))
    floor, cost = min(floors), min(costs)
    print(f"bare protocol {floor:6.1f} us   upstream {cost:6.1f} us   above the floor {cost - floor:6.1f} us  (CPU per")
    print(f"request, best of {ROUNDS} rounds of {requests} at concurrency {concurrency}, uvloop)")
    await upstream.close()


def main() -> None:
    requests, concurrency = (int(word) for word in (*sys.argv[1:], "20000", "64")[:2])
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        uvloop.run(compare(ours.recv(), requests, concurrency))
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
