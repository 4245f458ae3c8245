"""gateway.yaml and the environment in, one Config out, or every problem at once.

Sections, upstreams, routes and plans are validated one by one, so that a mistake in one hides none in another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.config import model
from gateway.config.document import Document, read_yaml
from gateway.config.errors import ConfigError, ConfigProblem, KeyPath, Origin
from gateway.config.overlay import apply_environment, apply_overrides, expand
from gateway.config.plans import PlanSpec, default_plans
from gateway.config.routes import RouteEntry, route_of
from gateway.config.secrets import (
    REQUIRED,
    Secrets,
    SecretsUnusableError,
    read_secrets,
    secrets_of,
    stored_secrets,
)
from gateway.config.validation import Reader

# RFC 9110 section 5.6.2; framing and hop-by-hop fields are the gateway's own business (RFC 9112 section 6).
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset(
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The sections of gateway.yaml; what is a list or map of entries is read entry by entry."""

    server: model.Server = field(default_factory=model.Server)
    database: model.Database = field(default_factory=model.Database)
    redis: model.Redis = field(default_factory=model.Redis)
    data_dir: str = ".gateway"
    keys: model.Keys = field(default_factory=model.Keys)
    principals: model.Principals = field(default_factory=model.Principals)
    upstreams: dict[str, Any] = field(default_factory=dict)
    routes: list[Any] = field(default_factory=list)
    plans: list[Any] | None = None
    billing: model.Billing = field(default_factory=model.Billing)


SECTIONS = tuple(_File.__dataclass_fields__)


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    overrides: Mapping[str, object] | None = None,
    persist_secrets: bool = True,
) -> model.Config:
    """The effective configuration: defaults, under the file, under the environment, under `overrides` (dotted keys).

    Raises ConfigError with every problem found. With embedded stores, missing secrets are made and, with
    `persist_secrets`, kept in `data_dir`; `gateway check` asks without keeping.
    """
    document = _read(path)
    apply_environment(document, environ, SECTIONS)
    apply_overrides(document, overrides or {})
    reader = Reader(document)
    sections = reader.read(_File, (), document.tree) or _File()
    upstreams = _upstreams(reader, environ)
    routes = _routes(reader, upstreams)
    plans = _plans(reader)
    _check_listeners(document, sections.server)
    _check_unique(document, ("billing", "packs"), [pack.id for pack in sections.billing.packs])
    data_dir = _data_dir(document, sections.data_dir)
    secrets = _secrets(document, sections, environ, data_dir, persist=persist_secrets and not document.problems)
    if document.problems or secrets is None:
        raise ConfigError(document.problems)
    return model.Config(
        path=path,
        data_dir=data_dir,
        server=sections.server,
        database=sections.database,
        redis=sections.redis,
        keys=sections.keys,
        principals=sections.principals,
        upstreams=tuple(upstream for upstream in upstreams.values() if upstream),
        routes=tuple(route_of(route) for route in routes if route),
        plans=plans,
        billing=sections.billing,
        secrets=secrets,
    )


