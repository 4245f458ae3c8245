"""Loads one Config from gateway.yaml and the environment, or raises every problem at once.

Sections, upstreams, routes and plans are validated one by one, so that a mistake in one hides none in another. Each
problem names file, line and key: pydantic-settings keeps no line of a value, so documents are read here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from gateway.config import model
from gateway.config.document import Document, read_yaml
from gateway.config.entries import check_unique, read_plans, read_routes, read_upstreams
from gateway.config.errors import ConfigError, ConfigProblem, Origin
from gateway.config.operation import notifications
from gateway.config.operation.console import Console
from gateway.config.operation.logs import Log
from gateway.config.operation.portal import Portal
from gateway.config.operation.records import Idempotency, Usage
from gateway.config.overlay import apply_environment, apply_overrides
from gateway.config.plans import Billing
from gateway.config.quantities import Kind, about
from gateway.config.routes import route_of
from gateway.config.secrets import (
    KEY_PEPPER,
    REQUIRED,
    ROLES,
    Secrets,
    SecretsUnusableError,
    read_secrets,
    secrets_of,
    short_secrets,
    stored_secrets,
    used_by,
    with_files,
)
from gateway.config.server import DEFAULT_HEALTH, Server
from gateway.config.validation import Reader
from gateway.postgres_url import with_password


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The sections of gateway.yaml; lists and maps of entries are read entry by entry."""

    server: Server = field(default_factory=Server)
    database: model.Database = field(default_factory=model.Database)
    redis: model.Redis = field(default_factory=model.Redis)
    data_dir: Annotated[
        str, Kind("path"), about("Directory of embedded stores, generated secrets and spooled settlements.")
    ] = ".gateway"
    keys: model.Keys = field(default_factory=model.Keys)
    idempotency: Idempotency = field(default_factory=Idempotency)
    credits: model.Credits = field(default_factory=model.Credits)
    principals: model.Principals = field(default_factory=model.Principals)
    usage: Usage = field(default_factory=Usage)
    log: Log = field(default_factory=Log)
    auth: model.Auth = field(default_factory=model.Auth)
    mail: notifications.Mail = field(default_factory=notifications.Mail)
    notices: notifications.Notices = field(default_factory=notifications.Notices)
    upstreams: dict[str, Any] = field(default_factory=dict)
    prices: dict[str, Any] = field(default_factory=dict)
    routes: list[Any] = field(default_factory=list)
    plans: list[Any] | None = None
    billing: Billing = field(default_factory=Billing)
    portal: Portal = field(default_factory=Portal)
    console: Console = field(default_factory=Console)
    tracing: model.Tracing | None = None


Store = TypeVar("Store", model.Database, model.Redis)
SECTIONS = tuple(Sections.__dataclass_fields__)

# By the first password's 19 MiB (argon2id) glibc would learn to keep that much in each thread (mallopt(3),
# "M_MMAP_THRESHOLD"). A threshold that is set stays as it is, and memory that is not needed goes back.
_MMAP_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}

_METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it on import


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    overrides: Mapping[str, object] | None = None,
    persist_secrets: bool = True,
    roles: Collection[str] = ROLES,
) -> model.Config:
    """The effective configuration: defaults, under the file, under the environment, under `overrides` (dotted keys).

    Raises ConfigError with every problem found. The process has the secrets that its `roles` use, and no other.
    With embedded stores, missing ones are generated and, with `persist_secrets`, stored in `data_dir`;
    `gateway check` stores none.
    """
    text = "" if path is None else _text(path)
    document = Document("gateway.yaml") if path is None else read_yaml(text, str(path))
    environ = with_files(document, environ, roles=roles)
    apply_environment(document, environ, SECTIONS)
    apply_overrides(document, overrides or {})
    reader = Reader(document)
    sections = reader.read(Sections, (), document.tree) or Sections()
    upstreams = read_upstreams(reader, environ if "proxy" in roles else None)
    routes = read_routes(reader, upstreams)
    plans = read_plans(reader)
    _check_listeners(document, sections.server)
    if "worker" in roles:
        _check_extras(document, sections.usage)
    check_unique(document, ("billing", "packs"), [pack.id for pack in sections.billing.packs])
    data_dir = _data_dir(document, sections.data_dir)
    required = _required(document, sections, environ, data_dir, persist=persist_secrets and not document.problems)
    secrets = _secrets(document, required, environ, needs=used_by(*roles))
    database, redis = _with_passwords(document, sections)
    if document.problems or secrets is None:
        raise ConfigError(document.problems)
    return model.Config(
        path=path,
        text=text,
        data_dir=data_dir,
        server=sections.server,
        database=database,
        redis=redis,
        keys=sections.keys,
        idempotency=sections.idempotency,
        credits=sections.credits,
        principals=sections.principals,
        usage=sections.usage,
        log=sections.log,
        auth=sections.auth,
        mail=sections.mail,
        notices=sections.notices,
        upstreams=tuple(upstream for upstream in upstreams.values() if upstream),
        routes=tuple(route_of(route) for route in routes if route),
        plans=plans,
        billing=sections.billing,
        portal=sections.portal,
        console=sections.console,
        tracing=sections.tracing,
        secrets=secrets,
    )


