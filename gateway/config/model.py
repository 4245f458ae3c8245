"""The configuration as the composition root takes it: frozen values, one per section of gateway.yaml.

Pydantic fills them from the file by the parsers of `quantities.py`; an alias is the key in the file, the name of the
field carries the unit. The defaults here are the defaults of the product, the descriptions are those of
docs/reference/settings.md.
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
from gateway.config.operation.console import Console
from gateway.config.operation.logs import Log
from gateway.config.operation.notifications import Mail, Notices
from gateway.config.operation.portal import Portal
from gateway.config.operation.records import Idempotency, Usage
from gateway.config.plans import Billing, PlanSpec
from gateway.config.quantities import (
    Amount,
    Currency,
    Duration,
    Flag,
    Kind,
    Positive,
    Target,
    Text,
    Timeout,
    Url,
    Word,
    about,
)
from gateway.config.secrets import Secrets
from gateway.config.server import Server
from policies.billing.money import CreditValue
from policies.model import Route

_PLACEHOLDER = "{token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    url: Annotated[
        str,
        BeforeValidator(quantities.database_url),
        Kind("`embedded` or a `postgresql://` URL"),
        about(
            "PostgreSQL 14 or later, with libpq's parameters (`sslmode`, `sslrootcert`, `options`, several hosts);"
            " `embedded` starts one under `data_dir`."
        ),
    ] = field(default="embedded", repr=False)
    password: Annotated[
        str | None,
        BeforeValidator(quantities.store_password),
        Kind("text"),
        about("Password apart from the URL, of the user that the URL names; any characters."),
    ] = field(default=None, repr=False)
    pool_size: Annotated[Positive, about("Connections of each process.")] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    url: Annotated[
        str,
        BeforeValidator(quantities.redis_url),
        Kind("`embedded`, or a URL of `redis(s)`, `redis(s)+sentinel` or `redis(s)+cluster`"),
        about("Redis 6.2 or Valkey 7.2 or later; `embedded` starts one under `data_dir`."),
    ] = field(default="embedded", repr=False)
    password: Annotated[
        str | None,
        BeforeValidator(quantities.store_password),
        Kind("text"),
        about("Password apart from the URL, of the user that the URL names or of the default one; any characters."),
    ] = field(default=None, repr=False)
    # A cluster has 16384 hash slots; more partitions than slots would be idle.
    partitions: Annotated[
        int,
        Field(strict=True, ge=1, le=16384),
        Kind("whole number from 1 to 16384"),
        about("Shards that accounts are spread over; constant for the life of an installation."),
    ] = 64
    timeout_seconds: Annotated[Timeout, about("Longest wait for a reply.", key="timeout")] = 0.1
    outage_credits: Annotated[
        int | None,
        BeforeValidator(quantities.on_outage),
        Kind("`refuse` or `{float: N}`"),
        about(
            "While Redis is away: refuse calls, or serve each account up to N credits in each process, unless its plan "
            "has another `outage_float`.",
            key="on_outage",
        ),
    ] = None


def _per_unit(value: Decimal) -> Decimal:
    if not value:
        raise ValueError("must be above 0: how many credits one unit of the currency is")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAs:
    currency: Annotated[Currency, about("Currency of the amounts.")]
    per_unit: Annotated[Amount, AfterValidator(_per_unit), about("Credits that one unit of the currency is.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credits:
    shown_as: Annotated[
        ShownAs | None, about("Shows credits as money beside the credits; null shows credits alone.")
    ] = None

    @property
    def money(self) -> CreditValue | None:
        """What credits are shown as; None where they are shown as credits alone."""
        return None if self.shown_as is None else CreditValue(self.shown_as.currency, self.shown_as.per_unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    prefix: Annotated[
        str,
        BeforeValidator(quantities.key_prefix),
        Kind("1 to 16 lower-case letters and digits"),
        about("First characters of new API keys, before `_live_`."),
    ] = "gw"
    query: Annotated[
        Word | None, about("Query parameter that may carry an API key, such as `key`; null: on WebSocket routes only.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principals:
    max_stale_seconds: Annotated[
        Duration, about("Time that a cached caller is served while PostgreSQL is away.", key="max_stale")
    ] = 3600.0
    max_entries: Annotated[Positive, about("Callers that each process caches.")] = 100_000


def _link(value: object) -> str:
    if not isinstance(value, str) or not value.startswith(("https://", "http://")) or _PLACEHOLDER not in value:
        raise ValueError(
            f"must be a URL with {_PLACEHOLDER} in it, such as https://app.example.com/reset?token={_PLACEHOLDER}"
        )
    return value


Link = Annotated[str, BeforeValidator(_link), Kind("URL with `{token}` in it")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    access_ttl_seconds: Annotated[Timeout, about("Life of an access token.", key="access_ttl")] = 15 * 60.0
    refresh_ttl_seconds: Annotated[
        Timeout, about("Life of a refresh token, renewed by each use.", key="refresh_ttl")
    ] = 30 * 86400.0
    verify_ttl_seconds: Annotated[
        Timeout, about("Life of the link that verifies an e-mail address.", key="verify_ttl")
    ] = 3 * 86400.0
    reset_ttl_seconds: Annotated[Timeout, about("Life of the link that resets a password.", key="reset_ttl")] = 3600.0
    refresh_reuse_seconds: Annotated[
        Duration,
        about("Time in which a used refresh token is taken again, for two tabs at once.", key="refresh_reuse"),
    ] = 10.0
    requires_verified: Annotated[
        Flag,
        about("Whether credits of free plans, and trials, wait for a verified address.", key="require_verified"),
    ] = True
    remember_erased_seconds: Annotated[
        Duration,
        about(
            "Time for which a keyed digest of an erased account's address is kept, so that free credits and trials are "
            "not had again and debts return.",
            key="remember_erased",
        ),
    ] = 365 * 86400.0
    verify_link: Annotated[
        Link | None,
        about("Page that a verification e-mail links to; null: that of the portal, if `portal.url` is set."),
    ] = None
    reset_link: Annotated[
        Link | None, about("Page that a password e-mail links to; null: that of the portal, if `portal.url` is set.")
    ] = None


def _not_empty(targets: tuple[str, ...]) -> tuple[str, ...]:
    if not targets:
        raise ValueError("must name at least one target such as http://127.0.0.1:9000")
    return targets


def _probe_path(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value, re.ASCII) or "#" in value:
        raise ValueError(f"must be a path such as /healthz, got {value!r}")
    return value


def _ca_file(value: object) -> str:
    """Absolute, since child processes may work elsewhere; loaded here, so that a mistake is found before it matters."""
    if not isinstance(value, str):
        raise ValueError(f"must be the path of a PEM file, got {value!r}")
    path = str(Path(value).absolute())
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # SSLError is one
        raise ValueError(f"must be a PEM file of certificates; {path}: {error.strerror or error}") from error
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    path: Annotated[
        str,
        BeforeValidator(_probe_path),
        Kind("path"),
        about("`GET` of it is answered below 500 within the interval, and 5 s at most, by a healthy target."),
    ]
    interval_seconds: Annotated[Timeout, about("Time between two probes of a target.", key="interval")] = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    name: Word
    targets: Annotated[
        tuple[Target, ...],
        BeforeValidator(quantities.listed),
        AfterValidator(_not_empty),
        about("Origins that share the calls, least busy first."),
    ]
    headers: Annotated[
        dict[str, Text],
        Kind("map of header fields"),
        about("Set on each request; `${NAME}` is an environment variable."),
    ] = field(default_factory=dict, repr=False)
    pass_headers: Annotated[
        tuple[str, ...],
        BeforeValidator(quantities.passed_names),
        Kind("list of field names"),
        about(
            "Fields of clients that are withheld unless named here, such as `x-http-method-override`, `x-original-url` "
            "and `x-real-ip`."
        ),
    ] = ()
    connect_timeout_seconds: Annotated[Timeout, about("Longest wait for a connection.", key="connect_timeout")] = 2.0
    first_byte_timeout_seconds: Annotated[
        Timeout, about("Longest wait for the head of a response.", key="first_byte_timeout")
    ] = 60.0
    idle_timeout_seconds: Annotated[
        Timeout, about("Longest pause between two pieces of a response.", key="idle_timeout")
    ] = 60.0
    total_timeout_seconds: Annotated[Timeout, about("Longest call.", key="total_timeout")] = 600.0
    max_connections: Annotated[Positive, about("Connections to each target.")] = 256
    max_share_per_account: Annotated[
        Amount, Field(gt=0, le=1), about("Share of them that one account may have at a time; its further calls queue.")
    ] = Decimal("0.5")
    max_share_client_paced: Annotated[
        Amount,
        Field(gt=0, le=1),
        about("Share of them, and of an account's, for what clients make last: unfinished uploads and web sockets."),
    ] = Decimal("0.5")
    queue_timeout_seconds: Annotated[Duration, about("Longest wait for a free connection.", key="queue_timeout")] = 2.0
    retries: Annotated[
        int,
        Field(strict=True, ge=0, le=10),
        Kind("whole number from 0 to 10"),
        about("Further attempts of a call whose failure makes another one safe."),
    ] = 1
    pass_authorization: Annotated[
        Flag,
        about("Whether an `Authorization` or key field that holds no key of the gateway is forwarded."),
    ] = False
    host: Annotated[
        Literal["target", "pass"],
        Kind("`target` or `pass`"),
        about("`Host` that it gets: its own, or that of the client, as requests signed by their client need."),
    ] = "target"
    reports: Annotated[
        Flag,
        about("Whether `Gateway-Credits`, `Gateway-Tokens` and `Gateway-Cost-Usd` of its responses are believed."),
    ] = False
    drop_response_headers: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(lambda value: None if value is None else quantities.field_names(value)),
        Kind("list of field names, such as `[set-cookie, x-ratelimit-*]`"),
        about("Fields clients do not get; null: those that tell of your account or its host, where a reader prices."),
    ] = None
    ask_for_usage: Annotated[
        Flag, about("Whether a stream priced by reader `openai` asks for usage that its client did not ask for.")
    ] = True
    ca_file: Annotated[
        str | None,
        BeforeValidator(lambda value: None if value is None else _ca_file(value)),
        Kind("path of a PEM file"),
        about("Authorities of https targets, instead of those of the system."),
    ] = None
    health: Annotated[Health | None, about("Probes of each target; null sends none.")] = None

    def __post_init__(self) -> None:
        if self.ca_file is not None and not any(target.startswith("https:") for target in self.targets):
            raise ValueError("ca_file is for https targets, and there is none")
        if self.host == "pass" and "host" in {name.lower() for name in self.headers}:
            raise ValueError("host: pass gives the client's Host, so headers must not set another")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    endpoint: Annotated[Url, about("Collector of OTLP over HTTP; spans go to `/v1/traces` there.")]
    sample_ratio: Annotated[Amount, Field(le=1), about("Share of the traces begun here that is sent, 0 to 1.")] = (
        Decimal("0.01")
    )
    service_name: Annotated[Text, about("`service.name` of the spans.")] = "gateway"

    def __post_init__(self) -> None:
        try:
            found = find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ValueError("needs the extra `tracing`: pip install 'metering-gateway[tracing]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective configuration. `path` is the file that it was read from, if any, and `text` what that held;
    `data_dir` is absolute.
    """

    path: Path | None
    text: str = field(repr=False)
    data_dir: Path
    server: Server
    database: Database
    redis: Redis
    keys: Keys
    idempotency: Idempotency
    credits: Credits
    principals: Principals
    usage: Usage
    auth: Auth
    mail: Mail
    notices: Notices
    upstreams: tuple[Upstream, ...]
    routes: tuple[Route, ...]
    plans: tuple[PlanSpec, ...]
    billing: Billing
    portal: Portal
    console: Console
    log: Log
    tracing: Tracing | None
    secrets: Secrets
