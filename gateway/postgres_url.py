"""The URL of a PostgreSQL as libpq writes it: what each parameter becomes, and which are refused by name.

asyncpg takes other names than libpq, and ends in a traceback at any that it does not know. No message holds a
password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WRITABLE = ("any", "read-write", "primary")
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.]*)=((?:\\.|[^\s\\])*)", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#,]*)(?::([0-9]{1,5}))?", re.ASCII)
# What libpq knows and what makes no difference here: asyncpg has no GSSAPI encryption, and pings its connections.
_WITHOUT_EFFECT = {
    **dict.fromkeys(("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count")),
    "gssencmode": ("disable", "prefer"),
    "channel_binding": ("disable", "prefer"),
    "fallback_application_name": None,
    "client_encoding": ("utf8", "UTF8", "auto"),
    "tcp_user_timeout": None,
}
_CREDENTIALS = {"user": "user", "password": "password", "dbname": "database"}
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey")


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """The same as SQLAlchemy takes it: a URL without parameters but the hosts, and arguments of asyncpg.connect.

    `server_settings` are run-time parameters of the session.
    """

    url: str = field(repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    server_settings: Mapping[str, str] = field(default_factory=dict)


def parse_postgres_url(url: str) -> PostgresUrl:
    """Raises ValueError that names what is not supported; files of certificates are not read here."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"expected postgresql://…, not {scheme}://…" if rest else "is not a URL")
    login, hosts, path, query = _split(rest)
    arguments: dict[str, Any] = {}
    settings: dict[str, str] = {}
    tls: dict[str, str] = {}
    places = [hosts] if "," not in hosts else hosts.split(",")
    query_of_hosts: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ("host", "port"):
            query_of_hosts.append((name, value))
        elif name in _CREDENTIALS:
            arguments[_CREDENTIALS[name]] = value
        elif name in ("sslmode", "ssl", *_TLS_FILES):
            tls[name] = value
        else:
            _read_parameter(name, value, arguments, settings=settings)
    for place in places:
        _check_place(place)
    if len(places) > 1:
        query_of_hosts += [("host", place) for place in places]
        hosts = ""
    behind = f"?{urlencode(query_of_hosts)}" if query_of_hosts else ""
    return PostgresUrl(f"postgresql+asyncpg://{login}{hosts}/{path}{behind}", arguments | _tls_arguments(tls), settings)


def with_password(url: str, password: str, *, needs_user: bool = True) -> str:
    """The URL of a store with this password in place of any other. Raises ValueError where it needs a user."""
    scheme, _, rest = url.partition("://")
    login, at, tail = rest.rpartition("@")
    user = login.partition(":")[0]
    if needs_user and not user:
        raise ValueError("needs a url that names a user, as postgresql://user@host/name")
    return f"{scheme}://{user}:{quote(password, safe='')}@{tail if at else rest}"


def open_tls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with certificates read from their files. Raises OSError for those that cannot be read."""
    opened = dict(arguments)
    files = opened.pop("tls_files", None)
    if files is None:
        return opened
    root = files.get("sslrootcert")
    context = ssl.create_default_context(cafile=None if root in (None, "system") else root)
    mode = opened.pop("ssl")
    context.check_hostname = mode == "verify-full"
    if mode in ("allow", "prefer", "require") and root is None:
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in files:
        context.load_cert_chain(files["sslcert"], files.get("sslkey"))
    return opened | {"ssl": context}


def _split(rest: str) -> tuple[str, str, str, str]:
    """Login with its @, hosts, database and query. A / or # in a password ends the hosts too early."""
    authority, _, tail = rest.partition("/")
    database, _, query = tail.partition("?")
    if not tail and "?" in authority:
        authority, _, query = authority.partition("?")
    login, at, hosts = authority.rpartition("@")
    if not at and ("@" in tail or "#" in rest or (":" in authority and not _HOST.fullmatch(authority.split(",")[0]))):
        raise ValueError(
            "cannot be read: a password with / # or ? must be percent-encoded (%2F, %23, %3F), or set apart as"
            " database.password"
        )
    return login + at, hosts, database, query


def _check_place(host: str) -> None:
    matched = _HOST.fullmatch(host)
    if matched is None or (matched[2] and not 0 < int(matched[2]) < 65536):
        raise ValueError("must name its servers as host:port, separated by commas")


def _read_parameter(name: str, value: str, arguments: dict[str, Any], *, settings: dict[str, str]) -> None:
    match name:
        case "application_name":
            settings[name] = value
        case "options":
            settings |= _options(value)
        case "connect_timeout":
            arguments["timeout"] = _whole(name, value)
        case "target_session_attrs":
            arguments[name] = _one_of(name, value, _WRITABLE)
        case "prepared_statement_cache_size":
            arguments[name] = _whole(name, value)
        case _ if name in _WITHOUT_EFFECT:
            if (allowed := _WITHOUT_EFFECT[name]) is not None:
                _one_of(name, value, allowed)
        case _:
            raise ValueError(f"the parameter {name} is not supported")


def _tls_arguments(tls: Mapping[str, str]) -> dict[str, Any]:
    if not tls:
        return {}
    root = tls.get("sslrootcert")
    mode = tls.get("sslmode") or tls.get("ssl") or ("verify-full" if root == "system" else "prefer")
    mode = {"true": "verify-full", "false": "disable"}.get(mode, mode)
    _one_of("sslmode", mode, _SSL_MODES)
    if mode == "require" and root is not None:
        mode = "verify-ca"  # as libpq does, for compatibility with its earlier releases
    files = {name: tls[name] for name in _TLS_FILES if name in tls}
    if "sslkey" in files and "sslcert" not in files:
        raise ValueError("sslkey needs an sslcert")
    return {"ssl": mode, "tls_files": files} if files and mode != "disable" else {"ssl": mode}


def _options(value: str) -> dict[str, str]:
    """`-c name=value` and `--name=value`, with backslashes before spaces."""
    found = {match[1]: re.sub(r"\\(.)", r"\1", match[2]) for match in _OPTION.finditer(value)}
    if _OPTION.sub("", value).strip() or not found:
        raise ValueError("options must be -c name=value, or several of them")
    return found


def _whole(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"{name} must be a whole number")
    return int(value)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)} here")
    return value
