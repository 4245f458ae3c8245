"""The kernel holds a bounded amount for a client that does not read."""

from __future__ import annotations

import socket

import pytest

from gateway.runtime.sockets import UNSENT_BYTES, bind

pytestmark = pytest.mark.unit
NARROW_BYTES = 4096


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no bound for it")
def test_connection_of_a_slow_reader_takes_little_from_the_gateway() -> None:
    (listening,) = bind("server.public", "127.0.0.1", 0)
    with listening, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
        client.connect(listening.getsockname())
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(0.5)  # far above what the kernel needs to take more, if it would
            assert _taken_bytes(connection) <= 2 * UNSENT_BYTES


def _taken_bytes(connection: socket.socket) -> int:
    taken = 0
    while taken <= 2 * UNSENT_BYTES:
        try:
            taken += connection.send(bytes(64 * 1024))
        except TimeoutError:
            break
    return taken
