"""Opens connections: tries all addresses of a name, each before the one before it has given up (RFC 8305).

uvloop's `create_connection` tries addresses strictly one after another, so an address that drops packets would use up
the whole connect timeout.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from aiohappyeyeballs import AddrInfoType, start_connection

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
        """The first connection that is established. A cancelled call leaves no connection behind."""
        hosts = _literal(self.address) or await self._resolve()
        try:
            connected = await start_connection(hosts, happy_eyeballs_delay=ATTEMPT_DELAY_SECONDS, interleave=1)
        except RuntimeError as error:  # which uvloop raises for some failures of a socket
            raise OSError(str(error)) from error
        return await self._take_over(connected)

    async def _take_over(self, connected: socket.socket) -> Connection:
        encrypted = self.address.scheme == "https"
        connection = self.new_connection()
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=connected,
                ssl=self.tls if encrypted else None,
                server_hostname=self.address.host if encrypted else None,
            )
        except BaseException:
            connection.discard()
            connected.close()
            raise
        return connection

    async def _resolve(self) -> list[AddrInfoType]:
        address = self.address
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(found))


def _literal(address: Address) -> list[AddrInfoType] | None:
    """An IP address as `getaddrinfo` gives it, without the thread that asks; None for a name."""
    try:
        version = ipaddress.ip_address(address.host).version
    except ValueError:
        return None
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address.host, address.port))]
