"""The topology of a Redis cluster: its URL, and the slot map that the replies of its nodes add up to.

Nodes may disagree for a while. Each slot range carries a configuration epoch, and the greatest epoch wins, as among the
nodes themselves (Redis cluster specification, "Hash slots configuration propagation").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

__all__ = [
    "SLOTS",
    "Address",
    "ClusterUrl",
    "SlotRange",
    "View",
    "key_slot",
    "owners",
    "parse_address",
    "redirection",
    "view",
]

SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
DEFAULT_PORT = 6379


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SlotRange(NamedTuple):
    """The slots from `first` to `last`, both included, that a master has had since a configuration epoch."""

    epoch: int
    first: int
    last: int
    master: Address


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as one node knows it; `addresses` are those of all masters with slots and of their replicas."""

    ranges: tuple[SlotRange, ...]
    addresses: frozenset[Address]


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """`redis+cluster://user:password@host:port,host:port?option=value`: some nodes, and the login for all."""

    scheme: str
    login: str
    seeds: tuple[Address, ...]
    query: str

    @classmethod
    def parse(cls, url: str) -> ClusterUrl | None:
        """None for the URL of a single server. Raises ValueError with the reason, without the password."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            return None
        login, at, hosts = parts.netloc.rpartition("@")
        if parts.path not in ("", "/", "/0"):
            raise ValueError("must name no database but 0, which is the only one of a cluster")
        seeds = tuple(parse_address(host, DEFAULT_PORT) for host in hosts.split(","))
        return cls(SCHEMES[parts.scheme], login + at, seeds, f"?{parts.query}" if parts.query else "")

    def of(self, address: Address) -> str:
        """The URL of one node."""
        return f"{self.scheme}://{self.login}{address}{self.query}"


def view(slots: Sequence[Any], nodes: bytes, *, asked: Address) -> View:
    """From the replies to CLUSTER SLOTS, which has addresses for clients, and CLUSTER NODES, which has epochs."""
    epochs = {fields[0]: int(fields[6]) for line in nodes.splitlines() if len(fields := line.split()) > 6}
    ranges, addresses = [], set()
    for first, last, *servers in slots:
        places = [_place(server, asked) for server in servers]
        addresses.update(places)
        ranges.append(SlotRange(epochs.get(servers[0][2], 0), int(first), int(last), places[0]))
    return View(tuple(ranges), frozenset(addresses))


def owners(views: Iterable[View]) -> list[Address | None]:
    """The master of each slot; None for a slot without one."""
    found: list[Address | None] = [None] * SLOTS
    for slots in sorted(slots for each in views for slots in each.ranges):
        found[slots.first : slots.last + 1] = [slots.master] * (slots.last + 1 - slots.first)
    return found


def redirection(message: str, *, asked: Address) -> tuple[int, Address]:
    """The slot and the address of `MOVED 3999 127.0.0.1:6381`; an empty host is that of the node that replied."""
    _, slot, place = message.split(" ", 2)
    host, _, port = place.rpartition(":")
    return int(slot), Address(host.strip("[]") or asked.host, int(port))


def _place(server: Sequence[Any], asked: Address) -> Address:
    """The host is nil if the node does not know its own name; clients then use the one they connected to."""
    host = (server[0] or b"").decode()
    return Address(asked.host if host in ("", "?") else host, int(server[1]))


def parse_address(host_and_port: str, default_port: int) -> Address:
    """Raises ValueError."""
    parts = urlsplit(f"//{host_and_port}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.username is not None:
        raise ValueError("must name servers as host:port, separated by commas")
    return Address(host, default_port if port is None else port)
