"""Cookies of the pages: signed values under names that no other site can set.

`__Host-` cookies need https (RFC 6265bis section 4.1.3.2). A browser on the same machine that speaks plain HTTP to a
loopback address gets them without prefix and `Secure`, for nobody is in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import jwt
from starlette.requests import Request
from starlette.responses import Response

from gateway.clock import now
from policies.access.tokens import Purpose, derive

_ALGORITHM = "HS256"
_PREFIX = "__Host-"


class CookieSigner:
    """Signs values for one audience each, so that no cookie passes for another or for an access token."""

    def __init__(self, secret: str) -> None:
        self.key = derive(secret, Purpose.PAGES)

    def sign(self, audience: str, claims: Mapping[str, Any], *, lifetime: timedelta) -> str:
        issued_at = now()
        more = {"aud": audience, "iat": issued_at, "exp": issued_at + lifetime}
        return jwt.encode({**claims, **more}, self.key, algorithm=_ALGORITHM)

    def read(self, audience: str, value: str | None) -> dict[str, Any] | None:
        """The claims of a value that is good still, else None."""
        try:
            options: Any = {"require": ["aud", "iat", "exp"]}
            found: dict[str, Any] = jwt.decode(
                value or "", self.key, algorithms=[_ALGORITHM], audience=audience, options=options
            )
        except jwt.InvalidTokenError:
            return None
        return found


class Cookies:
    """The cookies of a request, and the changes that its response makes to them."""

    def __init__(self, request: Request) -> None:
        self._sent = request.cookies
        self.are_secure = request.url.scheme == "https" or not is_loopback(request.headers.get("host", ""))
        self._changes: dict[str, tuple[str, int | None]] = {}

    def get(self, name: str) -> str | None:
        changed = self._changes.get(name)
        return self._sent.get(self._full(name)) if changed is None else changed[0]

    def set(self, name: str, value: str, *, max_age: timedelta | None = None) -> None:
        """Without `max_age` it ends with the browser's session."""
        self._changes[name] = (value, None if max_age is None else int(max_age.total_seconds()))

    def delete(self, name: str) -> None:
        if self._full(name) in self._sent or name in self._changes:
            self._changes[name] = ("", 0)

    def apply(self, response: Response) -> None:
        for name, (value, max_age) in self._changes.items():
            response.set_cookie(
                self._full(name), value, max_age=max_age, secure=self.are_secure, httponly=True, samesite="lax"
            )

    def _full(self, name: str) -> str:
        return _PREFIX + name if self.are_secure else name


def is_loopback(host: str) -> bool:
    """Whether a value of Host names this machine: `localhost`, or an address of the loopback."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ip_address(name).is_loopback
    except ValueError:
        return False
