"""The tokens of accounts: what signs them, what is kept of them, what one that comes back is taken for."""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

# 256 bits: nobody guesses one, so a plain digest is enough to keep (unlike for passwords, which people choose).
REFRESH_BYTES = 32
_MAC_BYTES = 16


class Purpose(StrEnum):
    """What a secret is used for; each use has a key of its own, so that no token passes for another."""

    ACCESS = "access"
    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - the name of a purpose
    PERSON = "person"
    PAGES = "pages"
    INVOICE = "invoice"


class Verdict(StrEnum):
    """What a refresh token is."""

    GOOD = "good"
    REUSED = "reused"
    EXPIRED = "expired"
    REVOKED = "revoked"


class RefreshState(NamedTuple):
    """What is kept of a refresh token and of the session that it belongs to."""

    used_at: datetime | None
    revoked_at: datetime | None
    expires_at: datetime


def derive(secret: str, purpose: Purpose) -> bytes:
    """The key of one purpose (RFC 5869 section 2.3, one block): 256 bits whatever the length of the secret."""
    return hmac.digest(secret.encode(), b"gateway account " + purpose.encode() + b"\x01", "sha256")


def refresh_token(entropy: bytes) -> str:
    """A new one, of REFRESH_BYTES random bytes; the prefix lets scanners for leaked secrets find it."""
    return "gwr_" + base64.urlsafe_b64encode(entropy).decode().rstrip("=")


def digest(token: str) -> bytes:
    """What is kept of a refresh token."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def judge(state: RefreshState, now: datetime, *, reuse_window: timedelta = timedelta(0)) -> Verdict:
    """A used one that comes again was stolen, before or after (RFC 9700 section 4.14.2).

    Within `reuse_window` of its first use it is good: two tabs of one browser refreshed at once.
    """
    if state.revoked_at is not None:
        return Verdict.REVOKED
    if state.used_at is not None and now >= state.used_at + reuse_window:
        return Verdict.REUSED
    return Verdict.EXPIRED if state.expires_at <= now else Verdict.GOOD


def one_time(secret: str, purpose: Purpose, token_id: UUID) -> str:
    """The token of a row of one_time_tokens: its id and a MAC, 43 characters. Nothing that is stored yields it."""
    return base64.urlsafe_b64encode(token_id.bytes + _mac(secret, purpose, token_id)).decode().rstrip("=")


def read_one_time(secret: str, purpose: Purpose, token: str) -> UUID | None:
    """The id in a token that is ours and of this purpose, else None."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != 16 + _MAC_BYTES:
        return None
    token_id = UUID(bytes=raw[:16])
    return token_id if hmac.compare_digest(raw[16:], _mac(secret, purpose, token_id)) else None


def _mac(secret: str, purpose: Purpose, token_id: UUID) -> bytes:
    return hmac.digest(derive(secret, purpose), token_id.bytes, "sha256")[:_MAC_BYTES]
