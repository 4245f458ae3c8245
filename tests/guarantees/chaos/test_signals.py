"""SIGTERM with open streams, SIGHUP under load: responses end whole or visibly broken, and each call is recorded."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from gateway.listener.ending import BEGINNING
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation.served_gateway import PLAN, Served, serving
from tests.proxy import upstream as upstreams
from tests.proxy.upstream import Exchange
from tests.support.sampling import scaled

STREAMS = 200
DRAIN_SECONDS = 2.0
GRACE_SECONDS = scaled(suite=8, full=2)  # the suite shares its machine
RELOADS = scaled(suite=10, full=100)
LOADING = 3
FRESH_CONNECTIONS = 8  # the kernel spreads them over the workers
PATIENCE_SECONDS = 30.0  # only a failure waits so long
REFUSED = "configuration_refused"
ENDING = b"0\r\n\r\n"


@dataclass
class Streams:
    """An upstream of streams that have begun: /short ones end when released, /long ones never."""

    begun: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, exchange: Exchange) -> None:
        await exchange.read()
        await exchange.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        self.begun += 1
        if exchange.target.startswith("/v1/short"):
            await self.released.wait()
        else:
            await asyncio.Event().wait()
        await exchange.write(b"5\r\nended\r\n" + ENDING)


async def test_sigterm_completes_what_ends_in_time_and_settles_the_rest(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    streams = Streams()
    async with upstreams.running() as upstream:
        upstream.answer = streams.answer
        document = f"""
