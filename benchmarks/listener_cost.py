"""What one small request costs at the listener: CPU of a hello application, on our protocol and on uvicorn's own.

Run `python -m benchmarks.listener_cost [requests] [connections]`. The client is another process, on one thread.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvicorn
import uvloop

from benchmarks.machine import allow_many_files
from gateway.listener.server import ListenerLimits, build_gate, configure
from gateway.runtime.process import Server

GET = (
    b"GET /v1/hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: python-httpx/0.28.1\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"Authorization: Bearer gw_live_0123456789012345678901234567890000000\r\n"
)
BODY = b'{"text": "measure me"}'
POST = b"POST" + GET[3:] + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
REQUESTS = {"GET": GET + b"\r\n", "POST": POST}
ANSWER = [
    (b"content-type", b"application/json"),
    (b"content-length", b"16"),
    (b"x-request-id", b"0190b6a4-0000-7000-8000-000000000000"),
    (b"x-credits-remaining", b"41"),
    (b"ratelimit-policy", b'"minute";q=50;w=60, "hour";q=2000;w=3600'),
    (b"ratelimit", b'"minute";r=49;t=12, "hour";r=1999;t=900'),
]
ROUNDS = 5
IDLE_CONNECTIONS = 2000


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] == "POST":
        await receive()
    await send({"type": "http.response.start", "status": 200, "headers": ANSWER})
    await send({"type": "http.response.body", "body": b'{"ok": "answer"}', "more_body": False})


def ours() -> uvicorn.Config:
    return configure(hello, build_gate(ListenerLimits(max_connections=IDLE_CONNECTIONS + 1000)))


def theirs() -> uvicorn.Config:
    return uvicorn.Config(
        hello, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )


LISTENERS: dict[str, Callable[[], uvicorn.Config]] = {"uvicorn httptools": theirs, "this listener": ours}


class Asking(asyncio.Protocol):
    """Keeps one request on its way, and counts answers by their end."""

    def __init__(self, request: bytes, count: int, done: asyncio.Future[None]) -> None:
        self.request, self.left, self.done = request, count, done

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not data.endswith(b'answer"}'):
            return
        self.left -= 1
        if self.left:
            self.transport.write(self.request)
        else:
            self.transport.close()
            self.done.set_result(None)


async def ask(port: int, request: bytes, requests: int, connections: int) -> None:
    loop = asyncio.get_running_loop()
    waits = [loop.create_future() for _ in range(connections)]
    for done in waits:
        asking = partial(Asking, request, requests // connections, done)
        await loop.create_connection(asking, "127.0.0.1", port)
    await asyncio.gather(*waits)


def client(pipe: Pipe) -> None:
    while (order := pipe.recv()) is not None:
        uvloop.run(ask(*order))
        pipe.send(None)


async def serve(config: uvicorn.Config) -> tuple[Server, asyncio.Task[None], int]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await server.is_listening.wait()
    return server, task, listening.getsockname()[1]


async def cost_microseconds(pipe: Pipe, port: int, request: bytes, *, requests: int, connections: int) -> float:
    gc.collect()
    started = time.process_time()
    pipe.send((port, request, requests, connections))
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    return (time.process_time() - started) / requests * 1e6


async def idle_bytes(port: int) -> float:
    """Python's memory per idle connection that has had one answer."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    loop = asyncio.get_running_loop()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(IDLE_CONNECTIONS)]
    for each in clients:
        each.setblocking(False)
        await loop.sock_sendall(each, REQUESTS["GET"])
        await loop.sock_recv(each, 4096)
    gc.collect()
    per_connection = (tracemalloc.get_traced_memory()[0] - before) / IDLE_CONNECTIONS
    tracemalloc.stop()
    for each in clients:
        each.close()
    return per_connection


async def compare(pipe: Pipe, requests: int, connections: int) -> None:
    running = {name: await serve(make()) for name, make in LISTENERS.items()}
    best: dict[tuple[str, str], float] = {}
    for _ in range(ROUNDS):
        for name, (_, _, port) in running.items():
            for method, request in REQUESTS.items():
                cost = await cost_microseconds(pipe, port, request, requests=requests, connections=connections)
                best[name, method] = min(cost, best.get((name, method), cost))
    for name, (_, _, port) in running.items():
        memory = await idle_bytes(port)
        costs = "   ".join(f"{method} {best[name, method]:5.1f} us" for method in REQUESTS)
        print(f"{name:18} {costs}   idle connection {memory / 1024:4.1f} KiB")
    print(f"CPU per request, best of {ROUNDS} rounds of {requests} over {connections} connections, uvloop")
    for server, task, _ in running.values():
        server.should_exit = True
        await task


def main() -> None:
    requests, connections = (int(word) for word in (*sys.argv[1:], "20000", "32")[:2])
    allow_many_files()
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    asking = context.Process(target=client, args=(far,), daemon=True)
    asking.start()
    try:
        uvloop.run(compare(near, requests, connections))
    finally:
        near.send(None)
        asking.join()


if __name__ == "__main__":
    main()
