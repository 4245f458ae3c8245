"""A client costs the process that serves it at most 64 KiB of resident memory, beside a constant; idle ones less."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation.mass_connections import Sink, crowd, upload
from tests.guarantees.simulation.served_gateway import PLAN, Served, serving

KIB, MIB, GIB = 1024, 1024**2, 1024**3
EACH_BYTES = 64 * KIB
CONSTANT_BYTES = 32 * MIB  # the allocator's arenas, and Python's caches as they fill
CONNECTIONS = 1_000
UPLOADS, UPLOAD_BYTES = 10, 2 * GIB
PAUSED_AFTER_BYTES = 60_000  # large enough to stream
PAUSED_BYTES = 16 * KIB  # nothing of a body that is passed on
WATCH_SECONDS = 15.0
OPEN_FILES = 8_192


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Raises the limit of open files, which started processes inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, OPEN_FILES), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()


class Worker:
    """The resident memory of the process that serves clients, and its peak."""

    def __init__(self, served: Served) -> None:
        children = psutil.Process(served.process.pid).children()
        (self._process,) = [each for each in children if "proxy" in each.cmdline()]
        self.at_rest_bytes = self.peak_bytes = self.resident_bytes()

    def resident_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    async def watch(self, is_over: Callable[[], object]) -> None:
        while not is_over():
            self.peak_bytes = max(self.peak_bytes, self.resident_bytes())
            await asyncio.sleep(0.1)

    def check(self, what: str, connections: int, *, each_bytes: int = EACH_BYTES) -> None:
        grown = self.peak_bytes - self.at_rest_bytes
        measured.append(
            f"{what:<24} {self.at_rest_bytes / MIB:6.1f} MiB at rest, {self.peak_bytes / MIB:6.1f} MiB at most: "
            f"{grown / connections / KIB:7.1f} KiB for each of {connections:,}"
        )
        assert grown <= connections * each_bytes + CONSTANT_BYTES, measured[-1]


@asynccontextmanager
async def _serving(folder: Path, sink: Sink, database_url: str, redis_url: str) -> AsyncIterator[tuple[Served, Worker]]:
    document = f"""
server: {{drain_timeout: 1s, header_timeout: 5m, body_idle_timeout: 5m}}
redis: {{timeout: 5s}}
upstreams:
  main:
    targets: ["{sink.url}"]
    max_connections: 2000
    max_share_client_paced: 1
    idle_timeout: 30m
    total_timeout: 1h
routes: [{{name: any, match: {{path: /v1/**}}, upstream: main, price: {{credits: 0}}}}]
plans: [{PLAN}]
"""
    async with serving(folder, document, database_url=database_url, redis_url=redis_url) as served:
        head = served.head("/v1/warm", f"content-length: {10 * MIB}", method="POST")
        for _ in range(20):
            assert (await asyncio.to_thread(upload, served.public_url, head, 10 * MIB)).startswith(b"HTTP/1.1 200")
        yield served, Worker(served)


async def test_memory_of_slow_readers_is_bounded(
    tmp_path: Path, sink: Sink, own_database_url: str, redis_url: str
) -> None:
    async with _serving(tmp_path, sink, own_database_url, redis_url) as (served, worker):
        with crowd(served.public_url, CONNECTIONS, served.head("/v1/endless"), is_narrow=True) as clients:
            await worker.watch(lambda: sink.begun == CONNECTIONS)
            over_at = time.monotonic() + WATCH_SECONDS
            while time.monotonic() < over_at:
                for client in clients:
                    assert client.recv(16)
                await worker.watch(iter([False, False, True]).__next__)
            worker.check("slow readers", CONNECTIONS)


async def test_memory_of_slow_headers_is_bounded(
    tmp_path: Path, sink: Sink, own_database_url: str, redis_url: str
) -> None:
    async with _serving(tmp_path, sink, own_database_url, redis_url) as (served, worker):
        begun = b"GET /v1/any HTTP/1.1\r\nhost: gateway.test\r\nx-slow: " + b"s" * 30_000
        with crowd(served.public_url, CONNECTIONS, begun, is_narrow=False) as clients:
            over_at = time.monotonic() + WATCH_SECONDS
            while time.monotonic() < over_at:
                for client in clients:
                    client.sendall(b"s")
                await worker.watch(iter([False, False, True]).__next__)
            worker.check("slow headers", CONNECTIONS)


async def test_memory_of_paused_uploads_is_bounded(
    tmp_path: Path, sink: Sink, own_database_url: str, redis_url: str
) -> None:
    async with _serving(tmp_path, sink, own_database_url, redis_url) as (served, worker):
        begun = served.head("/v1/upload", f"content-length: {UPLOAD_BYTES}", method="POST") + bytes(PAUSED_AFTER_BYTES)
        with crowd(served.public_url, CONNECTIONS, begun, is_narrow=False) as clients:
            await worker.watch(lambda: len(sink.uploading) == CONNECTIONS)
            over_at = time.monotonic() + WATCH_SECONDS
            while time.monotonic() < over_at:
                for client in clients:
                    client.sendall(b"u")
                await worker.watch(iter([False, False, True]).__next__)
            worker.check("paused uploads", CONNECTIONS, each_bytes=PAUSED_BYTES)


async def test_memory_of_large_uploads_is_bounded(
    tmp_path: Path, sink: Sink, own_database_url: str, redis_url: str
) -> None:
    async with _serving(tmp_path, sink, own_database_url, redis_url) as (served, worker):
        head = served.head("/v1/upload", f"content-length: {UPLOAD_BYTES}", method="POST")
        before = len(sink.sizes)
        uploads = [asyncio.to_thread(upload, served.public_url, head, UPLOAD_BYTES) for _ in range(UPLOADS)]
        sending = asyncio.gather(*uploads)
        await worker.watch(sending.done)
        assert [answer[:12] for answer in await sending] == [b"HTTP/1.1 200"] * UPLOADS
        assert sink.sizes[before:] == [UPLOAD_BYTES] * UPLOADS
        worker.check("2 GiB uploads", UPLOADS)
