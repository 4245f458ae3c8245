"""Links to one invoice that need no header, so that browsers and mails can open them; they are good for a while.

A link names invoice, owner and end, under a key derived from the secret of access tokens.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import jwt

from gateway.api.account.login.access_tokens import ALGORITHM, ISSUER
from gateway.clock import now
from policies.access.tokens import Purpose, derive

LIFETIME = timedelta(minutes=15)
_AUDIENCE = "gateway:invoice"
_PATH = re.compile(r"/me/invoices/([0-9A-Fa-f-]{36})/(?:html|pdf)")
_REQUIRED = ["iss", "aud", "exp", "sub", "invoice"]


class LinkHolder(NamedTuple):
    """Who has a link to one invoice of the user `id`."""

    id: UUID
    invoice_id: UUID


def token_for(secret: str, user_id: UUID, invoice_id: UUID) -> tuple[str, datetime]:
    """The token of a link, and its end."""
    ends_at = now() + LIFETIME
    claims = {"iss": ISSUER, "aud": _AUDIENCE, "sub": str(user_id), "invoice": str(invoice_id), "exp": ends_at}
    return jwt.encode(claims, derive(secret, Purpose.INVOICE), algorithm=ALGORITHM), ends_at


def holder(secret: str, path: str, token: str) -> LinkHolder | None:
    """Whom a link is of, if it is one to this very path and not over."""
    matched = _PATH.fullmatch(path)
    if matched is None:
        return None
    try:
        claims = jwt.decode(
            token,
            derive(secret, Purpose.INVOICE),
            algorithms=[ALGORITHM],
            audience=_AUDIENCE,
            issuer=ISSUER,
            options={"require": _REQUIRED},
        )
        found = LinkHolder(UUID(claims["sub"]), UUID(claims["invoice"]))
        return found if found.invoice_id == UUID(matched[1]) else None
    except (jwt.InvalidTokenError, ValueError, AttributeError):
        return None
