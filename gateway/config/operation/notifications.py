"""The sections `mail` and `notices` of gateway.yaml: how customers and the operator's system are told of events."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.utils import getaddresses
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from jinja2 import Environment, TemplateSyntaxError
from pydantic import BeforeValidator

from gateway.config.quantities import Kind, Url, about
from gateway.email_addresses import InvalidEmail, normalised

# RFC 5322 section 3.4: `Team: a@example.com;` is a group, whose name would be lost.
_OF_GROUPS = re.compile("[:;]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\((?:[^()\\]|\\.)*\)')


def _smtp_url(value: object) -> str:
    wanted = "must be a URL such as smtp://user:password@mail.example.com:587 (STARTTLS) or smtps://…:465"
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(wanted) from error
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or not port_is_valid:
        raise ValueError(wanted)
    return str(value)


def _sender(value: object) -> str:
    wanted = 'must be one address such as noreply@example.com, or "Acme, Inc." <noreply@example.com>'
    found = getaddresses([value]) if isinstance(value, str) else []
    if len(found) != 1 or _OF_GROUPS.search(_QUOTED.sub("", str(value))):
        raise ValueError(f"{wanted}, got {value!r}")
    try:
        normalised(found[0][1])
    except InvalidEmail:
        raise ValueError(f"{wanted}, got {value!r}") from None
    return str(value)


def _templates(value: object) -> Path | None:
    """Absolute, since child processes may work elsewhere; read here, so that a mistake is found before it matters."""
    if value is None:
        return None
    folder = Path(value if isinstance(value, str) else "").absolute()
    try:
        if not isinstance(value, str) or not folder.is_dir():
            raise ValueError(f"must be the path of a folder, got {value!r}")
        for file in sorted((*folder.glob("*.txt"), *folder.glob("*.html"))):
            _check_template(file)
    except OSError as error:
        raise ValueError(f"cannot be read: {error}") from error
    return folder


def _check_template(file: Path) -> None:
    """Raises OSError."""
    try:
        Environment(autoescape=True).parse(file.read_text("utf-8-sig"))
    except (TemplateSyntaxError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise ValueError(f"{file}{line}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    smtp: Annotated[
        str | None,
        BeforeValidator(lambda value: None if value is None else _smtp_url(value)),
        Kind("`smtp(s)://` URL"),
        about("Server that sends e-mail; without one, e-mail goes to the log."),
    ] = field(default=None, repr=False)
    sender: Annotated[
        str,
        BeforeValidator(_sender),
        Kind("address, such as `Acme <noreply@example.com>`"),
        about("Address that e-mail is sent from; one without a name has `portal.name`.", key="from"),
    ] = "gateway@localhost"
    templates: Annotated[
        Path | None,
        BeforeValidator(_templates),
        Kind("path of a folder"),
        about("Templates of yours, which come before those of the product (docs/mail.md)."),
    ] = None


# What customers get mails about besides their account and their credits; `policies/billing/news.py` says when.
BillingMail = Literal[
    "invoice.issued",
    "payment.received",
    "payment.failed",
    "payment.refunded",
    "subscription.changed",
    "subscription.price_changed",
    "subscription.terms_changed",
    "subscription.cancelled",
    "subscription.continued",
    "subscription.ended",
    "subscription.access_ends",
    "subscription.trial_ends",
    "subscription.renews",
    "subscription.paid_twice",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notices:
    webhook_url: Annotated[
        Url | None, about("URL that receives events of users, signed by `GATEWAY_WEBHOOK_SECRET`.")
    ] = None
    without_mail: Annotated[
        tuple[BillingMail, ...],
        about("Events of billing that customers get no mail about, such as those that the payment provider mails."),
    ] = ()
