"""What forwarding costs above a hello: CPU per request of listener, reading, upstream client and reply, for 1 KB.

`python -m benchmarks.forwarding_cost [requests] [connections] [--profile]`. In one run and interleaved: uvicorn's own
protocol answering a constant, and the gateway's way of forwarding in front of an upstream in another process.
`--profile` says where the difference goes.
"""

from __future__ import annotations

import asyncio
import cProfile
import multiprocessing
import os
import pstats
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any
from uuid import UUID

import uvicorn
import uvloop

from benchmarks.listener_cost import GET, ROUNDS, client, cost_microseconds, serve
from gateway.http.fields import NO_FIELDS, HeaderBlock
from gateway.listener.server import configure
from gateway.proxy.admission.caller import identity_block
from gateway.proxy.forward.client_response import ClientResponse
from gateway.proxy.forward.forwarding import Destination, render_request_fields
from gateway.proxy.forward.upstream_response import read_head
from gateway.proxy.request.inbound import read_request
from gateway.proxy.router import Router
from gateway.request_ids import uuid7
from gateway.runtime.roles import tune_garbage_collection
from gateway.upstream.balancer import Upstream
from gateway.upstream.request_head import Request
from policies.model import (
    Account,
    AccountStatus,
    Key,
    KeyStatus,
    Plan,
    Principal,
    Route,
    Subscription,
    SubscriptionStatus,
)
from policies.pricing.price import Price

BODY = b'{"ok": "answer", "padding": "' + b"x" * 986 + b'answer"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2028 00:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY) + BODY
)
ROUTE = Route("call", "/v1/hello", frozenset({"GET"}), "static", "call", Price(credits=1))  # type: ignore[arg-type]
PLAN = Plan("bench", "bench", 1, {"analysis": True}, frozenset(), 50, 2000)


class Static(asyncio.Protocol):
    """An upstream that costs next to nothing."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))


async def hello(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY, "more_body": False})


class Forwarder:
    """The way of a request and its answer through the gateway, without what metering adds to it.

    That is: read, routed, rendered with the caller's identity, sent, and answered. The key, admission, settlement, the
    record and the limit fields are in `peers`.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._destination = Destination(upstream)
        self._router = Router([ROUTE])
        self._identity = _identity()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI
        client = scope["extensions"]["gateway.client"]
        inbound = read_request(scope, client=client)
        client_response = ClientResponse(client, send, uuid7())
        self._router.match(inbound.method, inbound.raw_path)
        block = render_request_fields(self._destination, inbound, self._identity, client_response.request_id)
        response = await self._destination.upstream.send(Request(inbound.method.encode(), inbound.target, block))
        try:
            upstream_response = read_head(response.head)
            chunk = response.take()
            if response.complete:
                client_response.send_whole(response.status, upstream_response.fields, chunk, NO_FIELDS)
                return
            await client_response.start(response.status, response.headers, NO_FIELDS)
            while not response.complete:
                await client_response.send_chunk(chunk)
                await response.wait_for_more()
                chunk = response.take()
            await client_response.end(chunk)
        finally:
            response.close()


def _identity() -> HeaderBlock:
    nobody = UUID(int=7)
    subscription = Subscription(nobody, SubscriptionStatus.ACTIVE, PLAN)
    key = Key(nobody, KeyStatus.ACTIVE, "gw_live_abcd", "wxyz")
    principal = Principal(key, Account(nobody, AccountStatus.ACTIVE, subscription), 1, 1)
    return identity_block(principal, subscription)


def upstream(pipe: Pipe) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Static, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    uvloop.run(run())


async def compare(pipe: Pipe, port: int, *, requests: int, connections: int, profiled: bool) -> None:
    request = GET + b"\r\n"
    plain = uvicorn.Config(
        hello, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    forwarder = Forwarder(Upstream("static", targets=[f"http://127.0.0.1:{port}"]))
    running = {"uvicorn hello": await serve(plain), "forwarding": await serve(configure(forwarder))}
    tune_garbage_collection()  # for both
    best = dict.fromkeys(running, float("inf"))
    for _ in range(ROUNDS):
        for name, (_, _, listening) in running.items():
            cost = await cost_microseconds(pipe, listening, request, requests=requests, connections=connections)
            best[name] = min(best[name], cost)
    for name, cost in best.items():
        print(f"{name:14} {cost:5.1f} us")
    above = best["forwarding"] - best["uvicorn hello"]
    print(f"forwarding costs {above:.1f} us above a hello; best of {ROUNDS} rounds of {requests}, uvloop")
    if profiled:
        with _profile():
            await cost_microseconds(pipe, running["forwarding"][2], request, requests=requests, connections=connections)
    for server, task, _ in running.values():
        server.should_exit = True
        await task


@contextmanager
def _profile() -> Iterator[None]:
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def _apart() -> None:
    """Leaves a core to the gateway alone: sharing one with client and upstream would count their cache misses too."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for child in multiprocessing.active_children():
            os.sched_setaffinity(child.pid or 0, cores[1:])
        os.sched_setaffinity(0, cores[:1])


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    requests, connections = (int(word) for word in (*words, "20000", "32")[:2])
    context = multiprocessing.get_context("spawn")
    (near, far), (upstream_near, upstream_far) = context.Pipe(), context.Pipe()
    asking = context.Process(target=client, args=(far,), daemon=True)
    answering = context.Process(target=upstream, args=(upstream_far,), daemon=True)
    asking.start()
    answering.start()
    profiled = "--profile" in sys.argv
    try:
        port = upstream_near.recv()
        _apart()
        uvloop.run(compare(near, port, requests=requests, connections=connections, profiled=profiled))
    finally:
        near.send(None)
        upstream_near.send(None)
        asking.join()
        answering.join()


if __name__ == "__main__":
    main()