server: {{workers: 2, drain_timeout: {DRAIN_SECONDS:.0f}s}}
redis: {{timeout: 5s}}
upstreams: {{main: {{targets: ["{upstream.url}"]}}}}
routes: [{{name: stream, match: {{path: /v1/**}}, upstream: main, price: {{credits: 1}}}}]
plans: [{PLAN}]
"""
        async with serving(tmp_path, document, database_url=own_database_url, redis_url=redis_url) as served:
            clients = [await _begin(served, number) for number in range(STREAMS)]
            assert streams.begun == STREAMS
            told_at = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            await _accepts_nobody(served)
            streams.released.set()
            ends = await asyncio.gather(*(_end(reader) for reader, _ in clients))
            code = await asyncio.wait_for(served.process.wait(), PATIENCE_SECONDS)
            took_seconds = time.monotonic() - told_at
            for _, writer in clients:
                writer.transport.abort()

            measured.append(f"SIGTERM: {STREAMS} streams, exit after drain + {took_seconds - DRAIN_SECONDS:.1f} s")
            assert code == 0, served.log.read_text()
            assert [end.endswith(b"ended\r\n" + ENDING) for end in ends] == [_is_short(each) for each in range(STREAMS)]
            assert took_seconds < DRAIN_SECONDS + GRACE_SECONDS
            assert await served.open_holds() == 0
            assert Counter((outcome, charged) for _, outcome, charged in await served.rows()) == {
                ("succeeded", 1): STREAMS // 2,
                ("abandoned", 0): STREAMS // 2,
            }


def _is_short(number: int) -> bool:
    return number % 2 == 0


async def _begin(served: Served, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await served.connect()
    writer.write(served.head(f"/v1/{'short' if _is_short(number) else 'long'}/{number}"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reader.readuntil(b"begun\r\n")
    return reader, writer


async def _end(reader: asyncio.StreamReader) -> bytes:
    """Reads until the gateway closes the connection, without what it sends to one that is idle before it does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        try:
            return (await reader.read()).removesuffix(BEGINNING)
        except ConnectionResetError:
            return b""


async def _accepts_nobody(served: Served) -> None:
    """Returns once all workers refuse connections."""
    refused = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while refused < FRESH_CONNECTIONS:
            try:
                _, writer = await served.connect()
            except ConnectionError:
                refused += 1
            else:
                refused = 0
                writer.transport.abort()
                await asyncio.sleep(0.01)


# The configurations of the reloads: every second one is invalid.

BROKEN = [
    "routes: [",
    "routes: [{name: x, match: {path: /v1/**}, upstream: nowhere, price: {credits: 1}}]",
    "upstreams: {main: {targets: [ftp://nowhere]}}",
    "server: {workers: 0}",
    "rooutes: []",
]


LOGGED = "[path, code]"


def _document(upstream_url: str, number: int) -> str:
    return f"""
log: {{fields: {LOGGED if number else "[at]"}}}
server: {{workers: 2, drain_timeout: {5 + number}s}}
redis: {{timeout: 5s}}
upstreams: {{main: {{targets: ["{upstream_url}"]}}}}
routes:
  - {{name: steady, match: {{path: /v1/steady}}, upstream: main, price: {{credits: 1}}}}
  - {{name: moving{number}, match: {{path: /v1/moving/{number}}}, upstream: main, price: {{credits: 0}}}}
plans: [{PLAN}, {{id: plan{number}, name: Plan {number}, price: 1}}]
"""


async def test_sighup_fails_no_request_and_refuses_an_invalid_configuration(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with upstreams.running() as upstream:
        first = _document(upstream.url, 0)
        async with serving(tmp_path, first, database_url=own_database_url, redis_url=redis_url) as served:
            enough = asyncio.Event()
            supervisor = psutil.Process(served.process.pid)
            assert {_has_database(each) for each in supervisor.children()} == {True}
            assert not _has_database(supervisor), "a process that has ended has prepared the stores"
            loads = [asyncio.create_task(_load(served, enough)) for _ in range(LOADING)]
            current = 0
            for number in range(1, RELOADS + 1):
                is_valid = number % 2 == 1
                document = _document(upstream.url, number) if is_valid else BROKEN[number // 2 % len(BROKEN)]
                await _reload(served, document)
                if is_valid:
                    await _moves(served, to=number)
                    current = number
                else:
                    await _wait_for_refusals(served, number // 2)
                    assert await _statuses(served, current) == {200}
            assert await _is_known_to_admin(served, current)
            assert '{"event":"request","path":"/v1/steady","code":"succeeded"}' in served.log.read_text()
            assert served.log.read_text().count("server.drain_timeout") == served.said("restart_needed") == RELOADS // 2
            enough.set()
            answered: Counter[int] = sum(await asyncio.gather(*loads), Counter())

            measured.append(f"SIGHUP: {RELOADS} times, {answered[200]:,} requests answered 200, {answered[0]} failed")
            assert answered.keys() == {200}
            assert answered[200] > RELOADS, "there must be a load"
            assert await served.stop() == 0
            charged = [charged for _, _, charged in await served.rows()]
            assert sum(charged) == answered[200]


def _has_database(process: psutil.Process) -> bool:
    """Whether it has imported what speaks to PostgreSQL, which takes 40 MiB."""
    return any("/sqlalchemy/" in each.path for each in process.memory_maps())


async def _load(served: Served, enough: asyncio.Event) -> Counter[int]:
    """One client's answers by status, over one connection; a failure counts as 0."""
    statuses: Counter[int] = Counter()
    reader, writer = await served.connect()
    try:
        while not enough.is_set():
            statuses[await _status(served, reader, writer, "/v1/steady")] += 1
    except (ConnectionError, asyncio.IncompleteReadError):
        statuses[0] += 1
    writer.transport.abort()
    return statuses


async def _status(served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        writer.write(served.head(target))
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
    return int(head[9:12])


async def _reload(served: Served, document: str) -> None:
    new = served.path.with_suffix(".new")
    new.write_text(document)
    new.replace(served.path)  # at once, so that nobody reads half of it
    served.process.send_signal(signal.SIGHUP)


async def _statuses(served: Served, number: int) -> set[int]:
    """How fresh connections are answered on the route of that configuration."""
    statuses = set()
    for _ in range(FRESH_CONNECTIONS):
        reader, writer = await served.connect()
        statuses.add(await _status(served, reader, writer, f"/v1/moving/{number}"))
        writer.transport.abort()
    return statuses


async def _is_known_to_admin(served: Served, number: int) -> bool:
    """Whether the admin API says that the key may call the route of that configuration, and has its plan."""
    headers = {"authorization": f"Bearer {served.config.secrets.admin_token}"}
    async with httpx.AsyncClient(base_url=f"{served.admin_url}/admin/v1", headers=headers) as client:
        verdict = await client.post("/keys/verify", json={"key": served.key, "route": f"moving{number}"})
        plan = await client.get(f"/plans/plan{number}")
    return bool(verdict.json().get("admitted")) and plan.status_code == 200


async def _moves(served: Served, *, to: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await _statuses(served, to) != {200}:  # noqa: ASYNC110 - processes of their own
            await asyncio.sleep(0.01)


async def _wait_for_refusals(served: Served, refusals: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while served.said(REFUSED) < refusals:  # noqa: ASYNC110 - a log file
            await asyncio.sleep(0.01)
