"""Getting connected: every address a name has, the next one tried before the last has given up (RFC 8305).

uvloop's `create_connection` tries addresses strictly one after another, so one that drops packets would use up the
whole connect timeout.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest

from gateway.upstream.address import Address
from gateway.upstream.connection import Connection

# RFC 8305 section 5, Connection Attempt Delay.
ATTEMPT_DELAY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections to one address. OSError when no host of its name can be connected to."""

    address: Address
    new_connection: Callable[[], Connection]
    tls: ssl.SSLContext | None = None

    async def dial(self) -> Connection:
        """The first connection that stands. Cancelling it leaves none behind."""
        hosts = [self.address.host] if _is_literal(self.address.host) else await self._resolve()
        if len(hosts) == 1:
            return await self._connect(hosts[0])
        attempts: list[asyncio.Task[Connection]] = []
        winner: asyncio.Task[Connection] | None = None
        try:
            winner = await self._race(hosts, attempts)
            return winner.result()
        finally:
            for attempt in attempts:
                if attempt is not winner:
                    attempt.cancel()
                    attempt.add_done_callback(_close_late)

    async def _race(self, hosts: list[str], attempts: list[asyncio.Task[Connection]]) -> asyncio.Task[Connection]:
        """Start one attempt after another until one stands, or all have failed; that one."""
        loop = asyncio.get_running_loop()
        for host in hosts:
            attempts.append(loop.create_task(self._connect(host)))
            if winner := await _first_of(attempts, within_seconds=ATTEMPT_DELAY_SECONDS):
                return winner
        while any(not attempt.done() for attempt in attempts):
            if winner := await _first_of(attempts, within_seconds=None):
                return winner
        return attempts[-1]

    async def _connect(self, host: str) -> Connection:
        encrypted = self.address.scheme == "https"
        connection = self.new_connection()
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                host,
                self.address.port,
                ssl=self.tls if encrypted else None,
                server_hostname=self.address.host if encrypted else None,
            )
        except BaseException:
            connection.forsake()
            raise
        return connection

    async def _resolve(self) -> list[str]:
        """The hosts in the resolver's order of preference, the families taking turns (RFC 8305 section 4)."""
        address = self.address
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        families: dict[int, list[str]] = {}
        for family, _, _, _, where in found:
            families.setdefault(family, []).append(str(where[0]))
        in_turn = chain.from_iterable(zip_longest(*families.values()))
        return list(dict.fromkeys(host for host in in_turn if host is not None))


async def _first_of(
    attempts: list[asyncio.Task[Connection]], *, within_seconds: float | None
) -> asyncio.Task[Connection] | None:
    running = [attempt for attempt in attempts if not attempt.done()]
    done, _ = await asyncio.wait(running, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
    return next((attempt for attempt in done if attempt.exception() is None), None)


def _close_late(attempt: asyncio.Task[Connection]) -> None:
    """A loser that stood after all, or could not be cancelled any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abort()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
