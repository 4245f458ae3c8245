"""Settings of the account API, and of what users and the operator are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from gateway.config.fields import Text, Timeout, Url

_PLACE = "{token}"


def _smtp_url(written: object) -> str:
    wanted = "must be a URL such as smtp://user:password@mail.example.com:587 (STARTTLS) or smtps://…:465"
    try:
        parts = urlsplit(written if isinstance(written, str) else "")
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(wanted) from error
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or not port_is_valid:
        raise ValueError(wanted)
    return str(written)


def _link(written: object) -> str:
    if not isinstance(written, str) or not written.startswith(("https://", "http://")) or _PLACE not in written:
        raise ValueError(f"must be a URL with {_PLACE} in it, such as https://app.example.com/reset?token={_PLACE}")
    return written


Link = Annotated[str, BeforeValidator(_link)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How long logins and tokens last. The links, with `{token}` in them, are what mails point to."""

    access_ttl_seconds: Annotated[Timeout, Field(alias="access_ttl")] = 15 * 60.0
    refresh_ttl_seconds: Annotated[Timeout, Field(alias="refresh_ttl")] = 30 * 86400.0
    verify_ttl_seconds: Annotated[Timeout, Field(alias="verify_ttl")] = 3 * 86400.0
    reset_ttl_seconds: Annotated[Timeout, Field(alias="reset_ttl")] = 3600.0
    verify_link: Link | None = None
    reset_link: Link | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """Where mail goes; without `smtp` it goes to the log."""

    smtp: Annotated[str, BeforeValidator(_smtp_url)] | None = field(default=None, repr=False)
    sender: Annotated[Text, Field(alias="from")] = "gateway@localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notices:
    """Where the operator's system hears what happens to users, signed by GATEWAY_WEBHOOK_SECRET; None: nowhere."""

    webhook_url: Url | None = None
