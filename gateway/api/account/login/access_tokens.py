"""Access tokens: signed, short-lived, good for the account API alone. Whose session they are of is looked up each time.

So a logout, a new password, a suspension count from the very next request on, and a token is no more than a pointer.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import jwt

from gateway.api.account.schemas import TokenPair
from gateway.clock import now
from policies.access.tokens import Purpose, derive

ALGORITHM = "HS256"  # the only one: a token that names another is none of ours (CVE-2022-29217)
ISSUER = "gateway"
AUDIENCE = "gateway:account"
# How far the clocks of two gateways may be apart.
LEEWAY = timedelta(seconds=10)
_REQUIRED = ["iss", "aud", "exp", "iat", "jti", "sub", "sid"]


class AccessTokens:
    """Issues and reads access tokens, under a key derived from `secret`."""

    def __init__(self, secret: str, *, lifetime: timedelta) -> None:
        self._lifetime = lifetime
        self._key = derive(secret, Purpose.ACCESS)

    def issue(self, user_id: UUID, session_id: UUID) -> str:
        issued_at = now()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "sid": str(session_id),
            "jti": uuid4().hex,
            "iat": issued_at,
            "exp": issued_at + self._lifetime,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def pair(self, user_id: UUID, session_id: UUID, *, refresh_token: str) -> TokenPair:
        """The tokens of a session, as a login gives them."""
        seconds = int(self._lifetime.total_seconds())
        return TokenPair(access_token=self.issue(user_id, session_id), refresh_token=refresh_token, expires_in=seconds)

    def read(self, token: str) -> UUID | None:
        """The session of a valid token, else None."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY,
                options={"require": _REQUIRED},
            )
            return UUID(claims["sid"])
        except (jwt.InvalidTokenError, ValueError, AttributeError):
            return None
