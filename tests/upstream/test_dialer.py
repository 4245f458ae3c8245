"""A name is reached by the first of its addresses that accepts, and the connections that lost the race are closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.upstream.scripted import Scripted, deaf, eventually, fetch, scripted, upstream_to


@contextlib.contextmanager
def name_of(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> Iterator[None]:
    """Every name resolves to these hosts."""

    async def resolve(_host: str, port: int, **_settings: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        yield


def port_of(server: Scripted) -> int:
    return int(server.url.rpartition(":")[2])


async def test_dialer_reaches_a_name_over_an_address_that_answers() -> None:
    async with scripted() as server, upstream_to(f"http://localhost:{port_of(server)}") as upstream:
        for _ in range(3):
            assert await fetch(upstream) == (200, b"ok")
        assert len(server.peers) == 1


async def test_dialer_does_not_wait_for_an_address_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted() as server, upstream_to(f"http://up:{port_of(server)}") as upstream:
        with name_of(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1"):
            started = asyncio.get_running_loop().time()
            assert await fetch(upstream) == (200, b"ok")
            assert asyncio.get_running_loop().time() - started < 0.2


async def test_dialer_waits_a_quarter_second_for_an_address_that_drops_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted() as server, upstream_to(f"http://up:{port_of(server)}") as upstream:
        with deaf("127.0.0.2", port_of(server)), name_of(monkeypatch, "127.0.0.2", "127.0.0.1"):
            assert await fetch(upstream) == (200, b"ok")
            assert "[0 leased, 1 idle, 0 queued, 1 open]" in repr(upstream)


async def test_dialer_closes_what_lost_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    connected: list[socket.socket] = []
    both_connected = asyncio.Event()
    connect = loop.sock_connect

    async def connect_together(sock: socket.socket, address: Any) -> None:
        await connect(sock, address)
        connected.append(sock)
        if len(connected) == 2:
            both_connected.set()
        await both_connected.wait()

    monkeypatch.setattr("gateway.upstream.dialer.ATTEMPT_DELAY_SECONDS", 0.001)
    async with (
        scripted() as one,
        scripted(host="127.0.0.2", port=port_of(one)) as two,
        upstream_to(f"http://up:{port_of(one)}") as upstream,
    ):
        with monkeypatch.context() as patched, name_of(monkeypatch, "127.0.0.1", "127.0.0.2"):
            patched.setattr(loop, "sock_connect", connect_together)
            assert await fetch(upstream) == (200, b"ok")
        await eventually(lambda: "[0 leased, 1 idle, 0 queued, 1 open]" in repr(upstream))
        await eventually(lambda: sorted(peer.closed for peer in one.peers + two.peers) == [False, True])


async def test_dialer_reaches_an_ipv6_target() -> None:
    try:
        async with scripted(host="::1") as server, upstream_to(server.url) as upstream:
            assert await fetch(upstream) == (200, b"ok")
            assert b"host: [::1]:" in server.requests[0]
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