def _read(path: Path | None) -> Document:
    if path is None:
        return Document("gateway.yaml")
    try:
        return read_yaml(path.read_text("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise ConfigError([ConfigProblem(Origin(str(path)), "", "does not exist")]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([ConfigProblem(Origin(str(path)), "", f"cannot be read: {error}")]) from error


def _data_dir(document: Document, written: str) -> Path:
    """Absolute, since child processes may work elsewhere."""
    try:
        return Path(written).expanduser().absolute()
    except RuntimeError as error:
        document.report(("data_dir",), f"cannot be found: {error}")
        return Path(written)


def _upstreams(reader: Reader, environ: Mapping[str, str]) -> dict[str, model.Upstream | None]:
    """By name; None for one with a problem, whose routes are then not blamed for it."""
    entries = reader.document.tree.get("upstreams")
    found: dict[str, model.Upstream | None] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        path = ("upstreams", name)
        if isinstance(entry, dict) and "name" in entry:
            reader.document.report((*path, "name"), "is the key above, not a setting")
        named = {**entry, "name": name} if isinstance(entry, dict) else entry
        upstream = reader.read(model.Upstream, path, named)
        found[name] = upstream and replace(upstream, headers=_headers(reader.document, path, upstream, environ))
    return found


def _headers(document: Document, path: KeyPath, upstream: model.Upstream, environ: Mapping[str, str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for written, text in upstream.headers.items():
        here, name = (*path, "headers", written), written.lower()
        try:
            value = expand(text, environ).strip()
        except ValueError as error:
            document.report(here, str(error))
            continue
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            document.report(here, "must be a header field: a token as its name, no control characters in its value")
        elif name in _FRAMING or name.startswith("x-gateway-"):
            document.report(here, "is set by the gateway itself")
        elif name in headers:
            document.report(here, "is written twice; header names have no case")
        headers[name] = value
    return headers


def _routes(reader: Reader, upstreams: Mapping[str, object]) -> list[RouteEntry | None]:
    entries = reader.document.tree.get("routes")
    routes = [
        reader.read(RouteEntry, ("routes", index), entry)
        for index, entry in enumerate(entries if isinstance(entries, list) else [])
    ]
    _check_unique(reader.document, ("routes",), [route.name if route else None for route in routes], key="name")
    taken: dict[tuple[str, str], str] = {}
    for index, route in enumerate(routes):
        if route is None:
            continue
        if route.upstream not in upstreams:
            known = ", ".join(upstreams) or "none"
            message = f"unknown upstream {route.upstream!r}; known upstreams: {known}"
            reader.document.report(("routes", index, "upstream"), message)
        for method in sorted(route.match.methods):
            first = taken.setdefault((route.match.path, method), route.name)
            if first is not route.name:
                message = f"routes {first} and {route.name} both match {method} {route.match.path}"
                reader.document.report(("routes", index, "match"), message)
    return routes


def _plans(reader: Reader) -> tuple[PlanSpec, ...]:
    entries = reader.document.tree.get("plans")
    if entries is None:
        return default_plans()
    plans = [
        reader.read(PlanSpec, ("plans", index), entry)
        for index, entry in enumerate(entries if isinstance(entries, list) else [])
    ]
    for key in ("id", "name"):
        _check_unique(
            reader.document, ("plans",), [str(getattr(plan, key)) if plan else None for plan in plans], key=key
        )
    return tuple(plan for plan in plans if plan)


def _check_unique(document: Document, path: KeyPath, names: Sequence[str | None], *, key: str = "id") -> None:
    for index, name in enumerate(names):
        if name is not None and (first := names.index(name)) != index:
            here = (*path, index, key)
            where = document.origin((*path, first, key))
            document.report(here, f"{name!r} is taken already, at {where}")


def _check_listeners(document: Document, server: model.Server) -> None:
    if server.public == server.admin and server.public.port:
        document.report(("server", "admin"), f"must differ from server.public, both are {server.public}")


def _secrets(
    document: Document, sections: _File, environ: Mapping[str, str], data_dir: Path, *, persist: bool
) -> Secrets | None:
    """None where a problem of the document says why."""
    is_embedded = sections.database.url == sections.redis.url == "embedded"
    try:
        required = read_secrets(environ)
        if is_embedded:
            required = stored_secrets(data_dir, required, persist=persist)
        else:
            _report_missing(document, environ, REQUIRED, "embedded stores make one, others need it set")
            _report_missing(document, environ, _providers_secrets(document), "billing names this provider")
        return secrets_of(required, environ) if len(required) == len(REQUIRED) else None
    except SecretsUnusableError as error:
        document.problems.append(ConfigProblem(Origin(error.name), "", str(error)))
        return None


def _report_missing(document: Document, environ: Mapping[str, str], names: Sequence[str], reason: str) -> None:
    for name in names:
        if not environ.get(name, "").strip():
            document.problems.append(ConfigProblem(Origin("environment"), name, f"is not set; {reason}"))


def _providers_secrets(document: Document) -> tuple[str, ...]:
    billing = document.tree.get("billing")
    named = billing if isinstance(billing, dict) else {}
    stripe = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET") if "stripe" in named else ()
    lemon_squeezy = ("LEMON_SQUEEZY_API_KEY", "LEMON_SQUEEZY_WEBHOOK_SECRET") if "lemon_squeezy" in named else ()
    return stripe + lemon_squeezy
