"""What forwarding costs above a hello: CPU per request of listener, reading, upstream client and reply, for 1 KB.

`python -m benchmarks.forwarding_cost [requests] [connections] [--profile]`. In one run and interleaved: uvicorn's own
protocol answering a constant, and the gateway's forwarding path (everything but the check of the key and the calls to
Redis) in front of an upstream in another process. `--profile` says where the difference goes.
"""

from __future__ import annotations

import asyncio
import cProfile
import multiprocessing
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
from gateway.meter.meter import AccountKeys, Admission, Verdict
from gateway.proxy import inbound as reading
from gateway.proxy.call import Call
from gateway.proxy.departures import Departures, client_of
from gateway.proxy.forwarding import Destination, Forwarding
from gateway.proxy.gate import Ask, Ticket
from gateway.proxy.principals import Caller, identity_block
from gateway.proxy.reply import Reply
from gateway.proxy.router import Router
from gateway.proxy.server import configure
from gateway.request_ids import uuid7
from gateway.upstream.balancer import Upstream
from policies.limits import limits_of, policy_field, remaining_template
from policies.model import (
    Account,
    AccountStatus,
    Key,
    KeyStatus,
    Plan,
    Price,
    Principal,
    Route,
    Subscription,
    SubscriptionStatus,
)

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


class Unmetered:
    """Takes settlements as Redis would, without the way to it."""

    async def settle(self, settlement: object) -> int:  # noqa: ARG002 - its measure is that it does nothing
        return 0


async def hello(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY, "more_body": False})


class Forwarder:
    """The handler's path without its gate."""

    def __init__(self, upstream: Upstream) -> None:
        self._destination = Destination(upstream)
        self._router = Router([ROUTE])
        self._caller = _caller()
        self._departures = Departures()
        self._admission = Admission(Verdict.ADMITTED, 41, (1, 1, 1), (12, 900, 9000))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        inbound = reading.read(scope)
        request_id = uuid7()
        match = self._router.match(inbound.method, inbound.raw_path)
        subscription = self._caller.principal.account.subscription
        ask = Ask(request_id, inbound, match, inbound.api_key())
        ticket = Ticket(ask, self._caller, subscription, 1, self._admission)  # type: ignore[arg-type]
        call = Call(ticket, Unmetered(), received_at=0.0, files=None)  # type: ignore[arg-type]
        forwarding = Forwarding(call, Reply(send, request_id), client_of(scope), self._departures)
        await forwarding.run(self._destination, receive, None)


def _caller() -> Caller:
    nobody = UUID(int=7)
    subscription = Subscription(nobody, SubscriptionStatus.ACTIVE, PLAN)
    key = Key(nobody, KeyStatus.ACTIVE, "gw_live_abcd", "wxyz")
    principal = Principal(key, Account(nobody, AccountStatus.ACTIVE, subscription), 1, 1)
    limits = limits_of(PLAN)
    return Caller(
        principal=principal,
        digest=b"",
        keys=AccountKeys(nobody, 0, b"a", b"c", b"h", b"j"),
        limits=limits,
        policy_field=policy_field(limits),
        remaining_template=remaining_template(limits),
        identity_block=identity_block(principal, subscription),
        record_part="",
        loaded_at=0.0,
    )


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
        uvloop.run(compare(near, port, requests=requests, connections=connections, profiled=profiled))
    finally:
        near.send(None)
        upstream_near.send(None)
        asking.join()
        answering.join()


if __name__ == "__main__":
    main()
