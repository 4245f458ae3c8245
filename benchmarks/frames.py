"""How many Python frames a metered call enters and how many calls into C it makes, by module or by function.

`python -m benchmarks.frames [--rounds 50] [--connections 16] [--by function] [--fields vary]`. Counts are the same on a
busy machine, so they show what a change of the hot path does where times cannot. `--fields vary` sends another request
id, trace and Forwarded-For with each request, as a proxy does that serves many clients.

A coroutine that waits enters its frame again when it goes on. "Every call" sums the functions that are entered at least
once for two calls; the rest is what the process does in the meantime, which grows with the time that the run takes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.machine import describe
from benchmarks.peers import nginx, ours
from benchmarks.peers.contender import Contender

# Runs in each process of the gateway: SIGUSR2 begins to count, the next one writes what was counted.
_HOOK = """
import collections, json, os, pathlib, signal, sys

frames, calls = collections.Counter(), collections.Counter()


def count(frame, event, argument):
    if event == "call":
        code = frame.f_code
        frames[f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"] += 1
    elif event == "c_call":
        code = frame.f_code
        calls[f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"] += 1


def toggle(number, frame):
    if sys.getprofile() is None:
        frames.clear()
        calls.clear()
        sys.setprofile(count)
    else:
        sys.setprofile(None)
        written = pathlib.Path(os.environ["FRAMES_FOLDER"], f"{os.getpid()}.json")
        written.with_suffix(".part").write_text(json.dumps([frames, calls]))
        written.with_suffix(".part").rename(written)


if sys.argv[:1] and "proxy" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, toggle)
"""
_WARM_ROUNDS = 20
_WAIT_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.frames", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--by", choices=("module", "function"), default="module")
    parser.add_argument("--fields", choices=("repeat", "vary"), default="repeat")
    parser.add_argument("--path", default="/call")
    given = parser.parse_args()
    by_function = _count(given)
    requests = given.rounds * given.connections
    of_every_call = {name for name in by_function.frames if by_function.frames[name] * 2 >= requests}
    frames, calls = (_named(each, given.by) for each in by_function)
    print(f"{describe()}; {requests} calls on {given.connections} connections, fields {given.fields}\n")
    print(f"| {given.by} | frames | calls into C |\n|---|---|---|")
    for name in sorted(frames | calls, key=lambda each: -frames[each] - calls[each] / 1000):
        if (frames[name] + calls[name]) * 20 > requests:
            print(f"| {name} | {frames[name] / requests:.2f} | {calls[name] / requests:.2f} |")
    for name, counted in (("every call", of_every_call), ("all", by_function.frames.keys() | by_function.calls.keys())):
        sums = [sum(each[function] for function in counted) / requests for each in by_function]
        print(f"| {name} | {sums[0]:.1f} | {sums[1]:.1f} |")


class Counts(NamedTuple):
    """By function, which is named by its file, line and name."""

    frames: Counter[str]
    calls: Counter[str]


def _count(given: argparse.Namespace) -> Counts:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "sitecustomize.py").write_text(_HOOK)
        stack.enter_context(_environment(PYTHONPATH=str(folder), FRAMES_FOLDER=str(folder)))
        upstream = stack.enter_context(nginx.upstream(folder))
        gateway = stack.enter_context(ours.gateway(folder, upstream))
        proxy = min(gateway.processes.pids)
        connections = [stack.enter_context(_connected(gateway)) for _ in range(given.connections)]
        requests = _requests(gateway, given.path, vary=given.fields == "vary")
        for _ in range(_WARM_ROUNDS):
            _round(connections, requests)
        os.kill(proxy, signal.SIGUSR2)
        time.sleep(0.1)
        for _ in range(given.rounds):
            _round(connections, requests)
        os.kill(proxy, signal.SIGUSR2)
        frames, calls = json.loads(_awaited(folder / f"{proxy}.json"))
    return Counts(Counter(frames), Counter(calls))


def _round(connections: list[socket.socket], requests: Iterator[bytes]) -> None:
    for each in connections:
        each.sendall(next(requests))
    for each in connections:
        response = HTTPResponse(each)
        response.begin()
        if response.status != HTTPStatus.OK:
            raise SystemExit(f"a call failed: {response.status} {response.read()[:300].decode()}")
        response.read()


def _requests(gateway: Contender, path: str, *, vary: bool) -> Iterator[bytes]:
    number = 0
    start = f"GET {path} HTTP/1.1\r\nhost: bench\r\naccept: */*\r\nauthorization: Bearer {gateway.keys['ok']}\r\n"
    while True:
        number += 1
        own = f"x-request-id: {number:032x}\r\nx-forwarded-for: 10.0.{number % 251}.{number % 241}\r\n" if vary else ""
        trace = f"traceparent: 00-{number:032x}-{number:016x}-01\r\n" if vary else ""
        yield f"{start}{own}{trace}\r\n".encode()


@contextmanager
def _connected(gateway: Contender) -> Iterator[socket.socket]:
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.settimeout(_WAIT_SECONDS)
        yield connection


@contextmanager
def _environment(**more: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _awaited(file: Path) -> str:
    for _ in range(_WAIT_SECONDS * 100):
        if file.exists():
            return file.read_text()
        time.sleep(0.01)
    raise SystemExit("the proxy wrote no counts")


def _named(counts: dict[str, int], by: str) -> Counter[str]:
    root = f"{Path.cwd()}/"
    named = Counter[str]()
    for place, count in counts.items():
        file, _, function = place.partition(" ")
        path, _, _line = file.rpartition(":")
        short = path.removeprefix(root)
        named[f"{short} {function}" if by == "function" else short] += count
    return named


if __name__ == "__main__":
    main()
