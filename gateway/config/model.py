"""The configuration as the composition root takes it: frozen values, one per section of gateway.yaml.

Pydantic fills them from what was written, by the parsers of `quantities.py`; the aliases are the keys of the file,
the names carry the unit. The defaults here are the defaults of the product.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.config import quantities
from gateway.config.accounts import Auth, Mail, Notices
from gateway.config.fields import (
    Amount,
    Currency,
    Duration,
    Flag,
    Listen,
    Network,
    Positive,
    Size,
    Target,
    Text,
    Timeout,
    Url,
    Word,
)
from gateway.config.plans import PlanSpec
from gateway.config.quantities import Address
from gateway.config.secrets import Secrets
from policies.model import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The listeners. At most `max_header_bytes` of request line and headers, as nginx's 4 x 8 KiB."""

    public: Listen = field(default=Address("0.0.0.0", 8080))
    admin: Listen = field(default=Address("127.0.0.1", 8081))
    workers: Positive = 1
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(quantities.listed)] = ()
    max_header_bytes: Annotated[Size, Field(ge=1024)] = 32 * 1024
    header_timeout_seconds: Annotated[Timeout, Field(alias="header_timeout")] = 10.0
    body_idle_timeout_seconds: Annotated[Timeout, Field(alias="body_idle_timeout")] = 30.0
    drain_timeout_seconds: Annotated[Duration, Field(alias="drain_timeout")] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    url: Annotated[str, BeforeValidator(quantities.database_url)] = field(default="embedded", repr=False)
    pool_size: Positive = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """`partitions` spread accounts over a cluster's 16384 hash slots; more partitions than slots would be idle."""

    url: Annotated[str, BeforeValidator(quantities.redis_url)] = field(default="embedded", repr=False)
    partitions: Annotated[int, Field(strict=True, ge=1, le=16384)] = 64
    timeout_seconds: Annotated[Timeout, Field(alias="timeout")] = 0.1
    # Credits that an account may use in each process while Redis is away, unless its plan says otherwise; None: none.
    float_credits: Annotated[int | None, BeforeValidator(quantities.on_outage), Field(alias="on_outage")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    prefix: Annotated[str, BeforeValidator(quantities.key_prefix)] = "gw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principals:
    """How long a cached caller is served while PostgreSQL is away, and how many callers a process remembers."""

    max_stale_seconds: Annotated[Duration, Field(alias="max_stale")] = 3600.0
    max_entries: Positive = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How many whole months of usage are kept besides the current one. None keeps all."""

    keep_months: Positive | None = None


def _not_empty(targets: tuple[str, ...]) -> tuple[str, ...]:
    if not targets:
        raise ValueError("must name at least one target such as http://127.0.0.1:9000")
    return targets


def _path_of_probe(written: object) -> str:
    if not isinstance(written, str) or not re.fullmatch(r"/[!-~]*", written, re.ASCII) or "#" in written:
        raise ValueError(f"must be a path such as /healthz, got {written!r}")
    return written


def _ca_file(written: object) -> str:
    """Absolute, since child processes may work elsewhere; loaded here, so that a mistake is found before it matters."""
    if not isinstance(written, str):
        raise ValueError(f"must be the path of a PEM file, got {written!r}")
    path = str(Path(written).absolute())
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # SSLError is one
        raise ValueError(f"must be a PEM file of certificates; {path}: {error.strerror or error}") from error
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`GET path` of each target, again and again: below 500 within the interval, and 5 s at most, is well."""

    path: Annotated[str, BeforeValidator(_path_of_probe)]
    interval_seconds: Annotated[Timeout, Field(alias="interval")] = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where requests go. `targets` are origins (`http://host:port`), `headers` (lower-case) are set on each request.

    `ca_file` holds the authorities of https targets instead of the system's. Without `health` nothing is probed.
    """

    name: Word
    targets: Annotated[tuple[Target, ...], BeforeValidator(quantities.listed), AfterValidator(_not_empty)]
    headers: dict[str, Text] = field(default_factory=dict, repr=False)
    connect_timeout_seconds: Annotated[Timeout, Field(alias="connect_timeout")] = 2.0
    first_byte_timeout_seconds: Annotated[Timeout, Field(alias="first_byte_timeout")] = 60.0
    idle_timeout_seconds: Annotated[Timeout, Field(alias="idle_timeout")] = 60.0
    total_timeout_seconds: Annotated[Timeout, Field(alias="total_timeout")] = 600.0
    max_connections: Positive = 256
    queue_timeout_seconds: Annotated[Duration, Field(alias="queue_timeout")] = 2.0
    retries: Annotated[int, Field(strict=True, ge=0, le=10)] = 1
    ca_file: Annotated[str, BeforeValidator(_ca_file)] | None = None
    health: Health | None = None

    def __post_init__(self) -> None:
        if self.ca_file is not None and not any(target.startswith("https:") for target in self.targets):
            raise ValueError("ca_file is for https targets, and there is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    """`meter_event_name` is that of the meter which bills plans priced by usage."""

    api_base: Url = "https://api.stripe.com"
    meter_event_name: Word = "gateway_credits"


@dataclass(frozen=True, slots=True, kw_only=True)
class LemonSqueezy:
    """`test_mode` says which its API key is of: the key itself does not tell."""

    api_base: Url = "https://api.lemonsqueezy.com"
    store_id: Text | None = None
    test_mode: Flag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Credits for sale outside a subscription."""

    id: Word
    name: str
    credits: Positive
    price: Amount
    currency: Currency = "USD"
    stripe_price_id: Text | None = None
    lemon_squeezy_variant_id: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """`provider` takes the payments of those who name none; None: the first that has a key. `tax_rate` is a fraction.

    Providers are asked for changes every `poll_interval_seconds`.
    """

    provider: Literal["stripe", "lemon_squeezy"] | None = None
    stripe: Stripe = Stripe()
    lemon_squeezy: LemonSqueezy = LemonSqueezy()
    success_url: Url | None = None
    cancel_url: Url | None = None
    past_due_grace_seconds: Annotated[Duration, Field(alias="past_due_grace")] = 3 * 86400.0
    packs: tuple[Pack, ...] = ()
    tax_rate: Annotated[Amount, Field(le=1)] = Decimal(0)
    poll_interval_seconds: Annotated[Timeout, Field(alias="poll_interval")] = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Spans go to `endpoint`/v1/traces by OTLP over HTTP, of this share (0 to 1) of the traces that begin here."""

    endpoint: Url
    sample_ratio: Annotated[Amount, Field(le=1)] = Decimal("0.01")
    service_name: Text = "gateway"

    def __post_init__(self) -> None:
        try:
            found = find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ValueError("needs the extra `tracing`: pip install 'metering-gateway[tracing]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the gateway was told. `path` is the file it came from, None for none; `data_dir` is absolute."""

    path: Path | None
    data_dir: Path
    server: Server
    database: Database
    redis: Redis
    keys: Keys
    principals: Principals
    usage: Usage
    auth: Auth
    mail: Mail
    notices: Notices
    upstreams: tuple[Upstream, ...]
    routes: tuple[Route, ...]
    plans: tuple[PlanSpec, ...]
    billing: Billing
    tracing: Tracing | None
    secrets: Secrets
