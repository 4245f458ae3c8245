"""Bytes both ways over real sockets: whole, counted, bounded, and no longer than either side wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from gateway.http import tunnel as tunnels
from gateway.http.tunnel import Tunnel, Wire
from tests.upstream.scripted import eventually

MIB = 2**20
STEP_BYTES = 32 * 1024  # less than the mark at which a side is stopped


class Before(asyncio.Protocol):
    """The protocol that a transport has before the tunnel."""

    def __init__(self) -> None:
        self.losses = 0
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _exc: Exception | None) -> None:
        self.losses += 1


@dataclass
class End:
    """The far end of one side, and what was at the near end before the tunnel."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    before: Before

    def wire(self, first: bytes = b"") -> Wire:
        return Wire(self.before.transport, first)


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    accepted: list[Before] = []

    def accept() -> Before:
        accepted.append(Before())
        return accepted[-1]

    async with await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        made = [await _end(address, accepted), await _end(address, accepted)]
        try:
            yield made[0], made[1]
        finally:
            for end in made:
                if not end.writer.is_closing():
                    end.writer.transport.abort()
            await eventually(lambda: [each.losses for each in accepted] == [1, 1])


async def _end(address: Any, accepted: list[Before]) -> End:
    number = len(accepted)
    reader, writer = await asyncio.open_connection(*address)
    await eventually(lambda: len(accepted) > number)
    return End(reader, writer, accepted[-1])


@asynccontextmanager
async def tunnel_between(client: End, upstream: End, **settings: Any) -> AsyncIterator[Tunnel]:
    tunnel = Tunnel(client.wire(), upstream.wire(), **{"idle_timeout_seconds": 60.0, **settings})
    try:
        yield tunnel
    finally:
        tunnel.abort()


async def test_tunnel_passes_and_counts_bytes_from_before_it() -> None:
    async with ends() as (client, upstream):
        tunnel = Tunnel(client.wire(b"up"), upstream.wire(b"down"), idle_timeout_seconds=60.0)
        assert await upstream.reader.readexactly(2) == b"up"
        assert await client.reader.readexactly(4) == b"down"
        assert (tunnel.bytes_up, tunnel.bytes_down) == (2, 4)
        tunnel.abort()


async def test_tunnel_passes_only_the_loss_to_the_former_protocol() -> None:
    async with ends() as (client, upstream):
        async with tunnel_between(client, upstream):
            client.writer.write(b"x")
            assert await upstream.reader.readexactly(1) == b"x"
        await eventually(lambda: client.before.losses == upstream.before.losses == 1)
        assert client.before.received == upstream.before.received == b""


async def test_tunnel_passes_the_bytes_of_an_upstream_that_has_closed() -> None:
    async with ends() as (client, upstream):
        tunnel = Tunnel(client.wire(), Wire(None, b"goodbye"), idle_timeout_seconds=60.0)
        await tunnel.ended()
        client.writer.write(b"too late")
        closing = asyncio.ensure_future(tunnel.close())
        assert await client.reader.read() == b"goodbye"
        client.writer.close()
        await closing
        assert tunnel.bytes_up == 0
        upstream.writer.close()


@pytest.mark.parametrize("way", ["down", "up"])
async def test_tunnel_flushes_to_a_slow_reader_before_it_closes(way: str) -> None:
    """More than the sockets hold is on its way when the other side has closed already."""
    async with ends() as (client, upstream):
        speaker, listener = (upstream, client) if way == "down" else (client, upstream)
        async with tunnel_between(client, upstream) as tunnel:
            carrying = asyncio.ensure_future(_carry(tunnel))
            sent = 0
            while not tunnel._buffered_bytes():
                speaker.writer.write(b"x" * STEP_BYTES)
                sent += STEP_BYTES
                await _passed(tunnel, sent)
            speaker.writer.close()
            await eventually(lambda: tunnel.is_over)
            assert tunnel._buffered_bytes()
            assert await listener.reader.read() == b"x" * sent
            listener.writer.close()
            await carrying


async def test_tunnel_passes_nothing_after_its_end() -> None:
    async with ends() as (client, upstream), tunnel_between(client, upstream) as tunnel:
        client.writer.write_eof()
        await tunnel.ended()
        upstream.writer.write(b"late")
        await eventually(lambda: tunnel.is_over)
        closing = asyncio.ensure_future(tunnel.close())
        assert await upstream.reader.read() == b""
        upstream.writer.close()
        await closing
        assert (tunnel.bytes_down, await client.reader.read()) == (0, b"")


async def test_tunnel_passes_nothing_once_it_is_cancelled() -> None:
    async with ends() as (client, upstream), tunnel_between(client, upstream) as tunnel:
        waiting = asyncio.ensure_future(tunnel.ended())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        client.writer.write(b"late")
        tunnel.abort()
        assert await upstream.reader.read() == b""
        assert tunnel.bytes_up == 0


async def test_tunnel_bounds_what_waits_for_a_slow_reader() -> None:
    async with ends() as (client, upstream), tunnel_between(client, upstream) as tunnel:
        sending = asyncio.ensure_future(_send(upstream, 64 * MIB))
        await eventually(lambda: tunnel._buffered_bytes() > 64 * 1024)
        waiting = []
        for _ in range(500):
            await asyncio.sleep(0)
            waiting.append(tunnel._buffered_bytes())
        assert max(waiting) <= 64 * 1024 + 256 * 1024
        assert tunnel.bytes_down < 64 * MIB
        sending.cancel()


async def test_tunnel_ends_when_idle_and_not_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "CLOSING_SECONDS", 0.05)
    async with ends() as (client, upstream), tunnel_between(client, upstream, idle_timeout_seconds=1.0) as tunnel:
        sending = asyncio.ensure_future(_send(upstream, 16 * MIB))
        async with asyncio.timeout(30):
            for _ in range(16):
                await client.reader.readexactly(MIB)
                await asyncio.sleep(0.08)  # in all longer than it may be idle
            await sending
            await tunnel.ended()
        assert asyncio.get_running_loop().time() - tunnel.moved_at >= 1.0
        await tunnel.close()


async def _carry(tunnel: Tunnel) -> None:
    await tunnel.ended()
    await tunnel.close()
    tunnel.abort()


async def _passed(tunnel: Tunnel, size: int) -> None:
    await eventually(lambda: tunnel.bytes_up + tunnel.bytes_down == size)


async def _send(end: End, size: int) -> None:
    for _ in range(size // MIB):
        end.writer.write(b"x" * MIB)
        await end.writer.drain()
