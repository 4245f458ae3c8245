"""The `server` section of gateway.yaml: where the gateway listens, and what clients may ask of its listeners."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BeforeValidator, Field

from gateway.config import quantities
from gateway.config.quantities import (
    Address,
    Duration,
    Kind,
    Listen,
    Network,
    NotNegative,
    Positive,
    Size,
    Timeout,
    about,
)

# RFC 6454 section 6.2, as browsers send it: any scheme, since packaged apps have their own; no path, and a port that
# is not that of the scheme.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

# Several roles on one machine have the same default, so another port is taken where it is in use.
DEFAULT_HEALTH = Address("127.0.0.1", 8082)


def _origins(value: object) -> list[str]:
    """Exact origins, spelt as browsers spell them."""
    written = quantities.listed(value)
    if not isinstance(written, list | tuple):
        raise ValueError("must be a list of origins such as [https://app.example.com]")
    return [_origin(each) for each in written]


def _origin(value: object) -> str:
    if value in ("*", "null"):
        raise ValueError(f"{value!r} would let pages of any website in; name each origin")
    origin = value.lower() if isinstance(value, str) else ""
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"must be an origin such as https://app.example.com, without a path, got {value!r}")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], " "))


def _host_names(value: object) -> list[str]:
    written = quantities.listed(value)
    if not isinstance(written, list | tuple):
        raise ValueError("must be a list of host names such as [gateway-admin.example.com]")
    for name in written:
        if not isinstance(name, str) or not _HOST_NAME.fullmatch(name):
            raise ValueError(f"must be host names such as gateway-admin.example.com, without a port, got {name!r}")
    return list(written)


def _cores(value: object) -> tuple[int, ...]:
    """A variable that names one core is read as a number."""
    written = [value] if isinstance(value, int) else quantities.listed(value)
    if not isinstance(written, list | tuple):
        raise ValueError("must be a list of cores such as [0, 1]")
    for core in written:
        if isinstance(core, bool) or not re.fullmatch(r"[0-9]{1,4}", str(core), re.ASCII):
            raise ValueError(f"must be numbers of cores, which count from 0, got {core!r}")
    return tuple(sorted({int(core) for core in written}))


Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    origins: Annotated[
        Origins,
        Kind("list of origins, such as `[https://app.example.com]`"),
        about("Origins whose pages may call routes and the account API; exact, `*` is refused."),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    public: Annotated[Listen, about("Listener of API clients, the account API and webhooks.")] = field(
        default=Address("0.0.0.0", 8080)
    )
    admin: Annotated[Listen, about("Listener of the admin API and `/metrics`.")] = field(
        default=Address("127.0.0.1", 8081)
    )
    health: Annotated[
        Listen,
        about(
            "Listener of `/livez`, `/readyz` and `/metrics` of each role. Where the default is in use, the role picks "
            "a free port and logs it."
        ),
    ] = field(default=DEFAULT_HEALTH)
    admin_hosts: Annotated[
        tuple[str, ...],
        BeforeValidator(_host_names),
        Kind("list of host names, such as `[gateway-admin.example.com]`"),
        about(
            "Names that the admin listener, and `/metrics` of the health listener, are called by, besides addresses, "
            "`localhost` and names without a dot."
        ),
    ] = ()
    workers: Annotated[Positive, about("Processes of the public listener.")] = 1
    worker_cores: Annotated[
        tuple[int, ...],
        BeforeValidator(_cores),
        Kind("list of numbers of cores, such as `[0]`"),
        about(
            "Cores for public workers and an embedded Valkey alone, so that calls wait for no page, report or backup; "
            "all else that this gateway starts has the others. Linux only."
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Network, ...],
        BeforeValidator(quantities.listed),
        about("Proxies whose `X-Forwarded-*` and `traceparent` fields are believed."),
    ] = ()
    cors: Cors = field(default_factory=Cors)
    # The default is that of nginx, 4 x 8 KiB.
    max_header_bytes: Annotated[Size, Field(ge=1024), about("Longest request line and header fields together.")] = (
        32 * 1024
    )
    header_timeout_seconds: Annotated[
        Timeout, about("Time for a client to send the head of a request.", key="header_timeout")
    ] = 10.0
    body_idle_timeout_seconds: Annotated[
        Timeout, about("Longest pause between two pieces of a request body.", key="body_idle_timeout")
    ] = 30.0
    body_min_rate: Annotated[
        Size,
        about("Bytes a second that a request body must bring, after `body_idle_timeout` as a grace; 0: no minimum."),
    ] = 256
    max_held_body_bytes: Annotated[
        Size,
        Field(ge=1024 * 1024),
        about(
            "Request bodies that each process holds whole, because their price or `Idempotency-Key` needs them; an "
            "account may have a quarter of it."
        ),
    ] = 256 * 1024 * 1024
    max_connections_per_address: Annotated[
        NotNegative,
        about(
            "Connections of a client address, of IPv6 its /64, to each process; 0: no limit. Trusted proxies have none."
        ),
    ] = 2000
    shutdown_delay_seconds: Annotated[
        Duration,
        about(
            "After SIGTERM, how long the gateway goes on accepting while `/readyz` says that it is not ready, so that "
            "load balancers turn away first.",
            key="shutdown_delay",
        ),
    ] = 0.0
    drain_timeout_seconds: Annotated[
        Duration, about("Time for requests under way to end when the gateway stops.", key="drain_timeout")
    ] = 30.0
