"""A Valkey Cluster of masters on loopback, each a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.machine import Family
from benchmarks.peers.contender import running
from gateway.embedded.binaries import find_valkey

SLOTS = 16_384
FIRST_PORT = 21_000
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Cluster:
    masters: tuple[redis.Redis, ...]
    processes: tuple[Family, ...]
    url: str

    def used_bytes(self) -> int:
        return sum(int(master.info("memory")["used_memory"]) for master in self.masters)


@contextmanager
def cluster(folder: Path, masters: int, *, first_port: int) -> Iterator[Cluster]:
    """Masters with equal parts of the slots, without replicas, until the end of the block."""
    ports = range(first_port, first_port + masters)
    with ExitStack() as stack:
        processes = [stack.enter_context(_master(folder, port)) for port in ports]
        clients = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        for number, client in enumerate(clients):
            first, last = SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        _wait(clients)
        yield Cluster(
            tuple(clients),
            tuple(Family.of(process.pid) for process in processes),
            f"redis+cluster://127.0.0.1:{ports[0]}",
        )


def _wait(clients: list[redis.Redis]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(_knows(client, len(clients)) for client in clients):
        if time.monotonic() > deadline:
            sys.exit("the servers do not form a cluster")
        time.sleep(0.05)


def _knows(client: redis.Redis, servers: int) -> bool:
    found = client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
    text = found if isinstance(found, dict) else dict(line.split(":", 1) for line in found.decode().split() if line)
    return (text["cluster_state"], int(text["cluster_known_nodes"])) == ("ok", servers)


@contextmanager
def _master(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    own = folder / str(port)
    own.mkdir(parents=True)
    given = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": own,
        "cluster-enabled": "yes",
        "cluster-announce-ip": "127.0.0.1",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    with running([str(find_valkey()), *options], port, own / "log") as process:
        yield process
