"""A process that dies is started again as the gateway runs, whatever has become of the file, and a stop ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil

from tests.guarantees.simulation.served_gateway import PATIENCE_SECONDS, Served, serving
from tests.support.polling import eventually

DOCUMENT = """
redis: {timeout: 5s}
upstreams: {main: {targets: ["http://127.0.0.1:9"]}}
routes: [{name: here, match: {path: /v1/here}, upstream: main, price: {credits: 1}}]
plans: [{id: open, name: Open, price: 0}]
"""
OTHER = DOCUMENT.replace("/v1/here", "/v1/there")


async def test_process_starts_again_with_the_configuration_that_was_accepted_last(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with serving(tmp_path, DOCUMENT, database_url=own_database_url, redis_url=redis_url) as served:
        served.path.write_text(OTHER)
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.said("configuration_reloaded") == 2, PATIENCE_SECONDS)
        served.path.write_text("rooutes: []")
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.said("configuration_refused") == 1, PATIENCE_SECONDS)
        _kill_public_worker(served)
        await eventually(lambda: served.said("process_restarted") == 1, PATIENCE_SECONDS)

        assert await _status(served, served.head("/v1/there")) == 502
        assert served.said("process_restart_failed") == 0


async def test_process_starts_again_with_the_settings_of_the_start_that_need_a_restart(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with serving(tmp_path, DOCUMENT, database_url=own_database_url, redis_url=redis_url) as served:
        served.path.write_text(OTHER.replace("{timeout: 5s}", "{timeout: 5s, partitions: 7}\nkeys: {query: key}"))
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.said("configuration_reloaded") == 2, PATIENCE_SECONDS)
        await eventually(lambda: served.said("restart_needed") == 1, PATIENCE_SECONDS)
        _kill_public_worker(served)
        await eventually(lambda: served.said("process_restarted") == 1, PATIENCE_SECONDS)

        assert await _status(served, served.head("/v1/there")) == 502
        by_query = f"GET /v1/there?key={served.key} HTTP/1.1\r\nhost: gateway.test\r\n\r\n".encode()
        assert await _status(served, by_query) == 401, "queries hold no keys until a restart"


async def test_reload_applies_no_setting_that_needs_a_restart(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with serving(tmp_path, DOCUMENT, database_url=own_database_url, redis_url=redis_url) as served:
        served.path.write_text(OTHER + "keys: {prefix: other}\n")
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.said("configuration_reloaded") == 2, PATIENCE_SECONDS)

        assert await _status(served, served.head("/v1/there")) == 502
        assert await _status(served, served.head(f"/v1/{served.key}")) == 400, "a path that holds a key is refused"


async def test_reload_that_meets_a_process_that_starts_is_done_once_it_serves(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with serving(tmp_path, DOCUMENT, database_url=own_database_url, redis_url=redis_url) as served:
        died = _kill_public_worker(served)
        await eventually(lambda: _public_workers(served) not in ([], [died]), PATIENCE_SECONDS)
        (started,) = _public_workers(served)
        os.kill(started, signal.SIGHUP)
        await eventually(lambda: served.said("configuration_reloaded") == 1, PATIENCE_SECONDS)

        assert _public_workers(served) == [started]


async def test_stop_while_a_process_starts_again_is_orderly(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with serving(tmp_path, DOCUMENT, database_url=own_database_url, redis_url=redis_url) as served:
        died = _kill_public_worker(served)
        await eventually(lambda: _public_workers(served) not in ([], [died]), PATIENCE_SECONDS)

        assert await served.stop() == 0, served.log.read_text()
        assert "Traceback" not in served.log.read_text()


def _kill_public_worker(served: Served) -> int:
    (pid,) = _public_workers(served)
    os.kill(pid, signal.SIGKILL)
    return pid


def _public_workers(served: Served) -> list[int]:
    return [each.pid for each in psutil.Process(served.process.pid).children() if _serves_calls(each)]


def _serves_calls(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[3:5] == ["child", "proxy"]
    except psutil.Error:
        return False


async def _status(served: Served, head: bytes) -> int:
    """Of a call, which waits in the socket until a process takes it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await served.connect()
        writer.write(head)
        response = await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
    return int(response[9:12])
