"""What a request without a right costs, against a good call: of the process that answers it, and with the stores.

`python -m benchmarks.refusal_cost [--rounds 5] [--requests 400] [--only WORD…]`. CPU time, over one connection, the
kinds interleaved; ratios are medians over rounds. Before a kind is measured, as many of it use up what paces give at
first: that is bounded by their bursts, and what goes on is what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.machine import Family, describe, pids_running
from benchmarks.peers import nginx, ours
from benchmarks.refusal_cost import kinds
from benchmarks.refusal_cost.kinds import GOOD, JWT_SECRET, Make

SETTLING_SECONDS = 0.3  # the usage writer books a call a moment after it is answered
ROUNDS, REQUESTS = 5, 400
_BILLING = 'billing: {stripe: {api_base: "http://127.0.0.1:9"}}\n'
_SERVER = ', trusted_proxies: ["127.0.0.1/32"], cors: {origins: ["https://app.example.com"]}'
_ENVIRONMENT = {
    "GATEWAY_JWT_SECRET": JWT_SECRET,
    "STRIPE_SECRET_KEY": "sk_test_none",
    "STRIPE_WEBHOOK_SECRET": "whsec_none",
}


class Client:
    """One connection, opened again when it is closed."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._place = (address.hostname or "", address.port or 80)
        self._socket = socket.create_connection(self._place)

    def ask(self, request: bytes) -> tuple[str, bytes]:
        """The status and the body."""
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
        return head[9:12].decode(), body

    def _receive(self) -> bytes:
        received = self._socket.recv(262144)
        if not received:
            raise ConnectionError("the gateway closed the connection without a response")
        return received


@dataclass
class Measured:
    """A kind: its listener, and for each round the CPU seconds of a request, of the gateway and of all."""

    make: Make
    client: Client
    role: str
    own: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def measure(self, serve_pid: int, count: int, *, is_kept: bool) -> None:
        for _ in range(count):
            self.client.ask(self.make())
        requests = [self.make() for _ in range(count)]
        time.sleep(SETTLING_SECONDS)
        before = _cpu_seconds(serve_pid, self.role)
        statuses = Counter(self.client.ask(request)[0] for request in requests)
        time.sleep(SETTLING_SECONDS)
        after = _cpu_seconds(serve_pid, self.role)
        if is_kept:
            self.own.append((after[0] - before[0]) / count)
            self.whole.append((after[1] - before[1]) / count)
            self.answers += statuses


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.refusal_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    os.environ.update(_ENVIRONMENT)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        contender, printed = stack.enter_context(
            ours.serving(folder, upstream, more_routes=_BILLING, more_server=_SERVER)
        )
        (worker,) = contender.processes.pids
        all_kinds = _kinds(contender.url, printed["admin_url"], contender.keys["ok"])
        measured = {
            name: each
            for name, each in all_kinds.items()
            if name == GOOD or not given.only or any(word in name for word in given.only)
        }
        for number in range(given.rounds + 1):
            for each in measured.values():
                each.measure(_parent(worker), given.requests, is_kept=number > 0)
    print(f"{describe()}; medians of {given.rounds} rounds of {given.requests} requests\n")
    _print_table(measured)


def _kinds(public_url: str, admin_url: str, key: str) -> dict[str, Measured]:
    client, admin = Client(public_url), Client(admin_url)
    over = _ended_session(client)
    return {
        **{name: Measured(make, client, "proxy") for name, make in kinds.public(key).items()},
        **{name: Measured(make, client, "proxy") for name, make in kinds.account(over).items()},
        **{name: Measured(make, admin, "admin") for name, make in kinds.admin().items()},
    }


def _ended_session(client: Client) -> str:
    """The access token of a session that is over."""
    account = {"email": "over@example.com", "password": "correct horse battery staple"}
    client.ask(kinds.written("POST /auth/register", "content-type: application/json", body=json.dumps(account)))
    _, body = client.ask(kinds.written("POST /auth/login", "content-type: application/json", body=json.dumps(account)))
    token = str(json.loads(body)["access_token"])
    client.ask(kinds.written("POST /auth/logout", f"authorization: Bearer {token}"))
    return token


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _cpu_seconds(serve_pid: int, role: str) -> tuple[float, float]:
    """Of the process that answers, and of everything: the gateway, its workers, PostgreSQL and Valkey."""
    family = Family.of(serve_pid)
    own = pids_running(family, "child", role)
    return sum(map(_exact_seconds, own.pids)), sum(map(_exact_seconds, family.pids))


def _exact_seconds(pid: int) -> float:
    """Of all threads, in nanoseconds (schedstat) where `stat` counts ticks of 10 ms."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def _print_table(measured: dict[str, Measured]) -> None:
    good = measured[GOOD]
    print("| | answers | CPU µs | against a good call (spread) | with the stores, µs | against a good call |")
    print("|---|---|---|---|---|---|")
    for name, each in measured.items():
        own = [cost / base for cost, base in zip(each.own, good.own, strict=True)]
        whole = [cost / base for cost, base in zip(each.whole, good.whole, strict=True)]
        answers = ", ".join(f"{status} {count:,}" for status, count in sorted(each.answers.items()))
        print(
            f"| {name} | {answers} | {1e6 * statistics.median(each.own):,.0f} "
            f"| {statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f}) "
            f"| {1e6 * statistics.median(each.whole):,.0f} | {statistics.median(whole):.2f} |"
        )


if __name__ == "__main__":
    main()
