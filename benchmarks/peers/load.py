"""One load generator for all: wrk, with what it says turned into numbers."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.machine import Family, need
from benchmarks.peers.contender import Contender

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of call. `key` names the contender's key to send; `idle` is how many more connections stand open.
    With `keys_file` the keys in it, one a line, call in turn. With `pause_ms` each connection waits before each call,
    exponentially distributed, as of clients apart from each other: with one pause for all they soon call at once. With
    `varies` each call has another id, trace and forwarded address than those before it, as behind a proxy; they are
    written before the load begins, for writing them would take the cores from what is measured. With `may_fail` some of
    the calls may be refused, which the sample counts.

    A round is at least so long: 64 calls at a time take the slowest contender more than a second.
    """

    name: str
    path: str
    key: str = "ok"
    method: str = "GET"
    body_bytes: int = 0
    json_body: str = ""
    idle: int = 0
    at_least_seconds: int = 2
    keys_file: str = ""
    pause_ms: int = 0
    varies: bool = False
    may_fail: bool = False

    @property
    def is_refused(self) -> bool:
        return self.name.startswith("refused")


@dataclass(frozen=True, slots=True)
class Sample:
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    resident_mib: float
    behind_us: dict[str, float]
    refused: int = 0


_IN_TURN = """
local requests, turn = {{}}, 0
function init(args)
  for key in io.lines("{path}") do
    requests[#requests + 1] = wrk.format(nil, nil, {{["X-API-Key"] = key}})
  end
end
function request() turn = turn % #requests + 1 return requests[turn] end
"""
_VARYING = """
local requests, turn = {}, 0
function init(args)
  for number = 1, 8192 do
    wrk.headers["X-Request-Id"] = string.format("%032x", number)
    wrk.headers["X-Forwarded-For"] = string.format("10.0.%d.%d", number % 251, number % 241)
    wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", number, number)
    requests[number] = wrk.format()
  end
end
function request() turn = turn % #requests + 1 return requests[turn] end
"""
_CHAT = '{"model":"static","messages":[{"role":"user","content":"hi"}]}'
CASES = (
    Case("small JSON", "/call"),
    Case("1 MB upload", "/upload", method="POST", body_bytes=1024 * 1024),
    Case("100 events", "/stream"),
    Case("1,000 idle connections", "/call", idle=1000),
    Case("refused 401", "/call", key="unknown"),
    Case("refused 429", "/call", key="limited"),
    Case("refused 402", "/call", key="broke"),
    Case("chat completion", "/v1/chat/completions", method="POST", json_body=_CHAT, at_least_seconds=10),
)


def drive(contender: Contender, case: Case, folder: Path, *, seconds: int, connections: int = CONNECTIONS) -> Sample:
    """So many seconds of the case. Ends the program where answers are not what the case is about."""
    seconds = max(seconds, case.at_least_seconds)
    script = folder / "load.lua"
    script.write_text(_script(contender, case))
    command = [
        need("wrk", "wrk") or sys.exit("wrk is needed (Debian: wrk)"),
        "-t1",
        f"-c{connections}",
        "--timeout",
        "30s",
    ]
    command += [f"-d{seconds}s", "--latency", "-s", str(script), contender.url + case.path]
    with _idle(contender, case):
        own, behind = contender.processes.cpu_seconds(), _spent(contender.behind)
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        own = contender.processes.cpu_seconds() - own
    requests = int(_found(r"(\d+) requests in", output))
    counted = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    refused = int(counted.group(1)) if counted else 0
    is_answered_well = case.may_fail or refused == (requests if case.is_refused else 0)
    if requests == 0 or not is_answered_well or "Socket errors" in output:
        sys.exit(f"{contender.name} did not answer {case.name!r} well: {contender.endings()}\n{output}")
    return Sample(
        float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        _milliseconds("50%", output),
        _milliseconds("99%", output),
        own / requests * 1e6,
        contender.processes.resident_bytes() / 2**20,
        {name: (after - behind[name]) / requests * 1e6 for name, after in _spent(contender.behind).items()},
        refused,
    )


def _spent(families: Mapping[str, Family]) -> dict[str, float]:
    return {name: family.cpu_seconds() for name, family in families.items()}


def _script(contender: Contender, case: Case) -> str:
    lines = [f'wrk.method = "{case.method}"']
    key = contender.keys.get(case.key)
    if key:
        lines += [f'wrk.headers["X-API-Key"] = "{key}"', f'wrk.headers["Authorization"] = "Bearer {key}"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in contender.fields.items()]
    if case.json_body:
        lines += [f"wrk.body = '{case.json_body}'", 'wrk.headers["Content-Type"] = "application/json"']
    if case.body_bytes:
        lines += [f'wrk.body = string.rep("x", {case.body_bytes})']
        lines += ['wrk.headers["Content-Type"] = "application/octet-stream"']
    if case.pause_ms:
        lines += [f"function delay() return math.floor(0.5 - {case.pause_ms} * math.log(1 - math.random())) end"]
    if case.keys_file:
        lines += [_IN_TURN.format(path=case.keys_file)]
    if case.varies:
        lines += [_VARYING]
    return "\n".join(lines)


@contextmanager
def _idle(contender: Contender, case: Case) -> Iterator[None]:
    """Connections that have made one call and wait."""
    address = urlsplit(contender.url)
    key = contender.keys.get(case.key)
    request = f"GET {case.path} HTTP/1.1\r\nHost: {address.netloc}\r\n" + (f"X-API-Key: {key}\r\n" if key else "")
    with ExitStack() as stack:
        for _ in range(case.idle):
            connection = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            connection.sendall(f"{request}\r\n".encode())
            connection.recv(65536)
        yield


def _milliseconds(percentile: str, output: str) -> float:
    value, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr] # wrk's
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _found(pattern: str, output: str) -> str:
    found = re.search(pattern, output)
    if found is None:
        sys.exit(f"wrk printed something else:\n{output}")
    return found.group(1)
