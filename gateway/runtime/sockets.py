"""The listening sockets: bound before any process starts, so that a taken port is one clear line, not a crash later."""

from __future__ import annotations

import errno
import socket


class AddressUnusable(Exception):  # noqa: N818 - reads as the sentence it is
    """An address that was configured cannot be listened on; the message says which and why."""


# What the kernel holds for a client beyond what is on its way: without a bound up to 4 MiB for each that does not read,
# all of them read from the upstream and written. What is on its way, and so the throughput, is not limited by it.
UNSENT_BYTES = 256 * 1024

BACKLOG = 4096  # nginx and Envoy rely on somaxconn, which Linux sets to 4096


def bind(setting: str, host: str, port: int, *, count: int = 1) -> list[socket.socket]:
    """`count` sockets on one address, which the kernel balances connections over (SO_REUSEPORT).

    Port 0 picks a free one, the same for all. Raises AddressUnusable, naming `setting`.
    """
    first = _bind_one(setting, host, port, shared=False)
    if count == 1:
        first.listen(BACKLOG)
        return [first]
    port = first.getsockname()[1]
    first.close()
    sockets = [_bind_one(setting, host, port, shared=True) for _ in range(count)]
    for each in sockets:
        each.listen(BACKLOG)
    return sockets


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_one(setting: str, host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # inherited by each connection
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    if shared:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        reason = "it is in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
        raise AddressUnusable(f"{setting}: cannot listen on {host}:{port}: {reason}") from error
    listening.set_inheritable(True)
    return listening
