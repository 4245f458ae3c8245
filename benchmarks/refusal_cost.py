"""What a request without a right costs the process that answers it, against a good call.

`python -m benchmarks.refusal_cost [--rounds 5] [--requests 500]`. CPU time of the public worker, over one connection,
the kinds interleaved; the ratio is the median over rounds. What stores do for a request is not in it.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from secrets import token_bytes
from urllib.parse import urlsplit

from benchmarks.machine import Family, describe
from benchmarks.peers import nginx, ours
from policies.access.keys import ENTROPY_BYTES, compose

GOOD = "a good call"
_JSON = "content-type: application/json"


def _request(line: str, *fields: str, body: str = "") -> bytes:
    length = [f"content-length: {len(body)}"] if body else []
    return "\r\n".join((f"{line} HTTP/1.1", "host: gateway.test", *fields, *length, "", body)).encode()


def _unknown_key() -> str:
    return f"x-api-key: {compose('gw', token_bytes(ENTROPY_BYTES)).secret}"


def kinds(key: str) -> dict[str, Callable[[], bytes]]:
    """Each kind of request by its name."""
    login = '{"email": "nobody@example.com", "password": "a wrong password"}'
    big = [f"x-big-{number}: {'b' * 1000}" for number in range(29)]
    fixed = {
        GOOD: _request("GET /call", f"x-api-key: {key}"),
        "no route": _request("GET /nothing"),
        "no key": _request("GET /call"),
        "malformed key": _request("GET /call", "x-api-key: gw_live_malformed"),
        "no key, 29 KiB of fields": _request("GET /call", *big),
        "/plans": _request("GET /plans"),
        "/me without token": _request("GET /me"),
        "/openapi.json": _request("GET /openapi.json"),
        "/docs": _request("GET /docs"),
        "register, 422": _request("POST /auth/register", _JSON, body='{"email": 1}'),
        "login, throttled": _request("POST /auth/login", _JSON, body=login),
        "forgot-password": _request("POST /auth/forgot-password", _JSON, body='{"email": "nobody@example.com"}'),
    }
    made: dict[str, Callable[[], bytes]] = {name: lambda sent=sent: sent for name, sent in fixed.items()}  # type: ignore[misc] # mypy sees no default
    made["unknown key"] = lambda: _request("GET /call", _unknown_key())
    made["/me/limits, unknown key"] = lambda: _request("GET /me/limits", _unknown_key())
    return made


class Client:
    """One connection, opened again when it is closed."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._place = (address.hostname or "", address.port or 80)
        self._socket = socket.create_connection(self._place)

    def ask(self, request: bytes) -> str:
        """The status."""
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        head = head.lower() + b"\r\n"
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or b"0")
        while len(body) < length:
            body += self._receive()
        if b"\r\nconnection: close" in head:
            self._socket.close()
            self._socket = socket.create_connection(self._place)
        return head[9:12].decode()

    def _receive(self) -> bytes:
        received = self._socket.recv(262144)
        if not received:
            raise ConnectionError("the gateway closed the connection without a response")
        return received


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.refusal_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        contender = stack.enter_context(ours.gateway(folder, upstream))
        worker = contender.processes
        client, made = Client(contender.url), kinds(contender.keys["ok"])
        costs: dict[str, list[float]] = {name: [] for name in made}
        statuses: dict[str, Counter[str]] = {name: Counter() for name in made}
        for number in range(given.rounds + 1):
            for name, make in made.items():
                asked, cost = _cost(worker, client, make, given.requests)
                if number:  # the first round warms up, and uses up what throttles give
                    costs[name].append(cost)
                    statuses[name] += asked
    print(f"{describe()}; medians of {given.rounds} rounds of {given.requests} requests\n")
    print("| | answers | CPU µs | against a good call (spread) |")
    print("|---|---|---|---|")
    for name, of in costs.items():
        ratios = [cost / good for cost, good in zip(of, costs[GOOD], strict=True)]
        answers = ", ".join(f"{status} {count:,}" for status, count in sorted(statuses[name].items()))
        print(
            f"| {name} | {answers} | {1e6 * statistics.median(of):,.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def _cost(worker: Family, client: Client, make: Callable[[], bytes], count: int) -> tuple[Counter[str], float]:
    """The answers, and CPU seconds for each."""
    requests = [make() for _ in range(count)]
    before = worker.cpu_seconds()
    statuses = Counter(client.ask(request) for request in requests)
    return statuses, (worker.cpu_seconds() - before) / count


if __name__ == "__main__":
    main()
