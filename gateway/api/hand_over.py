"""Sessions handed over by a product with logins of its own: a link with a code that is good once, for minutes.

The code is the first refresh token of a new session, signed together with where the session leads back to. The signing
key is derived from a pepper, which the admin API and the portal both have.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

import jwt

from gateway.clock import now

LINK_LIFETIME = timedelta(minutes=5)
SESSION_LIFETIME = timedelta(hours=8)
_ALGORITHM, _AUDIENCE = "HS256", "portal:hand-over"


class HandedOver(NamedTuple):
    refresh_token: str
    return_url: str | None


class HandOverCodes:
    """Signs codes under the newest pepper, and reads those under any."""

    def __init__(self, peppers: Mapping[int, bytes]) -> None:
        self._keys = {
            version: hmac.digest(pepper, b"gateway portal hand-over\x01", "sha256")
            for version, pepper in peppers.items()
        }

    def sign(self, handed: HandedOver) -> str:
        newest = max(self._keys)
        claims = {"aud": _AUDIENCE, "exp": now() + LINK_LIFETIME, "token": handed.refresh_token}
        more = {} if handed.return_url is None else {"return_url": handed.return_url}
        return jwt.encode({**claims, **more}, self._keys[newest], algorithm=_ALGORITHM)

    def read(self, code: str) -> HandedOver | None:
        """None for a code that is forged or too old."""
        for key in self._keys.values():
            try:
                found = jwt.decode(code, key, algorithms=[_ALGORITHM], audience=_AUDIENCE, options={"require": ["exp"]})
                return HandedOver(found["token"], found.get("return_url"))
            except (jwt.InvalidTokenError, KeyError):
                continue
        return None


def expires_at() -> datetime:
    return now() + LINK_LIFETIME


def is_allowed(return_url: str, origins: tuple[str, ...]) -> bool:
    """Whether it is an absolute URL of http(s), of one of these origins where any are listed."""
    try:
        parts = urlsplit(return_url)
        _ = parts.port
    except ValueError:
        return False
    is_plain = return_url.isascii() and return_url.isprintable() and not set('\\ "<>') & set(return_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or not is_plain:
        return False
    return not origins or f"{parts.scheme}://{parts.netloc}".lower() in origins
