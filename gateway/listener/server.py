"""The public listener: HTTP/1.1 from untrusted clients, on a uvicorn server.

uvicorn manages the sockets and the tasks. Its HTTP protocol is replaced: on httptools it merges trailers
into the headers that were authorised, loses the body of `Upgrade: h2c`, and waits without limit for a head; see
docs/decisions/0005-listener.md.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any, cast

import uvicorn

from gateway.listener.connection import PublicProtocol
from gateway.listener.connection_gate import ConnectionGate
from gateway.listener.limits import DEFAULT_LIMITS, ListenerLimits

__all__ = ["DEFAULT_LIMITS", "ListenerLimits", "PublicProtocol", "build_gate", "configure"]


# Descriptors for everything but clients and the upstream connections that serve them: stores, logs, listeners.
_RESERVED_DESCRIPTORS = 64


def configure(app: Any, gate: ConnectionGate | None = None) -> uvicorn.Config:
    """uvicorn's configuration for an application behind this listener, whose connections share the gate.

    `proxy_headers` is off: uvicorn would take the client's address from X-Forwarded-For where the peer is 127.0.0.1.
    """
    return uvicorn.Config(
        app,
        interface="asgi3",  # uvicorn would guess it by the shape of `__call__`
        http=cast("type[asyncio.Protocol]", partial(PublicProtocol, gate=gate or build_gate())),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


def build_gate(
    limits: ListenerLimits = DEFAULT_LIMITS, *, trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
) -> ConnectionGate:
    """The gate of a process, with connections limited to half the descriptors: each may need one towards an upstream.

    Connections of trusted proxies do not count as those of one address.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors != resource.RLIM_INFINITY:
        affordable = max(1, (descriptors - _RESERVED_DESCRIPTORS) // 2)
        limits = replace(limits, max_connections=min(limits.max_connections, affordable))
    return ConnectionGate(limits, trusted_proxies)