def child_environment(
    config: model.Config,
    *,
    database_url: str,
    redis_url: str,
    health: str,
    metrics_dir: str,
    settings: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of a child process, which loads the same configuration from it.

    It is that of this process with resolved stores, secrets and the address of the health listener: the URL of a
    database, not the word `embedded`. The cores are those that this process was kept off.
    `settings` are more variables by full name.
    """
    secrets = dict(config.secrets.required)
    if KEY_PEPPER in secrets:
        secrets[KEY_PEPPER] = ",".join(f"{each}:{pepper}" for each, pepper in config.secrets.key_peppers.items())
    return {
        **_MMAP_THRESHOLD,
        **os.environ,
        "GATEWAY_DATABASE__URL": database_url,
        "GATEWAY_REDIS__URL": redis_url,
        "GATEWAY_DATA_DIR": str(config.data_dir),
        "GATEWAY_SERVER__HEALTH": health,
        "GATEWAY_SERVER__WORKER_CORES": str(list(config.server.worker_cores)),
        **secrets,
        _METRICS_DIR: metrics_dir,
        **(settings or {}),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError([ConfigProblem(Origin(str(path)), "", "does not exist")]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([ConfigProblem(Origin(str(path)), "", f"cannot be read: {error}")]) from error


def _data_dir(document: Document, value: str) -> Path:
    """Absolute, since child processes may have another working directory."""
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        document.report(("data_dir",), f"cannot be found: {error}")
        return Path(value)


def _with_passwords(document: Document, sections: Sections) -> tuple[model.Database, model.Redis]:
    """The stores, with passwords that are set apart put into their URLs."""
    return _with_password(document, sections.database, "database"), _with_password(document, sections.redis, "redis")


def _with_password(document: Document, store: Store, section: str) -> Store:
    if store.password is None:
        return store
    try:
        if store.url == "embedded":
            raise ValueError("belongs to the url of a store of your own; embedded ones have passwords by themselves")
        return replace(store, url=with_password(store.url, store.password, needs_user=section == "database"))
    except ValueError as error:
        document.report((section, "password"), str(error))
        return store


def _check_listeners(document: Document, server: Server) -> None:
    if server.public == server.admin and server.public.port:
        document.report(("server", "admin"), f"must differ from server.public, both are {server.public}")
    for name, address in (("public", server.public), ("admin", server.admin)):
        if server.health == address and address.port and address != DEFAULT_HEALTH:
            document.report(("server", "health"), f"must differ from server.{name}, both are {address}")


def _check_extras(document: Document, usage: Usage) -> None:
    for setting, extra in usage.missing_extras():
        document.report(("usage", setting), f"needs the extra `{extra}`: pip install 'metering-gateway[{extra}]'")


def _required(
    document: Document, sections: Sections, environ: Mapping[str, str], data_dir: Path, *, persist: bool
) -> dict[str, str] | None:
    """The required secrets that can be had; None where the file of them cannot be used, which is reported."""
    given = read_secrets(environ)
    if not sections.database.url == sections.redis.url == "embedded":
        return given
    try:
        return stored_secrets(data_dir, given, persist=persist)
    except SecretsUnusableError as error:
        document.problems.append(ConfigProblem(Origin(error.name), "", str(error)))
        return None


def _secrets(
    document: Document, required: Mapping[str, str] | None, environ: Mapping[str, str], *, needs: Collection[str]
) -> Secrets | None:
    """None where the document has a problem that says why."""
    if required is None:
        return None
    missing = [name for name in REQUIRED if name in needs and name not in required]
    for name in missing:
        message = "is not set; only embedded stores generate one"
        document.problems.append(ConfigProblem(Origin("environment"), name, message))
    if missing:
        return None
    try:
        secrets = secrets_of({name: value for name, value in required.items() if name in needs}, environ)
    except SecretsUnusableError as error:
        document.problems.append(ConfigProblem(Origin(error.name), "", str(error)))
        return None
    for name, problem in short_secrets(secrets).items():
        document.problems.append(ConfigProblem(Origin("environment"), name, problem))
    return secrets
