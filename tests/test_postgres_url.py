"""libpq's parameters mean what they mean to libpq, or are refused by name; no password is shown."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.postgres_url import open_tls, parse_postgres_url, with_password


@pytest.mark.parametrize(
    ("behind", "arguments", "settings"),
    [
        ("", {}, {}),
        ("?sslmode=require", {"ssl": "require"}, {}),
        ("?ssl=true", {"ssl": "verify-full"}, {}),
        ("?sslmode=require&sslrootcert=ca.pem", {"ssl": "verify-ca", "tls_files": {"sslrootcert": "ca.pem"}}, {}),
        ("?sslrootcert=system", {"ssl": "verify-full", "tls_files": {"sslrootcert": "system"}}, {}),
        ("?sslmode=disable&sslrootcert=ca.pem", {"ssl": "disable"}, {}),
        (
            "?connect_timeout=3&target_session_attrs=read-write",
            {"timeout": 3, "target_session_attrs": "read-write"},
            {},
        ),
        ("?channel_binding=prefer&keepalives_idle=30&gssencmode=disable", {}, {}),
        ("?application_name=books", {}, {"application_name": "books"}),
        ("?options=-c%20search_path%3Da%5C%20b%20--jit%3Doff", {}, {"search_path": "a b", "jit": "off"}),
        ("?prepared_statement_cache_size=0", {"prepared_statement_cache_size": 0}, {}),
        ("?user=ada&password=x", {"user": "ada", "password": "x"}, {}),
    ],
)
def test_parameter_of_libpq_becomes_one_of_the_driver(
    behind: str, arguments: dict[str, Any], settings: dict[str, str]
) -> None:
    parsed = parse_postgres_url(f"postgres://u:p@h:5432/books{behind}")
    assert parsed.url == "postgresql+asyncpg://u:p@h:5432/books"
    assert (parsed.arguments, parsed.server_settings) == (arguments, settings)


def test_several_hosts_are_tried_in_order() -> None:
    parsed = parse_postgres_url("postgresql://u:p@one:5432,two:5433/books?target_session_attrs=read-write")
    assert parsed.url == "postgresql+asyncpg://u:p@/books?host=one%3A5432&host=two%3A5433"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://u:secret@h/d?pgbouncer=true", "the parameter pgbouncer is not supported"),
        ("postgresql://u:secret@h/d?channel_binding=require", "channel_binding must be one of disable, prefer here"),
        ("postgresql://u:secret@h/d?target_session_attrs=standby", "target_session_attrs must be one of"),
        ("postgresql://u:secret@h/d?sslmode=on", "sslmode must be one of disable, allow"),
        ("postgresql://u:secret@h/d?sslkey=k", "sslkey needs an sslcert"),
        ("postgresql://u:secret@h/d?options=-E", "options must be -c name=value"),
        ("postgresql://u:secret@h/d?connect_timeout=soon", "connect_timeout must be a whole number"),
        ("postgresql://u:secret@h:99999/d", "must name its servers as host:port"),
        ("postgresql://u:secret/cd+e=@h:15433/d", "a password with / # or"),
        ("mysql://u:secret@h/d", "not mysql://"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        parse_postgres_url(url)
    assert "secret" not in str(refused.value)


def test_password_apart_may_hold_any_characters() -> None:
    assert with_password("postgresql://u@h/d", "ab/cd+e=#") == "postgresql://u:ab%2Fcd%2Be%3D%23@h/d"
    assert with_password("redis://h:6379/0", "a@b", needs_user=False) == "redis://:a%40b@h:6379/0"
    with pytest.raises(ValueError, match="names a user"):
        with_password("postgresql://h/d", "x")


def test_certificates_are_checked_as_far_as_the_mode_says(tmp_path: Path) -> None:
    def opened(behind: str) -> ssl.SSLContext:
        context = open_tls(parse_postgres_url(f"postgresql://h/d?{behind}").arguments)["ssl"]
        assert isinstance(context, ssl.SSLContext)
        return context

    full, authority = opened("sslmode=verify-full&sslrootcert=system"), opened("sslmode=verify-ca&sslrootcert=system")
    assert (full.check_hostname, full.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (authority.check_hostname, authority.verify_mode) == (False, ssl.CERT_REQUIRED)
    with pytest.raises(OSError, match="No such file"):
        opened(f"sslmode=verify-full&sslrootcert={tmp_path / 'none.pem'}")
